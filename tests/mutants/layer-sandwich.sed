# half the key path in the kernel of a real layer
# file: theory/ntk_layer.c
# runs: ntk_real_layer
# tests: test_ntk_layer
s/const double key = c \* /const double key = 0.5 * c * /
