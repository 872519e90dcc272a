#include "theory/prefix_pass_kernel.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "common/vmath.h"

/* LANES doubles per vector; a score tile is SCORE_ROWS x SCORE_VECS vectors, a sum
 * tile rows x vectors as sum_tile chooses. */
#if defined(ISA_AVX512)
enum { SCORE_VECS = 4, SCORE_ROWS = 6 };
#elif defined(ISA_AVX2)
enum { SCORE_VECS = 2, SCORE_ROWS = 6 };
#elif defined(ISA_NEON)
enum { SCORE_VECS = 4, SCORE_ROWS = 6 };
#else
enum { SCORE_VECS = 2, SCORE_ROWS = 4 };
#endif
enum { LANES = VMATH_LANES, GROUP = SCORE_VECS * LANES };
typedef vdouble vec;

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const double *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(double *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec splat(double x) { return x - (vec){0}; }

/* acc[q][v] = sum_k A[q, k] B[k, v]: `rows` rows of A (stride lda, element stride
 * inc), SCORE_VECS vectors of B (stride PASS_TOKENS), over `len` terms. */
INLINE void tile(const int rows, size_t len, const double *A, size_t lda, size_t inc,
                 const double *B, vec acc[SCORE_ROWS][SCORE_VECS])
{
    for (size_t k = 0; k < len; k++) {
        vec b[SCORE_VECS];
#pragma GCC unroll 8
        for (int v = 0; v < SCORE_VECS; v++) b[v] = load(B + k * PASS_TOKENS + v * LANES);
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++) {
            const vec a = splat(A[q * lda + k * inc]);
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++) acc[q][v] += a * b[v];
        }
    }
}

INLINE double lane_max(vec x)
{
    double best = x[0];
    for (int l = 1; l < LANES; l++) best = x[l] > best ? x[l] : best;
    return best;
}

INLINE double lane_sum(vec x)
{
    double s = x[0];
    for (int l = 1; l < LANES; l++) s += x[l];
    return s;
}

INLINE void score_rows(const int rows, size_t dim, const double *X, const double *wt,
                       const double *bias, double *weights)
{
    for (int g = 0; g < PASS_TOKENS; g += GROUP) {
        vec acc[SCORE_ROWS][SCORE_VECS];
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++) acc[q][v] = load(bias + g + v * LANES);
        tile(rows, dim, X, dim, 1, wt + g, acc);
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++)
                store(weights + q * PASS_TOKENS + g + v * LANES, acc[q][v]);
    }
}

/* sum[q] += sum_r weights[q, r] rows[r] for `rows` samples and `vecs` vectors of columns. */
INLINE void sum_tile(const int rows, const int vecs, size_t dim_pad, const double *weights,
                     const double *tokens, double *sum)
{
    vec acc[12][4];
#pragma GCC unroll 12
    for (int q = 0; q < rows; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) acc[q][v] = load(sum + q * dim_pad + v * LANES);
    for (int r = 0; r < PASS_TOKENS; r++) {
        vec b[4];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) b[v] = load(tokens + r * dim_pad + v * LANES);
#pragma GCC unroll 12
        for (int q = 0; q < rows; q++) {
            const vec a = splat(weights[q * PASS_TOKENS + r]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; v++) acc[q][v] += a * b[v];
        }
    }
#pragma GCC unroll 12
    for (int q = 0; q < rows; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; v++) store(sum + q * dim_pad + v * LANES, acc[q][v]);
}

INLINE void sum_columns(const int many, const int vecs, size_t n, size_t dim_pad,
                        const double *weights, const double *tokens, double *sum)
{
    size_t i = 0;
    for (; i + many <= n; i += many)
        sum_tile(many, vecs, dim_pad, weights + i * PASS_TOKENS, tokens, sum + i * dim_pad);
    for (; i + 4 <= n; i += 4)
        sum_tile(4, vecs, dim_pad, weights + i * PASS_TOKENS, tokens, sum + i * dim_pad);
    for (; i < n; i++)
        sum_tile(1, vecs, dim_pad, weights + i * PASS_TOKENS, tokens, sum + i * dim_pad);
}

