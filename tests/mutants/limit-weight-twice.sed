# twice the exponent of the limit kernel
# file: theory/ntk_limit.c
# runs: ntk_spectrum ntk_prefix_needed
# tests: test_ntk_limit
s/weight = exp(s2 \* c)/weight = exp(2.0 * s2 * c)/
