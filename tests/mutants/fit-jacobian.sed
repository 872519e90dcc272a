# a Jacobian without the value path in Levenberg-Marquardt
# file: theory/prefix_fit.c
# runs: prefix_threshold
# tests: 
s/fit->X, NTK_FULL, \&rows.matrix/fit->X, NTK_KEY, \&rows.matrix/
