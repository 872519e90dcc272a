/* One register tile serves every product: C (6 rows x NV vectors) += A x B, A read as broadcast scalars
 * through two strides, B a row-major panel. P V takes A = P and V as it lies; in backward scores take A = Q
 * and B a transposed panel of 64 keys, and the other products read P and dS transposed through the
 * strides of A; forward has a tile of its own for scores (attention_kernel.c). Include from *_kernel.c only. */
#ifndef ATTENTION_KERNEL_TILES_H
#define ATTENTION_KERNEL_TILES_H
#include "attention/kernel_vectors.h"
#include "attention/kernels.h"

/* Rows of a tile of the full width, and of the narrowest. */
enum { MR = 6, WIDE = 2 * MR };

/* Rows of a tile nv vectors wide: with AVX-512 about 24 sums, so that enough of them are in flight. */
INLINE size_t vector_rows(size_t nv)
{
    return WIDTH < 16 ? (size_t)MR : nv <= 2 ? (size_t)WIDE : nv == 3 ? 8 : (size_t)MR;
}

/* Size of the next part of `left`, in parts as even as can be of at most `most`. */
INLINE size_t even_part(size_t left, size_t most)
{
    const size_t parts = (left + most - 1) / most;
    return (left + parts - 1) / parts;
}

/* acc[r][v] += sum_k A[r ars + k aks] B[k b_row + vector v]. */
INLINE void multiply(const int rows, const int nv, size_t kc, const float *A, ptrdiff_t ars, ptrdiff_t aks,
                     const float *B, ptrdiff_t b_row, vf acc[WIDE][NV])
{
    /* Three pointers and two strides reach all rows: one for each would not fit the registers. */
    const float *A4 = A + 4 * ars, *A8 = A + 8 * ars;
    const ptrdiff_t ars3 = 3 * ars;
    for (size_t k = 0; k < kc; k++, B += b_row, A += aks, A4 += aks, A8 += aks) {
        vf b[NV];
        UNROLL for (int v = 0; v < nv; v++) b[v] = load(B + v * VW);
        UNROLL for (int r = 0; r < rows; r++) {
            const float *of = r < 4 ? A : r < 8 ? A4 : A8;
            const vf a = splat(of[r % 4 == 3 ? ars3 : r % 4 * ars]);
            UNROLL for (int v = 0; v < nv; v++) acc[r][v] += a * b[v];
        }
    }
}

/* C = alpha C + A B, alpha per row. */
static const float from_zero[1], as_is[1];  /* alphas of their own: C is not read; 1 */

struct product_tile {
    size_t kc;
    const float *A;
    ptrdiff_t a_row, a_k;         /* one of them is 1 */
    const float *B;
    ptrdiff_t b_row;
    float *C;
    ptrdiff_t c_row;
    const float *alpha;
};

INLINE void product_tile(const int rows, const int nv, const struct product_tile *t)
{
    vf acc[WIDE][NV];
    if (t->alpha == from_zero) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    } else if (t->alpha != as_is) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
            acc[r][v] = t->alpha[r] * load(t->C + r * t->c_row + v * VW);
    } else {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
            acc[r][v] = load(t->C + r * t->c_row + v * VW);
    }
    if (t->a_k == 1) multiply(rows, nv, t->kc, t->A, t->a_row, 1, t->B, t->b_row, acc);
    else multiply(rows, nv, t->kc, t->A, 1, t->a_k, t->B, t->b_row, acc);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
        store(t->C + r * t->c_row + v * VW, acc[r][v]);
}

/* Every tile that occurs, as a function of its own: vector_rows of them, or fewer. */
#define TILES(X, kind)                                                              \
    X(kind, 1, 1) X(kind, 2, 1) X(kind, 3, 1) X(kind, 4, 1) X(kind, 5, 1) X(kind, 6, 1) \
    X(kind, 1, 2) X(kind, 2, 2) X(kind, 3, 2) X(kind, 4, 2) X(kind, 5, 2) X(kind, 6, 2)
#if WIDTH == 16 || defined(ISA_NEON)
#define TILES_WIDE(X, kind)                                                         \
    X(kind, 1, 3) X(kind, 2, 3) X(kind, 3, 3) X(kind, 4, 3) X(kind, 5, 3) X(kind, 6, 3) \
    X(kind, 1, 4) X(kind, 2, 4) X(kind, 3, 4) X(kind, 4, 4) X(kind, 5, 4) X(kind, 6, 4)
#else
#define TILES_WIDE(X, kind)
#endif
#if WIDTH == 16
#define TILES_TALL(X, kind)                                                         \
    X(kind, 7, 1) X(kind, 8, 1) X(kind, 9, 1) X(kind, 10, 1) X(kind, 11, 1) X(kind, 12, 1) \
    X(kind, 7, 2) X(kind, 8, 2) X(kind, 9, 2) X(kind, 10, 2) X(kind, 11, 2) X(kind, 12, 2) \
    X(kind, 7, 3) X(kind, 8, 3)
#else
#define TILES_TALL(X, kind)
#endif
#define DEFINE_TILE(kind, R, V) \
    static __attribute__((noinline)) void kind##_##R##_##V(const struct kind *t) { kind(R, V, t); }
#define NAME_TILE(kind, R, V) [R][V] = kind##_##R##_##V,

TILES(DEFINE_TILE, product_tile) TILES_WIDE(DEFINE_TILE, product_tile) TILES_TALL(DEFINE_TILE, product_tile)

static void (*const product_tiles[WIDE + 1][NV + 1])(const struct product_tile *) = {
    TILES(NAME_TILE, product_tile) TILES_WIDE(NAME_TILE, product_tile) TILES_TALL(NAME_TILE, product_tile)
};

/* Rows per tile for an output of `cols` (a multiple of 16) columns, whose tiles are as wide as each other. */
INLINE size_t tile_rows(size_t cols) { return vector_rows(even_part(cols / VW, NV)); }

/* One group of rows (at most tile_rows(cols)) against all columns. */
static void product_group(size_t rows, size_t cols, size_t kc, const float *A, ptrdiff_t a_row, ptrdiff_t a_k,
                          const float *B, ptrdiff_t b_row, float *C, ptrdiff_t c_row, const float *alpha)
{
    size_t nv;
    for (size_t c = 0; c < cols; c += nv * VW) {
        const struct product_tile t = { kc, A, a_row, a_k, B + c, b_row, C + c, c_row, alpha };
        nv = even_part((cols - c) / VW, NV);
        product_tiles[rows][nv](&t);
    }
}

/* C (rows, cols) += A B, or = with from_zero. */
static __attribute__((unused)) void product(size_t rows, size_t cols, size_t kc, const float *A, ptrdiff_t a_row,
                                            ptrdiff_t a_k,
                    const float *B, ptrdiff_t b_row, float *C, ptrdiff_t c_row, const float *alpha)
{
    const size_t step = tile_rows(cols);
    for (size_t r = 0; r < rows; r += step)
        product_group(least(step, rows - r), cols, kc, A + (ptrdiff_t)r * a_row, a_row, a_k, B, b_row,
                      C + (ptrdiff_t)r * c_row, c_row, alpha);
}

/* Whether rows lie so near each other that they can be read in place, number by number. */
INLINE int rows_near(size_t head_dim, ptrdiff_t row) { return row >= 0 && (size_t)row <= 2 * head_dim; }

/* The same for whole vectors. */
INLINE int rows_usable(size_t head_dim, ptrdiff_t row) { return head_dim % 16 == 0 && rows_near(head_dim, row); }

#endif
