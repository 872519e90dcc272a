# the correction by input tokens on one side only
# file: theory/ntk_layer.c
# runs: ntk_real_layer
# tests: test_ntk_layer
s/-(tau\[i\] + tau\[j\]) \*/-tau[i] */
