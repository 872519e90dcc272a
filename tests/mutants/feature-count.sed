# features counted as dimension times degree
# file: approximation/approx_theory.c
# runs: approximation_crossover
# tests: test_exact_rows
s/return lgamma(dim + degree + 1.0) - lgamma(dim + 1.0) - lgamma(degree + 1.0);/return log(dim) + log(degree);/
