# the limit of the full kernel in place of that of the key kernel
# file: theory/ntk_limit.c
# runs: prefix_scaling training_contraction ntk_spectrum
# tests: test_ntk_limit
s/kernel == NTK_FULL ? 1.0 : 0.0/kernel == NTK_FULL ? 1.0 : 1.0/
