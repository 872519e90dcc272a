# Taylor coefficients of the wrong factorial
# file: attention/feature_taylor.c
# runs: attention_error gaussian_prefix_limit ntk_features score_centring error_bound
# tests: test_feature
s/c\[j\] = c\[j - 1\] \/ (long double)j;/c[j] = c[j - 1] \/ (long double)(j + 1);/
