# a slope of 1 at 0 for the absolute value
# file: approximation/approx_fit.c
# runs: released_kernel
# tests: test_approx
s/(theta\[j\] > 0.0) - (theta\[j\] < 0.0);/(theta[j] >= 0.0) - (theta[j] < 0.0);/
