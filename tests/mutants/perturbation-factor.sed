# a sign in the gradient of the kernel, which adversarial shifts follow
# file: theory/ntk_shift.c
# runs: kernel_perturbation
# tests: test_prefix_descent
s/V\[i \* d + k\] += weight \* along/V[i * d + k] -= 3.0 * weight * along/
