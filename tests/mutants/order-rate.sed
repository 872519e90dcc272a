# a tenth of the bound as the order of the degree
# file: approximation/approx_theory.c
# runs: polynomial_degree
# tests: test_exact_rows
s/return fmax(b, log_inv_eps \/ log(log_inv_eps \/ b));/return 0.1 * b;/