INLINE void sum_all(size_t n, size_t dim_pad, const double *weights, const double *rows, double *sum)
{
    size_t k = 0;
#if defined(ISA_AVX512) || defined(ISA_NEON)
    for (; k + 4 * LANES <= dim_pad; k += 4 * LANES)
        sum_columns(6, 4, n, dim_pad, weights, rows + k, sum + k);
    for (; k + 2 * LANES <= dim_pad; k += 2 * LANES)
        sum_columns(12, 2, n, dim_pad, weights, rows + k, sum + k);
    for (; k < dim_pad; k += LANES)
        sum_columns(12, 1, n, dim_pad, weights, rows + k, sum + k);
#else
    for (; k + 2 * LANES <= dim_pad; k += 2 * LANES)
        sum_columns(6, 2, n, dim_pad, weights, rows + k, sum + k);
    for (; k < dim_pad; k += LANES)
        sum_columns(8, 1, n, dim_pad, weights, rows + k, sum + k);
#endif
}

void ISA_NAME(pass_accumulate)(const struct pass_sums *b)
{
    const size_t n = b->n, dim = b->dim, dim_pad = b->dim_pad;
    const double *X = b->X, *wt = b->wt, *bias = b->bias;
    double *weights = b->weights, *top = b->top, *mass = b->mass, *sum = b->sum;
    size_t i = 0;
    for (; i + SCORE_ROWS <= n; i += SCORE_ROWS)
        score_rows(SCORE_ROWS, dim, X + i * dim, wt, bias, weights + i * PASS_TOKENS);
    for (; i + 2 <= n; i += 2)
        score_rows(2, dim, X + i * dim, wt, bias, weights + i * PASS_TOKENS);
    for (; i < n; i++)
        score_rows(1, dim, X + i * dim, wt, bias, weights + i * PASS_TOKENS);

    for (i = 0; i < n; i++) {
        double *w = weights + i * PASS_TOKENS;
        vec best = load(w);
#pragma GCC unroll 16
        for (int v = LANES; v < PASS_TOKENS; v += LANES) best = vmath_max(load(w + v), best);
        const double here = lane_max(best);
        /* A NaN score fails this comparison, stays in the weights and shows in the mass. */
        if (here > top[i]) {
            const double shrink = exp(top[i] - here);
            mass[i] *= shrink;
            for (size_t k = 0; k < dim_pad; k++) sum[i * dim_pad + k] *= shrink;
            top[i] = here;
        }
        const vec shift = splat(top[i]);
        vec total = {0};
#pragma GCC unroll 16
        for (int v = 0; v < PASS_TOKENS; v += LANES) {
            const vec e = vmath_exp(load(w + v) - shift);
            store(w + v, e);
            total += e;
        }
        mass[i] += lane_sum(total);
    }

    sum_all(n, dim_pad, weights, b->rows, sum);
}

INLINE void shifted_rows(const int rows, size_t dim, const double *X, const double *wt, const double *bias,
                         const double *shift, double *weights, double *mass)
{
    for (int g = 0; g < PASS_TOKENS; g += GROUP) {
        vec acc[SCORE_ROWS][SCORE_VECS];
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++) acc[q][v] = load(bias + g + v * LANES) - splat(shift[q]);
        tile(rows, dim, X, dim, 1, wt + g, acc);
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++) {
            vec total = load(mass + q * PASS_PAD);
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++) {
                const vec e = vmath_exp(acc[q][v]);
                store(weights + q * PASS_TOKENS + g + v * LANES, e);
                total += e;
            }
            store(mass + q * PASS_PAD, total);
        }
    }
}

