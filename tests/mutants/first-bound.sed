# the first bound a hundred times too small
# file: experiments/approximation/error_bound.c
# runs: error_bound
# tests: test_exact_rows
s/error \/ (2.0 \* eps \* rho/error \/ (0.02 * eps * rho/
