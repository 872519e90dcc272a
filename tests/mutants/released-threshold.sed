# rows that rounding alone makes wrong
# file: experiments/approximation/released_kernel.c
# runs: released_kernel
# tests: test_exact_rows
s/WRONG = 1e-2;/WRONG = 1e-9;/
