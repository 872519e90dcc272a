# the output normalised by the root of m
# file: theory/prefix_descent.c
# runs: training_laziness training_dynamics training_contraction real_layer_training
# tests: test_prefix_descent
s/const double m = (double)p->prefix_len;/const double m = sqrt((double)p->prefix_len);/
