# Adam at ten times its rate
# file: approximation/approx_fit.c
# runs: attention_error_trained attention_error_schedule attention_error_rates
# tests: test_approx
s/x\[i\] -= lr \* (m1/x[i] -= 10.0 * lr * (m1/
