/* Passes over rows of float32 numbers, one set per instruction set.
 *
 * Arrays (rows, n) with row strides in numbers; `stats` (rows, 2) holds mean and 1/sqrt(variance + eps) of each
 * row. Values where a comment says "relative" keep that accuracy into the tails. */
#ifndef TRANSFORMER_OPS_KERNEL_H
#define TRANSFORMER_OPS_KERNEL_H
#include <stddef.h>

#include "common/isa.h"

struct ops_kernels {
    /* y += bias */
    void (*add_bias)(size_t rows, size_t n, const float *bias, float *y, size_t ld);
    /* y = GELU(y + bias), u = y + bias: GELU(u) = u Phi(u), Phi the standard normal distribution function, relative
     * error 3e-7 + u^2 2^-24 (the exponential's argument is rounded); below u = -13 absolute, 1e-36. slope (may be
     * NULL) = Phi(u) + u Phi'(u), of the stride of y, absolute error 3e-7. */
    void (*bias_gelu)(size_t rows, size_t n, const float *bias, float *y, float *slope, size_t ld);
    /* branch = y + bias (kept when `branch` is not NULL), y = residual + scale * branch; scale NULL: 1. No gaps. */
    void (*bias_residual)(size_t rows, size_t n, const float *bias, const float *scale, const float *residual,
                          float *branch, float *y);
    /* y = a * scale by columns; y may be a. No gaps. */
    void (*scale_columns)(size_t rows, size_t n, const float *scale, const float *a, float *y);
    /* y *= a over n numbers. */
    void (*multiply)(size_t n, const float *a, float *y);
    /* y += a over n numbers. */
    void (*add)(size_t n, const float *a, float *y);
    /* y = (x - mean) / sqrt(var + eps) * weight + bias; stats may be NULL. No gaps; y may be x. Two passes: the
     * variance is that of x - mean. */
    void (*norm)(size_t rows, size_t n, float eps, const float *x, const float *weight, const float *bias, float *y,
                 float *stats);
    /* dx = rstd (g - mean(g) - xhat mean(g xhat)), g = weight * dy, xhat = (x - mean) rstd; plus `add` unless NULL.
     * dx may be dy or add. No gaps. */
    void (*norm_backward)(size_t rows, size_t n, const float *x, const float *stats, const float *weight,
                          const float *dy, const float *add, float *dx);
    /* d_bias[c] = sum_r dy[r, c], d_weight[c] = sum_r dy[r, c] xhat[r, c] for n columns of arrays of stride ld, rows
     * in order. */
    void (*norm_columns)(size_t rows, size_t n, size_t ld, const float *x, const float *stats, const float *dy,
                         float *d_weight, float *d_bias);
    /* sum[c] = sum_r a[r, c] (b[r, c] when b is not NULL). */
    void (*sum_columns)(size_t rows, size_t n, size_t ld, const float *a, const float *b, float *sum);
    /* p[j] = exp(s[j] - max s) and their sum, for n numbers in place; returns the sum. */
    float (*exp_row)(size_t n, float max, float *s);
};

extern const struct ops_kernels ops_kernels_portable;
#if defined(__x86_64__)
extern const struct ops_kernels ops_kernels_avx2, ops_kernels_avx512;
#elif defined(__aarch64__)
extern const struct ops_kernels ops_kernels_neon;
#endif

#endif
