# a sign in the gradient of the kernel, which adversarial shifts follow
# file: theory/ntk_shift.c
# runs: kernel_perturbation
# tests: test_ntk_jacobian
s/product += entry \* gsl_matrix_get(J/product -= entry * gsl_matrix_get(J/
