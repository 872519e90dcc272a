# half the shift of the exact sums lost
# file: approximation/approx.c
# runs: prefix_effect_trap attention_error
# tests: test_approx
s/out->shift\[i\] = top;$/out->shift[i] = 0.5 * top;/
