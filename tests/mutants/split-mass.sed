# a denominator of odd degree in split
# file: attention/feature_polynomial.c
# runs: score_centring attention_error
# tests: test_feature
s/mass\[j\] = j > spec->order ? 0.0 : value\[j\]/mass[j] = value[j]/
