# scores in place of their exponentials
# file: experiments/approximation/summary_capacity.c
# runs: summary_capacity
# tests: test_exact_rows
s/phi\[i \* size + j\] = exp(/phi[i * size + j] = (/
