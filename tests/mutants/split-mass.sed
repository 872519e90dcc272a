# a denominator of odd degree in split
# file: attention/feature_polynomial.c
# runs: score_centring attention_error
# tests: test_feature
s/spec->family == FEATURE_SPLIT \&\& j == degree ? 0.0 : value\[j\]/value[j]/
