# the factor 2 of mirrored signs left out of C
# file: theory/ntk_constant.c
# runs: ntk_convergence
# tests: test_ntk_constant
s/PREFIX_SIGNS_MIRRORED ? 2.0 : 1.0/PREFIX_SIGNS_MIRRORED ? 1.0 : 1.0/
