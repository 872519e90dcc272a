# the input left in what Z is fitted to
# file: approximation/approx_fit.c
# runs: attention_error_trained low_rank_summary
# tests: test_approx
s/B\[i \* dim + j\] = na \* ua + np \* up - na \* ud;/B[i * dim + j] = na * ua + np * up;/
