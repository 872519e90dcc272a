# Taylor in place of the best polynomial
# file: attention/feature_polynomial.c
# runs: polynomial_degree
# tests: test_feature
s/else status = feature_minimax(degree, bound, c, \&level);/else { taylor(degree, c); level = 1e9L; }/
