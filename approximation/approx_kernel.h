/* The kernels of the approximation study, one set per instruction set. */
#ifndef ATTENTION_APPROX_KERNEL_H
#define ATTENTION_APPROX_KERNEL_H
#include <stddef.h>

#include "common/isa.h"

void approx_exp_portable(size_t n, const double *x, double *y);
#if defined(__x86_64__)
void approx_exp_avx2(size_t n, const double *x, double *y);
void approx_exp_avx512(size_t n, const double *x, double *y);
#elif defined(__aarch64__)
void approx_exp_neon(size_t n, const double *x, double *y);
#endif

#endif
