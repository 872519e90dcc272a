# a factor 2 in the diagonal of the limit kernel
# file: theory/ntk_limit.c
# runs: ntk_convergence ntk_spectrum ntk_prefix_needed prefix_scaling ntk_features
# tests: test_ntk_limit
s/diagonal = kappa + s2 \* c;/diagonal = kappa + 2.0 * s2 * c;/
