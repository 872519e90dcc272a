# exact to more digits than there are
# file: experiments/approximation/summary_capacity.c
# runs: summary_capacity
# tests: test_exact_rows
s/EXACT = 1e-6;/EXACT = 1e-20;/
