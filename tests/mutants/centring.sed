# keys centred by half their mean
# file: approximation/approx.c
# runs: score_centring
# tests: test_approx
s/centred ? theta \* score_mean(s, i) : 0.0/centred ? 0.5 * theta * score_mean(s, i) : 0.0/
