# the factorial of twice the degree in Taylor's remainder
# file: approximation/approx_theory.c
# runs: approximation_crossover
# tests: test_exact_rows
s/(double)(mid + 1) \* log(b) + b - lgamma((double)mid + 2.0) > log_eps/(double)(mid + 1) * log(b) + b - lgamma(2.0 * (double)mid + 2.0) > log_eps/
