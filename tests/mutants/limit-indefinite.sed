# absolute products in the limit kernel, which is then indefinite
# file: theory/ntk_limit.c
# runs: ntk_spectrum
# tests: test_ntk_limit
s/c += x\[k\] \* y\[k\];/c += fabs(x[k] * y[k]);/