void ISA_NAME(pass_accumulate_shifted)(const struct pass_sums *b)
{
    const size_t n = b->n, dim = b->dim;
    const double *X = b->X, *wt = b->wt, *bias = b->bias, *shift = b->shift;
    double *weights = b->weights, *mass = b->mass;
    size_t i = 0;
    for (; i + SCORE_ROWS <= n; i += SCORE_ROWS)
        shifted_rows(SCORE_ROWS, dim, X + i * dim, wt, bias, shift + i, weights + i * PASS_TOKENS, mass + i * PASS_PAD);
    for (; i + 2 <= n; i += 2)
        shifted_rows(2, dim, X + i * dim, wt, bias, shift + i, weights + i * PASS_TOKENS, mass + i * PASS_PAD);
    for (; i < n; i++)
        shifted_rows(1, dim, X + i * dim, wt, bias, shift + i, weights + i * PASS_TOKENS, mass + i * PASS_PAD);
    sum_all(n, b->dim_pad, weights, b->rows, b->sum);
}

/* Coefficients of x_i and R_i for `samples` samples: the scores and the <R_i, w_r>
 * come from one tile, since the rows of XR alternate. */
INLINE void coeff_rows(const int samples, size_t dim, const double *XR, const double *offset,
                       const double *c, const double *wt, const double *signs, double *coeff)
{
    for (int g = 0; g < PASS_TOKENS; g += GROUP) {
        vec acc[SCORE_ROWS][SCORE_VECS];
#pragma GCC unroll 8
        for (int q = 0; q < 2 * samples; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++) acc[q][v] = (vec){0};
        tile(2 * samples, dim, XR, dim, 1, wt + g, acc);
#pragma GCC unroll 4
        for (int q = 0; q < samples; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++) {
                const vec a = load(signs + g + v * LANES);
                const vec p = vmath_exp(acc[2 * q][v] - splat(offset[q]));
                double *to = coeff + 2 * q * PASS_TOKENS + g + v * LANES;
                store(to, p * (a * acc[2 * q + 1][v] - splat(c[q])));
                store(to + PASS_TOKENS, a * p);
            }
    }
}

INLINE void gradient_rows(const int rows, const int fresh, size_t len, size_t dim, const double *XR,
                          const double *coeff, double *dwt)
{
    for (int g = 0; g < PASS_TOKENS; g += GROUP) {
        vec acc[SCORE_ROWS][SCORE_VECS];
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++)
                acc[q][v] = fresh ? (vec){ 0 } : load(dwt + q * PASS_TOKENS + g + v * LANES);
        tile(rows, len, XR, 1, dim, coeff + g, acc);
#pragma GCC unroll 8
        for (int q = 0; q < rows; q++)
#pragma GCC unroll 8
            for (int v = 0; v < SCORE_VECS; v++)
                store(dwt + q * PASS_TOKENS + g + v * LANES, acc[q][v]);
    }
}

/* dwt = (fresh) or += sum_j XR[j, k] coeff[j, r]. */
INLINE void gradient_all(const int fresh, size_t len, size_t dim, const double *XR, const double *coeff, double *dwt)
{
    size_t k = 0;
    for (; k + SCORE_ROWS <= dim; k += SCORE_ROWS)
        gradient_rows(SCORE_ROWS, fresh, len, dim, XR + k, coeff, dwt + k * PASS_TOKENS);
    for (; k + 2 <= dim; k += 2)
        gradient_rows(2, fresh, len, dim, XR + k, coeff, dwt + k * PASS_TOKENS);
    for (; k < dim; k++)
        gradient_rows(1, fresh, len, dim, XR + k, coeff, dwt + k * PASS_TOKENS);
}

void ISA_NAME(pass_gradient)(const struct pass_gradient *b)
{
    const size_t n = b->n, dim = b->dim;
    const double *XR = b->XR, *offset = b->offset, *c = b->c, *wt = b->wt, *signs = b->signs;
    double *coeff = b->coeff, *dwt = b->dwt;
    for (size_t first = 0; first < n; first += PASS_SAMPLES) {
        const size_t count = n - first < PASS_SAMPLES ? n - first : PASS_SAMPLES;
        const double *xr = XR + 2 * first * dim;
        size_t i = 0;
        for (; i + SCORE_ROWS / 2 <= count; i += SCORE_ROWS / 2)
            coeff_rows(SCORE_ROWS / 2, dim, xr + 2 * i * dim, offset + first + i, c + first + i,
                       wt, signs, coeff + 2 * i * PASS_TOKENS);
        for (; i < count; i++)
            coeff_rows(1, dim, xr + 2 * i * dim, offset + first + i, c + first + i,
                       wt, signs, coeff + 2 * i * PASS_TOKENS);
        gradient_all(first == 0, 2 * count, dim, xr, coeff, dwt);
    }
}

