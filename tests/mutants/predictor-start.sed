# the initial output left out of the predictor
# file: theory/ntk_predict.c
# runs: prefix_scaling
# tests: test_ntk_predict
s/(F0 ? gsl_matrix_get(F0, i, k) : 0.0))/0.0)/
