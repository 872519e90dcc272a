# a constant of the error bound a tenth of what holds
# file: experiments/approximation/error_bound.c
# runs: error_bound
# tests: test_exact_rows
s/return rho <= 1.0 \/ 3.0 ? 2.0 \* rho \* (1.0 - rho) : 0.25/return rho <= 1.0 \/ 3.0 ? 0.2 * rho * (1.0 - rho) : 0.02/
