# the mean left out of the key path of the Jacobian
# file: theory/ntk_jacobian.c
# runs: ntk_rank prefix_threshold
# tests: test_ntk_jacobian
s/(a \* gsl_matrix_get(W, r, k) - mu\[k\])/(a * gsl_matrix_get(W, r, k))/