/* The LANES x LANES matrix of v, transposed in place: stage by stage the blocks of size s off the
 * diagonal change places. The lists of lanes are constants, as GCC and Clang both want them. */
#define LIST(...) __VA_ARGS__
#define EXCHANGE(s, low, high)                                      \
    _Pragma("GCC unroll 8") for (int i = 0; i < LANES; i++) {       \
        if (i & (s)) continue;                                      \
        const vec a = v[i], b = v[i + (s)];                         \
        v[i] = __builtin_shufflevector(a, b, LIST low);             \
        v[i + (s)] = __builtin_shufflevector(a, b, LIST high);      \
    }

INLINE void transpose(vec v[LANES])
{
#if VMATH_LANES == 8
    EXCHANGE(1, (0, 8, 2, 10, 4, 12, 6, 14), (1, 9, 3, 11, 5, 13, 7, 15))
    EXCHANGE(2, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15))
    EXCHANGE(4, (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
#elif VMATH_LANES == 4
    EXCHANGE(1, (0, 4, 2, 6), (1, 5, 3, 7))
    EXCHANGE(2, (0, 1, 4, 5), (2, 3, 6, 7))
#else
    EXCHANGE(1, (0, 2), (1, 3))
#endif
}

void ISA_NAME(pass_load)(size_t dim, size_t dim_pad, const double *W, size_t ld, const double *signs,
                         double *wt, double *rows)
{
    size_t k = 0;
    for (; k + LANES <= dim; k += LANES)
        for (int r = 0; r < PASS_TOKENS; r += LANES) {
            vec v[LANES];
#pragma GCC unroll 8
            for (int l = 0; l < LANES; l++) {
                v[l] = load(W + (r + l) * ld + k);
                store(rows + (r + l) * dim_pad + k, splat(signs[r + l]) * v[l]);
            }
            transpose(v);
#pragma GCC unroll 8
            for (int l = 0; l < LANES; l++) store(wt + (k + l) * PASS_TOKENS + r, v[l]);
        }
    for (; k < dim; k++)
        for (int r = 0; r < PASS_TOKENS; r++) {
            wt[k * PASS_TOKENS + r] = W[r * ld + k];
            rows[r * dim_pad + k] = signs[r] * W[r * ld + k];
        }
}

void ISA_NAME(pass_update)(size_t dim, size_t dim_pad, double step_size, const double *dwt, const double *signs,
                           double *wt, double *W, size_t ld, double *rows)
{
    const vec eta = splat(step_size);
    size_t k = 0;
    for (; k + LANES <= dim; k += LANES)
        for (int r = 0; r < PASS_TOKENS; r += LANES) {
            vec v[LANES];
#pragma GCC unroll 8
            for (int l = 0; l < LANES; l++) {
                double *at = wt + (k + l) * PASS_TOKENS + r;
                v[l] = load(at) - eta * load(dwt + (k + l) * PASS_TOKENS + r);
                store(at, v[l]);
            }
            transpose(v);
#pragma GCC unroll 8
            for (int l = 0; l < LANES; l++) {
                store(W + (r + l) * ld + k, v[l]);
                store(rows + (r + l) * dim_pad + k, splat(signs[r + l]) * v[l]);
            }
        }
    for (; k < dim; k++)
        for (int r = 0; r < PASS_TOKENS; r++) {
            double *at = wt + k * PASS_TOKENS + r;
            *at -= step_size * dwt[k * PASS_TOKENS + r];
            W[r * ld + k] = *at;
            rows[r * dim_pad + k] = signs[r] * *at;
        }
}

void ISA_NAME(pass_exp)(const double *x, double *out, size_t n)
{
    for (size_t i = 0; i < n; i += LANES) store(out + i, vmath_exp(load(x + i)));
}
