# a denominator of the degree of the numerator in split
# file: approximation/study.c
# runs: score_centring
# tests: test_study
s/return feature_polynomial(&map->spec, bound, num, den, NULL);/*degree_den = *degree_num; return feature_polynomial(\&map->spec, bound, num, NULL, NULL) ? GSL_EDOM : (memcpy(den, num, (*degree_num + 1) * sizeof *den), 0);/
