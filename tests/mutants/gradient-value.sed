# a tenth too much residual in the gradient
# file: theory/prefix_model.c
# runs: prefix_gradient
# tests: test_prefix_model
s/R\[i \* d + k\] = residual;/R[i * d + k] = 1.1 * residual;/
