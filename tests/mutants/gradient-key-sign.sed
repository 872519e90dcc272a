# a sign in the key path of the gradient
# file: theory/prefix_model.c
# runs: prefix_gradient
# tests: test_prefix_model
s/c\[i\] += residual \* mu; /c[i] -= residual * mu; /
