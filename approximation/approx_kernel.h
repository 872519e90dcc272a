/* The kernels of the approximation study, one set per instruction set. */
#ifndef ATTENTION_APPROX_KERNEL_H
#define ATTENTION_APPROX_KERNEL_H
#include <stddef.h>

#include "common/isa.h"

typedef void approx_exp_fn(size_t n, const double *x, double *y);
approx_exp_fn approx_exp_portable, approx_exp_avx2, approx_exp_avx512, approx_exp_neon;

#endif
