/* Matrix products and passes over packed rows, cut into tasks that depend on the shape only: the same bits for any
 * number of threads. Each product is one sgemm of OpenBLAS per task, at one BLAS thread. */
#ifndef TRANSFORMER_OPS_H
#define TRANSFORMER_OPS_H
#include <stddef.h>

#include "transformer/ops_kernel.h"

/* The kernels of the instruction set in use. */
const struct ops_kernels *ops_current(void);

/* What follows a product while its rows are in the cache. Fields that are NULL do nothing. */
struct epilogue {
    const float *bias;          /* y += bias */
    int gelu;                   /* y = GELU(y + bias) */
    float *slope;               /* (rows, out): GELU' */
    const float *residual;      /* y = residual + scale * (y + bias); (rows, out), y without gaps */
    const float *scale;
    float *branch;              /* (rows, out): y + bias */
};

/* y (rows, out) = x (rows, in) W^T [+ y when add] and the epilogue (NULL: none); W (out, in). */
void ops_linear(size_t rows, size_t in, size_t out, const float *x, size_t ldx, const float *W, float *y, size_t ldy,
                int add, const struct epilogue *epilogue, int num_threads);

/* dx (rows, in) = alpha dy (rows, out) W [+ dx when add], then dx *= slope (rows, in) unless NULL. */
void ops_linear_dx(size_t rows, size_t in, size_t out, float alpha, const float *dy, size_t lddy, const float *W,
                   float *dx, size_t lddx, int add, const float *slope, int num_threads);

/* dW (out, in) = alpha dy^T x. */
void ops_linear_dW(size_t rows, size_t in, size_t out, float alpha, const float *dy, size_t lddy, const float *x,
                   size_t ldx, float *dW, int num_threads);

/* sum (n) of a (rows, n), or of a * b. Stride ld. */
void ops_sum_columns(size_t rows, size_t n, size_t ld, const float *a, const float *b, float *sum, int num_threads);

/* n zeros. */
void ops_zero(size_t n, float *x, int num_threads);

/* The passes of ops_kernel.h of the same name. */
void ops_norm(size_t rows, size_t n, float eps, const float *x, const float *weight, const float *bias, float *y,
              float *stats, int num_threads);
/* d_weight, d_bias NULL: frozen. */
void ops_norm_backward(size_t rows, size_t n, const float *x, const float *stats, const float *weight, const float *dy,
                       const float *residual, float *dx, float *d_weight, float *d_bias, int num_threads);
void ops_scale_columns(size_t rows, size_t n, const float *scale, const float *a, float *y, int num_threads);

/* The pairs (x_{2i}, x_{2i+1}) of `dim` numbers by the angle whose cosine and sine are turn[2i], turn[2i+1]; back: by
 * its negative. */
void ops_turn(float *x, const float *turn, size_t dim, int back);

#endif
