# half the covariance of keys and values in the cumulant summary
# file: approximation/approx.c
# runs: attention_error
# tests: test_approx
s/(vbar + theta \* (m1\[j\] \/ len - c \* vbar))/(vbar + 0.5 * theta * (m1[j] \/ len - c * vbar))/
