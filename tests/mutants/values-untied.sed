# values independent of the keys where they should be tied
# file: approximation/source.c
# runs: prefix_effect_trap attention_error gaussian_prefix_limit
# tests: test_study
s/s->values == SOURCE_INDEPENDENT/s->values != SOURCE_INDEPENDENT/
