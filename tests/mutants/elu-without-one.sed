# elu without its 1 for positive arguments
# file: attention/feature_kernel_rows.h
# runs: attention_error ntk_features attention_error_trained released_kernel
# tests: test_feature
s/z + (REAL)1 : e;/z : e;/
