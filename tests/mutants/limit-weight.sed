# half the exponent of the limit kernel
# file: theory/ntk_limit.c
# runs: ntk_convergence ntk_freezing training_contraction
# tests: test_ntk_limit
s/weight = exp(s2 \* c)/weight = exp(0.5 * s2 * c)/
