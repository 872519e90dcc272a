# input tokens that weigh the root of m too much
# file: theory/ntk_layer.c
# runs: ntk_real_layer
# tests: test_ntk_layer
s/            mass += p;/            mass += r < m ? p : p * sqrt((double)m);/
