/* The arithmetic of prefix attention, one source for every instruction set.
 *
 * One register tile serves every product: C (6 rows x NV vectors) += A x B, A read as
 * broadcast scalars through two strides, B a row-major panel. Scores take A = Q and B a
 * transposed panel of 64 keys; P V takes A = P and V as it lies; the backward products
 * read P and dS transposed through the strides of A. */
#include "attention/attention_internal.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/isa.h"

#if defined(ISA_AVX512)
#include <immintrin.h>
enum { VW = 16, NV = 4 };
#define WIDTH 16
#elif defined(ISA_AVX2)
#include <immintrin.h>
enum { VW = 8, NV = 2 };
#define WIDTH 8
#elif defined(ISA_NEON)
enum { VW = 4, NV = 4 };        /* 24 sums of 32 registers */
#define WIDTH 4
#else
enum { VW = 4, NV = 2 };
#define WIDTH 4
#endif
/* Rows of a tile; narrow outputs (at most two AVX-512 vectors) take twice as many, so
 * that enough independent sums are in flight. */
enum { MR = 6, WIDE = 2 * MR, STRIP_LD = ATTN_STRIP + 16, GRAD_LD = ATTN_GRAD_KEYS + 16 };

typedef float vf __attribute__((vector_size(4 * WIDTH)));
typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));
typedef float vf_any __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf x) { *(vf_any *)p = x; }
INLINE vf splat(float x) { return x - (vf){ 0 }; }
INLINE vi splat_int(int32_t x) { return x - (vi){ 0 }; }
INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }
INLINE size_t round16(size_t n) { return (n + 15) / 16 * 16; }

/* mask (all ones or zero per lane) ? a : b. */
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

INLINE vf vmax(vf a, vf b)
{
#if defined(ISA_AVX512)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(ISA_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE vi lane_index(void)
{
    vi x;
    for (int i = 0; i < VW; i++) x[i] = i;
    return x;
}

INLINE float horizontal_sum(vf x)
{
#if defined(ISA_AVX512)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0.0f;
    for (int i = 0; i < VW; i++) sum += x[i];
    return sum;
#endif
}

INLINE float horizontal_max(vf x)
{
#if defined(ISA_AVX512)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float max = x[0];
    for (int i = 1; i < VW; i++) max = x[i] > max ? x[i] : max;
    return max;
#endif
}

/* 2^x for x up to 0 and a little above: relative error 1e-7; 0 far below, where the
 * float32 sum it enters cannot see it; NaN stays NaN, -inf gives 0. */
INLINE vf vexp2(vf x)
{
#if defined(ISA_AVX512)
    /* 2^f on [0, 1), best relative error 8.2e-8 with p(0) = 1, then 2^floor(x). */
    const vf f = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = splat(0x1.e974fa8e82295p-10f);
    p = p * f + splat(0x1.27785516df8e9p-7f);
    p = p * f + splat(0x1.c91ce6429c3fap-5f);
    p = p * f + splat(0x1.ebdb56d7f848fp-3f);
    p = p * f + splat(0x1.62e4ba8ec91e6p-1f);
    p = p * f + splat(1.0f);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    /* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
    const vf magic = splat(0x1.8p23f), n = x + magic, f = x - (n - magic);
    vf p = splat(0x1.43fffc90db59cp-13f);
    p = p * f + splat(0x1.5f48c04f62e50p-10f);
    p = p * f + splat(0x1.3b2a1b7152befp-7f);
    p = p * f + splat(0x1.c6aecc669b6ddp-5f);
    p = p * f + splat(0x1.ebfbe045f4d3cp-3f);
    p = p * f + splat(0x1.62e430d034702p-1f);
    p = p * f + splat(1.0f);
    const vi bits = (vi)p + ((vi)n << 23);
    return (vf)((bits & ~(x <= splat(-125.0f))) | (x != x));
#endif
}

INLINE vf vceil(vf x)
{
#if defined(ISA_AVX512)
    return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
#elif defined(ISA_AVX2)
    return (vf)_mm256_ceil_ps((__m256)x);
#else
    for (int i = 0; i < VW; i++) x[i] = ceilf(x[i]);
    return x;
#endif
}

/* to = by * from, n numbers; to may be from. */
INLINE void scaled(float *to, const float *from, float by, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(to + i, by * load(from + i));
    for (; i < n; i++) to[i] = by * from[i];
}

/* to += by * from. */
INLINE void add_scaled(float *to, const float *from, float by, size_t n)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(to + i, load(to + i) + by * load(from + i));
    for (; i < n; i++) to[i] += by * from[i];
}

/* Whether every number of `rows` rows of n is finite. */
static int all_finite(const float *x, ptrdiff_t row, size_t rows, size_t n)
{
    vf sum = { 0 };
    float rest = 0.0f;
    for (size_t r = 0; r < rows; r++, x += row) {
        size_t i = 0;
        for (; i + VW <= n; i += VW) sum += load(x + i) * 0.0f;
        for (; i < n; i++) rest += x[i] * 0.0f;
    }
    return horizontal_sum(sum) + rest == 0.0f;
}

/* 2^e as a float, saturating to 0 and inf. */
INLINE float power_of_two(int e)
{
    if (e < -126) return e < -149 ? 0.0f : ldexpf(1.0f, e);
    if (e > 127) return INFINITY;
    union { uint32_t bits; float value; } u = { (uint32_t)(e + 127) << 23 };
    return u.value;
}

/* ---- packing ---------------------------------------------------------------- */

#if WIDTH == 16
#define LANES(f, t) f(0, t), f(1, t), f(2, t), f(3, t), f(4, t), f(5, t), f(6, t), f(7, t), \
                      f(8, t), f(9, t), f(10, t), f(11, t), f(12, t), f(13, t), f(14, t), f(15, t)
#elif WIDTH == 8
#define LANES(f, t) f(0, t), f(1, t), f(2, t), f(3, t), f(4, t), f(5, t), f(6, t), f(7, t)
#else
#define LANES(f, t) f(0, t), f(1, t), f(2, t), f(3, t)
#endif
#define FIRST(lane, t) (((lane) & (t)) ? WIDTH + (lane) - (t) : (lane))
#define SECOND(lane, t) (((lane) & (t)) ? WIDTH + (lane) : (lane) + (t))

/* One stage exchanges the off-diagonal t x t blocks of every 2t x 2t block. */
#define STAGE(t)                                                            \
    do {                                                                    \
        UNROLL for (int i = 0; i < VW; i++)                                 \
            if (!(i & (t))) {                                               \
                const vf a = x[i], b = x[i + (t)];                          \
                x[i] = __builtin_shufflevector(a, b, LANES(FIRST, t));      \
                x[i + (t)] = __builtin_shufflevector(a, b, LANES(SECOND, t)); \
            }                                                               \
    } while (0)

INLINE void transpose_square(vf x[VW])
{
#if WIDTH == 16
    STAGE(8);
#endif
#if WIDTH >= 8
    STAGE(4);
#endif
    STAGE(2);
    STAGE(1);
}

/* to[r] = largest lane of x[r], r < rows, of the 16 numbers set; x holds 16 vectors, -inf beyond rows. */
INLINE void row_maxima(const vf *x, size_t rows, float *to)
{
#if WIDTH >= 8
/* Lanes without bit t: maxima over l and l + t of a; with it: of b. Folding x[i] with x[i + t]
 * for t = 4, 2, 1 leaves row r in the lanes that are r modulo 8. */
#define FOLD(a, b, t) \
    vmax(__builtin_shufflevector(a, b, LANES(FIRST, t)), __builtin_shufflevector(a, b, LANES(SECOND, t)))
#define FOLD_EIGHT(x) \
    FOLD(FOLD(FOLD((x)[0], (x)[4], 4), FOLD((x)[2], (x)[6], 4), 2), FOLD(FOLD((x)[1], (x)[5], 4), FOLD((x)[3], (x)[7], 4), 2), 1)
    const vf low = FOLD_EIGHT(x);
#if WIDTH == 16
    store(to, FOLD(low, rows > 8 ? FOLD_EIGHT(x + 8) : low, 8));
#else
    (void)rows;
    store(to, low);
#endif
#undef FOLD
#undef FOLD_EIGHT
#else
    for (size_t r = 0; r < 16; r++) to[r] = r < rows ? horizontal_max(x[r]) : -INFINITY;
#endif
}

/* Rows 0..len-1 of x as panels of 64: panel p is (head_dim, 64), entry (c, j) is
 * x[64 p + j][c]; 0 beyond len. */
void ISA_NAME(attn_pack_panels)(const float *x, ptrdiff_t row, size_t len, size_t head_dim, float *panels)
{
    float square[VW * VW];
    for (size_t j = 0; j < attn_panels(len) * ATTN_PANEL; j += VW) {
        float *to = panels + j / ATTN_PANEL * ATTN_PANEL * head_dim + j % ATTN_PANEL;
        const size_t keys = j < len ? least(VW, len - j) : 0;
        for (size_t c = 0; c < head_dim; c += VW) {
            const size_t cols = least(VW, head_dim - c);
            vf block[VW];
            if (keys == VW && cols == VW) {
                UNROLL for (int i = 0; i < VW; i++) block[i] = load(x + (ptrdiff_t)(j + i) * row + c);
            } else {
                memset(square, 0, sizeof square);
                for (size_t i = 0; i < keys; i++)
                    memcpy(square + i * VW, x + (ptrdiff_t)(j + i) * row + c, cols * sizeof *square);
                UNROLL for (int i = 0; i < VW; i++) block[i] = load(square + i * VW);
            }
            transpose_square(block);
            if (cols == VW) {
                UNROLL for (int i = 0; i < VW; i++) store(to + (c + i) * ATTN_PANEL, block[i]);
            } else {
                UNROLL for (int i = 0; i < VW; i++) store(square + i * VW, block[i]);
                for (size_t i = 0; i < cols; i++) store(to + (c + i) * ATTN_PANEL, load(square + i * VW));
            }
        }
    }
}

/* Rows padded with zeros to a multiple of 16 columns. */
void ISA_NAME(attn_pack_rows)(const float *x, ptrdiff_t row, size_t len, size_t head_dim, float *rows)
{
    const size_t padded = attn_padded(head_dim);
    for (size_t j = 0; j < len; j++) {
        const float *from = x + (ptrdiff_t)j * row;
        float *to = rows + j * padded;
        memcpy(to, from, head_dim * sizeof *to);
        for (size_t c = head_dim; c < padded; c++) to[c] = 0.0f;
    }
}

/* ---- register tiles -------------------------------------------------------------- */

/* acc[r][v] += sum_k A[r ars + k aks] B[k b_row + vector v]. */
INLINE void multiply(const int rows, const int nv, size_t kc, const float *A, ptrdiff_t ars, ptrdiff_t aks,
                     const float *B, ptrdiff_t b_row, vf acc[WIDE][NV])
{
    for (size_t k = 0; k < kc; k++, B += b_row, A += aks) {
        vf b[NV];
        UNROLL for (int v = 0; v < nv; v++) b[v] = load(B + v * VW);
        UNROLL for (int r = 0; r < rows; r++) {
            const vf a = splat(A[r * ars]);
            UNROLL for (int v = 0; v < nv; v++) acc[r][v] += a * b[v];
        }
    }
}

/* Scores of `rows` queries against nv vectors of keys: stored to S, maxima taken.
 * limit: NULL, or per row how many of these keys it may see; the others become -inf. */
struct score_tile {
    size_t head_dim;
    const float *q;               /* rows, stride padded */
    ptrdiff_t q_row;
    const float *panel;
    const int *limit;
    float *S;                     /* stride STRIP_LD */
    vf *max;
};

INLINE void score_tile(const int rows, const int nv, const struct score_tile *t)
{
    vf acc[WIDE][NV];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    multiply(rows, nv, t->head_dim, t->q, t->q_row, 1, t->panel, ATTN_PANEL, acc);
    if (t->limit)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
            acc[r][v] = choose(lane_index() + v * VW < splat_int(t->limit[r]), acc[r][v], splat(-INFINITY));
    UNROLL for (int r = 0; r < rows; r++) {
        vf max = t->max[r];
        UNROLL for (int v = 0; v < nv; v++) {
            max = vmax(acc[r][v], max);
            store(t->S + r * STRIP_LD + v * VW, acc[r][v]);
        }
        t->max[r] = max;
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

/* One tile of the backward pass: P = 2^(s - shift), dS = P (G v - delta). */
struct grad_tile {
    size_t head_dim;
    const float *q, *g;           /* rows, stride padded */
    ptrdiff_t row;
    const float *k_panel, *v_panel;
    const float *shift, *delta;
    const int *limit;             /* as in score_tile; hidden keys get P = dS = 0, whatever they hold */
    float *P, *dS;                /* stride GRAD_LD */
};

INLINE void grad_tile(const int rows, const int nv, const struct grad_tile *t)
{
    vf acc[WIDE][NV];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    multiply(rows, nv, t->head_dim, t->q, t->row, 1, t->k_panel, ATTN_PANEL, acc);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) {
        vf p = vexp2(acc[r][v] - splat(t->shift[r]));
        if (t->limit) p = choose(lane_index() + v * VW < splat_int(t->limit[r]), p, (vf){ 0 });
        store(t->P + r * GRAD_LD + v * VW, p);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    multiply(rows, nv, t->head_dim, t->g, t->row, 1, t->v_panel, ATTN_PANEL, acc);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) {
        vf ds = load(t->P + r * GRAD_LD + v * VW) * (acc[r][v] - splat(t->delta[r]));
        if (t->limit) ds = choose(lane_index() + v * VW < splat_int(t->limit[r]), ds, (vf){ 0 });
        store(t->dS + r * GRAD_LD + v * VW, ds);
    }
}

/* Every tile that occurs, as a function of its own: rows 1..6 with any number of
 * vectors, rows 7..12 with up to two. */
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
    X(kind, 7, 2) X(kind, 8, 2) X(kind, 9, 2) X(kind, 10, 2) X(kind, 11, 2) X(kind, 12, 2)
#else
#define TILES_TALL(X, kind)
#endif
#define DEFINE_TILE(kind, R, V) \
    static __attribute__((noinline)) void kind##_##R##_##V(const struct kind *t) { kind(R, V, t); }
#define NAME_TILE(kind, R, V) [R][V] = kind##_##R##_##V,

TILES(DEFINE_TILE, score_tile) TILES_WIDE(DEFINE_TILE, score_tile)
TILES(DEFINE_TILE, grad_tile) TILES_WIDE(DEFINE_TILE, grad_tile)
TILES(DEFINE_TILE, product_tile) TILES_WIDE(DEFINE_TILE, product_tile) TILES_TALL(DEFINE_TILE, product_tile)

static void (*const score_tiles[MR + 1][NV + 1])(const struct score_tile *) = {
    TILES(NAME_TILE, score_tile) TILES_WIDE(NAME_TILE, score_tile)
};
static void (*const grad_tiles[MR + 1][NV + 1])(const struct grad_tile *) = {
    TILES(NAME_TILE, grad_tile) TILES_WIDE(NAME_TILE, grad_tile)
};
static void (*const product_tiles[WIDE + 1][NV + 1])(const struct product_tile *) = {
    TILES(NAME_TILE, product_tile) TILES_WIDE(NAME_TILE, product_tile) TILES_TALL(NAME_TILE, product_tile)
};

/* Rows per tile for an output of `cols` (a multiple of 16) columns. */
INLINE size_t tile_rows(size_t cols) { return WIDTH == 16 && cols <= 32 ? (size_t)WIDE : (size_t)MR; }

/* One group of rows (at most tile_rows(cols)) against all columns. */
static void product_group(size_t rows, size_t cols, size_t kc, const float *A, ptrdiff_t a_row, ptrdiff_t a_k,
                          const float *B, ptrdiff_t b_row, float *C, ptrdiff_t c_row, const float *alpha)
{
    for (size_t c = 0; c < cols; c += NV * VW) {
        const struct product_tile t = { kc, A, a_row, a_k, B + c, b_row, C + c, c_row, alpha };
        product_tiles[rows][least(NV, (cols - c) / VW)](&t);
    }
}

/* C (rows, cols) += A B, or = with from_zero. */
static void product(size_t rows, size_t cols, size_t kc, const float *A, ptrdiff_t a_row, ptrdiff_t a_k,
                    const float *B, ptrdiff_t b_row, float *C, ptrdiff_t c_row, const float *alpha)
{
    const size_t step = tile_rows(cols);
    for (size_t r = 0; r < rows; r += step)
        product_group(least(step, rows - r), cols, kc, A + (ptrdiff_t)r * a_row, a_row, a_k, B, b_row,
                      C + (ptrdiff_t)r * c_row, c_row, alpha);
}

/* ---- forward ---------------------------------------------------------------------- */

/* Consecutive keys in the strip. */
struct piece {
    size_t cols, col0;            /* keys, and where they start in the strip (multiple of 16) */
    const float *panels;
    const float *v;
    ptrdiff_t v_row;
    int causal;
    ptrdiff_t bound;              /* causal: row i sees the first bound + i keys */
};

/* State of the rows of a block. */
struct forward_rows {
    size_t padded;
    float *q, *acc;               /* (rows, padded) */
    float *mass;                  /* (rows, VW): lanes of the running sum */
    float *shift;                 /* (rows, and 16 more): M */
    float *strip;                 /* (WIDE, STRIP_LD) */
    int fresh;                    /* acc and mass are not set yet */
};

/* Whether rows of this stride can be read as they lie. */
INLINE int rows_usable(size_t head_dim, ptrdiff_t row)
{
    return head_dim % 16 == 0 && row >= 0 && (size_t)row <= 2 * head_dim;
}

static void make_piece(const struct attn_keys *keys, size_t from, size_t cols, size_t head_dim, float *panels,
                       float *rows, struct piece *piece)
{
    piece->cols = cols;
    if (keys->k_panels) {
        piece->panels = keys->k_panels + from * head_dim;
    } else {
        ISA_NAME(attn_pack_panels)(keys->k + (ptrdiff_t)from * keys->k_row, keys->k_row, cols, head_dim, panels);
        piece->panels = panels;
    }
    piece->v = keys->v + (ptrdiff_t)from * keys->v_row;
    piece->v_row = keys->v_row;
    if (keys->k_panels || rows_usable(head_dim, keys->v_row)) return;
    ISA_NAME(attn_pack_rows)(piece->v, piece->v_row, cols, head_dim, rows);
    piece->v = rows;
    piece->v_row = (ptrdiff_t)attn_padded(head_dim);
}

/* Keys of a piece that some row of r0 .. r0+rows-1 sees. */
INLINE size_t visible(const struct piece *p, size_t last_row)
{
    if (!p->causal) return p->cols;
    const ptrdiff_t seen = p->bound + (ptrdiff_t)last_row;
    return seen <= 0 ? 0 : least(p->cols, (size_t)seen);
}

static void clear_rows(const struct forward_rows *s, size_t r0, size_t rows)
{
    memset(s->acc + r0 * s->padded, 0, rows * s->padded * sizeof(float));
    memset(s->mass + r0 * VW, 0, rows * VW * sizeof(float));
}

/* Rows r0 .. r0+rows-1 (rows at most WIDE) against the pieces of one strip. */
static void forward_group(const struct forward_rows *s, size_t r0, size_t rows, size_t head_dim,
                          const struct piece *pieces, size_t num_pieces)
{
    const size_t padded = s->padded;
    size_t seen[2], cols = 0;
    vf max[16];
    UNROLL for (int r = 0; r < 16; r++) max[r] = splat(-INFINITY);

    for (size_t i = 0; i < num_pieces; i++) {
        const struct piece *p = &pieces[i];
        seen[i] = visible(p, r0 + rows - 1);
        if (!seen[i]) continue;
        const size_t end = round16(seen[i]);
        cols = p->col0 + end;
        for (size_t sub = 0; sub < rows; sub += MR) {
            const size_t n = least(MR, rows - sub), fewest = visible(p, r0 + sub);
            for (size_t c = 0; c < end; c += NV * VW) {
                int limit[MR];
                const size_t nv = least(NV, (end - c) / VW);
                /* Some key of the tile hidden from the first row, who sees least? */
                const int masked = c + nv * VW > fewest;
                for (size_t r = 0; masked && r < n; r++) {
                    const ptrdiff_t keys = (ptrdiff_t)visible(p, r0 + sub + r) - (ptrdiff_t)c;
                    limit[r] = keys < 0 ? 0 : keys > NV * VW ? NV * VW : (int)keys;
                }
                const struct score_tile t = {
                    head_dim, s->q + (r0 + sub) * padded, (ptrdiff_t)padded,
                    p->panels + c / ATTN_PANEL * ATTN_PANEL * head_dim + c % ATTN_PANEL,
                    masked ? limit : NULL, s->strip + sub * STRIP_LD + p->col0 + c, max + sub
                };
                score_tiles[n][nv](&t);
            }
        }
    }
    if (!cols) {
        if (s->fresh) clear_rows(s, r0, rows);
        return;
    }

    /* The joint shift so far, an integer so that rescaling is exact, and what the sums
     * made with the old one are multiplied by. While all keys are hidden it is -inf, and
     * any finite number serves: 2^(-inf) = 0. */
    float top[16], alpha[16], used[16];
    row_maxima(max, rows, top);
    for (size_t r = 0; r < rows; r += VW) {
        const vf old = load(s->shift + r0 + r), none = splat(-INFINITY);
        vf shift = vmax(vceil(load(top + r)), old);
        shift = choose(lane_index() + (int)r < splat_int((int)rows), shift, old);
        store(s->shift + r0 + r, shift);
        store(alpha + r, choose(old == shift, splat(1.0f), vexp2(old - shift)));
        store(used + r, choose(shift == none, (vf){ 0 }, shift));
    }
    for (size_t r = 0; r < rows; r++) {
        float *S = s->strip + r * STRIP_LD, *mass = s->mass + (r0 + r) * VW;
        const vf m = splat(used[r]);
        vf sum = s->fresh ? (vf){ 0 } : alpha[r] * load(mass), sum2 = (vf){ 0 };
        size_t c = 0;
        for (; c + 2 * VW <= cols; c += 2 * VW) {
            const vf p = vexp2(load(S + c) - m), p2 = vexp2(load(S + c + VW) - m);
            store(S + c, p);
            store(S + c + VW, p2);
            sum += p;
            sum2 += p2;
        }
        for (; c < cols; c += VW) {
            const vf p = vexp2(load(S + c) - m);
            store(S + c, p);
            sum += p;
        }
        store(mass, sum + sum2);
    }

    const float *scale = s->fresh ? from_zero : alpha;
    for (size_t i = 0; i < num_pieces; i++) {
        if (!seen[i]) continue;
        const struct piece *p = &pieces[i];
        const float *P = s->strip + p->col0;
        float *acc = s->acc + r0 * padded;
        const size_t common = visible(p, r0);
        if (common >= seen[i] ||
            all_finite(p->v + (ptrdiff_t)common * p->v_row, p->v_row, seen[i] - common, padded)) {
            product_group(rows, padded, seen[i], P, STRIP_LD, 1, p->v, p->v_row, acc, (ptrdiff_t)padded, scale);
        } else {
            /* 0 times a value that is not finite is NaN: each row meets the keys it sees, no others. */
            for (size_t r = 0; r < rows; r++)
                product_group(1, padded, visible(p, r0 + r), P + r * STRIP_LD, STRIP_LD, 1, p->v, p->v_row,
                              acc + r * padded, (ptrdiff_t)padded,
                              scale == from_zero || scale == as_is ? scale : scale + r);
        }
        scale = as_is;
    }
}

static void forward_keys(const struct attn_forward_block *b, struct forward_rows *s, float *panels, float *v_rows)
{
    const size_t d = b->head_dim, step = tile_rows(s->padded);
    size_t inputs = b->input.len;
    if (b->causal) {
        const ptrdiff_t most = b->bound + (ptrdiff_t)b->rows - 1;
        inputs = most <= 0 ? 0 : least(inputs, (size_t)most);
    }
    size_t prefix_done = 0, input_done = 0;
    s->fresh = 1;
    while (prefix_done < b->prefix.len || input_done < inputs) {
        struct piece pieces[2];
        size_t num_pieces = 0, used = 0;
        if (prefix_done < b->prefix.len) {
            const size_t n = least(ATTN_STRIP, b->prefix.len - prefix_done);
            struct piece *p = &pieces[num_pieces++];
            *p = (struct piece){ 0 };
            make_piece(&b->prefix, prefix_done, n, d, panels, v_rows, p);
            prefix_done += n;
            used = round16(n);
        }
        if (prefix_done == b->prefix.len && input_done < inputs) {
            /* Whole panels, unless the rest fits. */
            const size_t left = inputs - input_done, room = ATTN_STRIP - used;
            const size_t n = left <= room ? left : room / ATTN_PANEL * ATTN_PANEL;
            if (n) {
                struct piece *p = &pieces[num_pieces++];
                *p = (struct piece){ .col0 = used, .causal = b->causal, .bound = b->bound - (ptrdiff_t)input_done };
                make_piece(&b->input, input_done, n, d, panels + attn_panels(used) * ATTN_PANEL * d,
                           v_rows + used * s->padded, p);
                input_done += n;
            }
        }
        for (size_t r = 0; r < b->rows; r += step)
            forward_group(s, r, least(step, b->rows - r), d, pieces, num_pieces);
        s->fresh = 0;
    }
    if (s->fresh) clear_rows(s, 0, b->rows);
}

/* elu(x root) + 1. */
INLINE vf elu1(vf x, float root)
{
    const vf z = x * root;
    const vi positive = z > (vf){ 0 };
    const vf e = vexp2(choose(positive, (vf){ 0 }, z) * 0x1.715476p+0f);
    return choose(positive, z + 1.0f, e);
}

/* Of one row, padded with 0 to a multiple of 16. */
INLINE void elu1_row(const float *x, size_t head_dim, size_t padded, float root, float *phi)
{
    size_t c = 0;
    for (; c + VW <= head_dim; c += VW) store(phi + c, elu1(load(x + c), root));
    if (c == padded) return;
    float rest[16] = { 0 };
    const size_t left = head_dim - c;
    if (left) memcpy(rest, x + c, left * sizeof *rest);
    for (size_t i = 0; i < left; i += VW) store(rest + i, elu1(load(rest + i), root));
    for (size_t i = left; i < 16; i++) rest[i] = 0.0f;
    memcpy(phi + c, rest, (padded - c) * sizeof *rest);
}

static double dot(const float *a, const float *b, size_t n)
{
    vf sum = { 0 };
    size_t i = 0;
    for (; i + VW <= n; i += VW) sum += load(a + i) * load(b + i);
    double total = horizontal_sum(sum);
    for (; i < n; i++) total += (double)a[i] * (double)b[i];
    return total;
}

static int all_zero(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0.0f) return 0;
    return 1;
}

/* x *= 2^e, exact as far as the result is representable. */
static void scale_row(float *x, size_t n, int e)
{
    do {
        const int part = e > 126 ? 126 : e < -126 ? -126 : e;
        scaled(x, x, power_of_two(part), n);
        e -= part;
    } while (e);
}

/* An integer e with |mass| <= 2^e < 4 |mass|; mass is not 0. */
INLINE int exponent_above(double mass)
{
    int e;
    union { double value; uint64_t bits; } u = { mass };
    e = (int)(u.bits >> 52 & 0x7ff);
    if (!e) frexp(mass, &e);
    else e -= 1022;
    return e;
}

/* The summary joins as feat_dim more keys whose weights are the features. After the
 * keys, so that the joint shift is known: 2^-shift alone may overflow. */
static void forward_summary(const struct attn_forward_block *b, const struct forward_rows *s, float *v_rows)
{
    const size_t d = b->head_dim, r = b->feat_dim, padded = s->padded, step = tile_rows(padded);
    int empty = all_zero(b->kvec, r);
    for (size_t f = 0; f < r && empty; f++) empty = all_zero(b->Z + (ptrdiff_t)f * b->Z_row, d);
    if (empty) return;

    const size_t phi_row = b->phi ? r : padded;
    float *phi = b->phi ? b->phi : s->q, alpha[ATTN_QUERIES];
    const float root = (float)pow((double)d, -0.25);
    for (size_t i = 0; i < b->rows; i++) {
        float *row = phi + i * phi_row;
        if (!b->phi) elu1_row(b->q + (ptrdiff_t)i * b->q_row, d, padded, root, row);
        double mass = dot(row, b->kvec, r);
        /* elu1 forgives -inf. */
        if (!b->phi && !all_finite(b->q + (ptrdiff_t)i * b->q_row, 0, 1, d)) mass = NAN;
        int whole = 0;
        if (b->phi_log && b->phi_log[i] != 0.0) {
            /* e^log = 2^whole part, part in [1, 2). */
            const double log2_scale = fmin(fmax(b->phi_log[i] * 0x1.71547652b82fep+0, -1e8), 1e8);
            whole = (int)floor(log2_scale);
            const float part = (float)exp2(log2_scale - whole);
            scaled(row, row, part, r);
            mass *= part;
        }
        /* mass 2^whole; its exponent bounds its logarithm. */
        const float old = s->shift[i];
        float shift = old, *sum = s->mass + i * VW;
        const int top = mass != 0.0 ? exponent_above(mass) : INT_MIN / 2;
        if (!whole && fabsf(old) < 40.0f && top < 40) {
            /* Far from the ends of the range a shift of 0 serves, and the features stay as
             * they are; rescaling by powers of two rounds nothing. */
            s->shift[i] = 0.0f;
            alpha[i] = power_of_two((int)old);
            scaled(sum, sum, alpha[i], VW);
            sum[0] += (float)mass;
            continue;
        }
        if (mass != 0.0 && (float)(whole + top) > shift) shift = (float)(whole + top);
        /* Features times 2^-shift must not overflow, however small all masses are. */
        const float lowest = (float)(whole - 60);
        shift = shift > lowest ? shift : lowest;
        s->shift[i] = shift;
        const float down = old - shift;
        alpha[i] = down == 0.0f ? 1.0f : down < -150.0f ? 0.0f : power_of_two((int)down);
        /* Beyond +-1000 everything has overflowed or vanished. */
        float by = (float)whole - shift;
        by = by < -1000.0f ? -1000.0f : by > 1000.0f ? 1000.0f : by;
        scale_row(row, phi_row, (int)by);
        scaled(sum, sum, alpha[i], VW);
        sum[0] += (float)(by > -120.0f && by < 120.0f ? mass * power_of_two((int)by) : ldexp(mass, (int)by));
    }
    /* In blocks of features, so that padded rows of Z fit the scratch of V. */
    for (size_t f = 0; f < r; f += ATTN_STRIP) {
        const size_t n = least(ATTN_STRIP, r - f);
        const float *Z = b->Z + (ptrdiff_t)f * b->Z_row;
        ptrdiff_t Z_row = b->Z_row;
        if (!rows_usable(d, Z_row)) {
            ISA_NAME(attn_pack_rows)(Z, Z_row, n, d, v_rows);
            Z = v_rows;
            Z_row = (ptrdiff_t)padded;
        }
        for (size_t i = 0; i < b->rows; i += step)
            product_group(least(step, b->rows - i), padded, n, phi + i * phi_row + f, (ptrdiff_t)phi_row, 1, Z, Z_row,
                          s->acc + i * padded, (ptrdiff_t)padded, f ? as_is : alpha + i);
    }
}

size_t ISA_NAME(attn_forward_block)(const struct attn_forward_block *b)
{
    const size_t d = b->head_dim, padded = attn_padded(d), rows = b->rows;
    struct forward_rows s = { .padded = padded };
    float *at = b->scratch;
    s.q = at, at += rows * padded;
    s.acc = at, at += rows * padded;
    s.mass = at, at += rows * 16;
    s.strip = at, at += WIDE * STRIP_LD;
    s.shift = at, at += round16(rows) + 16;
    float *panels = at;
    at += (ATTN_STRIP / ATTN_PANEL + 1) * ATTN_PANEL * d;
    float *v_rows = at;

    for (size_t i = 0; i < rows; i++) scaled(s.q + i * padded, b->q + (ptrdiff_t)i * b->q_row, b->scale2, d);
    for (size_t i = 0; i < round16(rows) + 16; i += VW) store(s.shift + i, splat(-INFINITY));
    forward_keys(b, &s, panels, v_rows);
    if (b->feat_dim) forward_summary(b, &s, v_rows);

    size_t first_bad = rows;
    for (size_t i = 0; i < rows; i++) {
        const float D = horizontal_sum(load(s.mass + i * VW));
        const int good = D > 0.0f && D < INFINITY;
        if (!good && first_bad == rows) first_bad = i;
        float *out = b->out + (ptrdiff_t)i * b->out_row;
        if (good || b->partial) scaled(out, s.acc + i * padded, b->partial ? 1.0f : 1.0f / D, d);
        else memset(out, 0, d * sizeof *out);
        if (b->stats) {
            b->stats[i][0] = s.shift[i];
            b->stats[i][1] = D;
        }
    }
    return first_bad;
}

/* ---- backward --------------------------------------------------------------------------- */

void ISA_NAME(attn_grad_prepare)(const struct attn_grad_rows *r, size_t head_dim, const float *q, ptrdiff_t q_row,
                                 float scale2, const float *out, ptrdiff_t out_row, const float *d_out,
                                 ptrdiff_t d_out_row, const float (*stats)[2])
{
    const size_t padded = attn_padded(head_dim);
    for (size_t i = 0; i < r->rows; i++) {
        const float *qi = q + (ptrdiff_t)i * q_row, *oi = out + (ptrdiff_t)i * out_row;
        const float *gi = d_out + (ptrdiff_t)i * d_out_row, D = stats[i][1];
        const int good = D > 0.0f && D < INFINITY;
        const float by = good ? 1.0f / D : 0.0f;
        float *to_q = r->q + i * padded, *to_g = r->g + i * padded;
        if (good) {
            scaled(to_q, qi, scale2, head_dim);
            scaled(to_g, gi, by, head_dim);
        }
        for (size_t c = good ? head_dim : 0; c < padded; c++) to_q[c] = to_g[c] = 0.0f;
        r->delta[i] = good ? (float)dot(to_g, oi, head_dim) : 0.0f;
        r->shift[i] = good ? stats[i][0] : INFINITY;
    }
    if (r->dq) memset(r->dq, 0, r->rows * padded * sizeof(float));
}

/* dst (rows, head_dim) = or += by * src (rows, padded). */
static void write_rows(const float *src, size_t padded, size_t rows, size_t head_dim, float by, float *dst,
                       ptrdiff_t dst_row, int add)
{
    for (size_t j = 0; j < rows; j++) {
        float *to = dst + (ptrdiff_t)j * dst_row;
        const float *from = src + j * padded;
        if (add) add_scaled(to, from, by, head_dim);
        else scaled(to, from, by, head_dim);
    }
}

/* How many of `keys` keys of the block row i sees: the first bound + i when causal, none where
 * D is bad. */
static size_t grad_visible(const struct attn_backward_block *b, size_t i, size_t keys, ptrdiff_t bound)
{
    if (b->rows.shift[i] == INFINITY) return 0;
    const ptrdiff_t seen = b->causal ? bound + (ptrdiff_t)i : (ptrdiff_t)keys;
    return seen <= 0 ? 0 : least(keys, (size_t)seen);
}

static int any_bad(const struct attn_backward_block *b, size_t i, size_t rows)
{
    float most = 0.0f;
    for (size_t r = i; r < i + rows; r++) most = b->rows.shift[r] > most ? b->rows.shift[r] : most;
    return most == INFINITY;
}

/* P and dS of rows i0 .. i0+rows-1 against keys 0..keys-1 of the block, of which row i sees
 * grad_visible. */
static void grad_weights(const struct attn_backward_block *b, size_t i0, size_t rows, size_t keys, ptrdiff_t bound,
                         const float *k_panels, const float *v_panels, float *P, float *dS)
{
    const size_t d = b->head_dim, padded = attn_padded(d), all = round16(keys);
    for (size_t r = 0; r < rows; r += MR) {
        const size_t n = least(MR, rows - r);
        const ptrdiff_t last = b->causal ? bound + (ptrdiff_t)(i0 + r + n - 1) : (ptrdiff_t)keys;
        const size_t seen = last <= 0 ? 0 : least(keys, (size_t)last), end = round16(seen);
        const int bad = any_bad(b, i0 + r, n);
        for (size_t c = 0; c < end; c += NV * VW) {
            int limit[MR];
            const size_t nv = least(NV, (end - c) / VW);
            const int masked = bad || (b->causal && bound + (ptrdiff_t)(i0 + r) < (ptrdiff_t)(c + nv * VW));
            for (size_t i = 0; masked && i < n; i++) {
                const ptrdiff_t left = (ptrdiff_t)grad_visible(b, i0 + r + i, keys, bound) - (ptrdiff_t)c;
                limit[i] = left < 0 ? 0 : left > NV * VW ? NV * VW : (int)left;
            }
            const size_t panel = c / ATTN_PANEL * ATTN_PANEL * d + c % ATTN_PANEL;
            const struct grad_tile t = {
                d, b->rows.q + (i0 + r) * padded, b->rows.g + (i0 + r) * padded, (ptrdiff_t)padded,
                k_panels + panel, v_panels + panel, b->rows.shift + i0 + r, b->rows.delta + i0 + r,
                masked ? limit : NULL, P + r * GRAD_LD + c, dS + r * GRAD_LD + c
            };
            grad_tiles[n][nv](&t);
        }
        for (size_t i = r; i < r + n && end < all; i++) {
            memset(P + i * GRAD_LD + end, 0, (all - end) * sizeof *P);
            memset(dS + i * GRAD_LD + end, 0, (all - end) * sizeof *dS);
        }
    }
}

void ISA_NAME(attn_backward_block)(const struct attn_backward_block *b)
{
    const size_t d = b->head_dim, padded = attn_padded(d), step = tile_rows(padded);
    float *at = b->scratch;
    float *P = at;        at += ATTN_GRAD_QUERIES * GRAD_LD;
    float *dS = at;       at += ATTN_GRAD_QUERIES * GRAD_LD;
    float *dK = at;       at += ATTN_GRAD_KEYS * padded;
    float *dV = at;       at += ATTN_GRAD_KEYS * padded;
    float *K_rows = at;   at += ATTN_GRAD_KEYS * padded;
    float *K_panels = at; at += ATTN_GRAD_KEYS * d;
    float *V_panels = at;

    for (size_t j0 = 0; j0 < b->keys.len; j0 += ATTN_GRAD_KEYS) {
        const size_t keys = least(ATTN_GRAD_KEYS, b->keys.len - j0);
        const ptrdiff_t bound = b->bound - (ptrdiff_t)j0;
        /* Row i sees keys below bound + i: the first row that sees any is 1 - bound. */
        const size_t first = b->causal && bound < 1 ? (size_t)(1 - bound) : 0;
        if (first >= b->rows.rows) {
            memset(dK, 0, keys * padded * sizeof *dK);
            memset(dV, 0, keys * padded * sizeof *dV);
        } else {
            const float *kt = K_panels, *vt = V_panels, *k = b->keys.k + (ptrdiff_t)j0 * b->keys.k_row;
            ptrdiff_t k_row = b->keys.k_row;
            if (b->keys.k_panels) {
                kt = b->keys.k_panels + j0 * d;
                vt = b->keys.v_panels + j0 * d;
            } else {
                ISA_NAME(attn_pack_panels)(k, k_row, keys, d, K_panels);
                ISA_NAME(attn_pack_panels)(b->keys.v + (ptrdiff_t)j0 * b->keys.v_row, b->keys.v_row, keys, d, V_panels);
                if (!rows_usable(d, k_row)) {
                    ISA_NAME(attn_pack_rows)(k, k_row, keys, d, K_rows);
                    k = K_rows;
                    k_row = (ptrdiff_t)padded;
                }
            }
            for (size_t i0 = first; i0 < b->rows.rows; i0 += ATTN_GRAD_QUERIES) {
                const size_t rows = least(ATTN_GRAD_QUERIES, b->rows.rows - i0);
                const float *g = b->rows.g + i0 * padded, *q = b->rows.q + i0 * padded;
                const float *fresh = i0 == first ? from_zero : as_is;
                grad_weights(b, i0, rows, keys, bound, kt, vt, P, dS);
                /* Rows and keys go in groups; where one of them is not finite, one by one, so that it
                 * does not meet (as 0 times NaN) what it may not see. */
                const size_t key_step = !b->causal || all_finite(g, (ptrdiff_t)padded, rows, padded) ? step : 1;
                for (size_t j = 0; j < keys; j += key_step) {
                    const size_t n = least(key_step, keys - j);
                    const ptrdiff_t start = b->causal ? (ptrdiff_t)j - bound + 1 - (ptrdiff_t)i0 : 0;
                    const size_t from = start <= 0 ? 0 : least(rows, (size_t)start);
                    product_group(n, padded, rows - from, P + from * GRAD_LD + j, 1, GRAD_LD, g + from * padded,
                                  (ptrdiff_t)padded, dV + j * padded, (ptrdiff_t)padded, fresh);
                    product_group(n, padded, rows - from, dS + from * GRAD_LD + j, 1, GRAD_LD, q + from * padded,
                                  (ptrdiff_t)padded, dK + j * padded, (ptrdiff_t)padded, fresh);
                }
                for (size_t r = 0; r < rows; r += step) {
                    const size_t n = least(step, rows - r);
                    const ptrdiff_t last = b->causal ? bound + (ptrdiff_t)(i0 + r + n - 1) : (ptrdiff_t)keys;
                    const size_t seen = last <= 0 ? 0 : least(keys, (size_t)last);
                    const size_t common = grad_visible(b, i0 + r, keys, bound);
                    const int whole = !any_bad(b, i0 + r, n) &&
                        (common >= seen || all_finite(k + (ptrdiff_t)common * k_row, k_row, seen - common, d));
                    for (size_t i = r; i < r + n; i += whole ? n : 1)
                        product_group(whole ? n : 1, padded, whole ? seen : grad_visible(b, i0 + i, keys, bound),
                                      dS + i * GRAD_LD, GRAD_LD, 1, k, k_row, b->rows.dq + (i0 + i) * padded,
                                      (ptrdiff_t)padded, as_is);
                }
            }
        }
        /* q carries scale * log2(e): scale dS^T Q = ln 2 dS^T q. */
        if (b->dk) write_rows(dK, padded, keys, d, 0x1.62e43p-1f, b->dk + (ptrdiff_t)j0 * b->dk_row, b->dk_row, b->add);
        if (b->dv) write_rows(dV, padded, keys, d, 1.0f, b->dv + (ptrdiff_t)j0 * b->dv_row, b->dv_row, b->add);
    }
}

void ISA_NAME(attn_feature_backward)(const struct attn_feature_grad *f)
{
    const size_t d = f->head_dim, padded = attn_padded(d), r = f->feat_dim;
    const size_t phi_row = f->elu1 ? padded : r, dphi_row = (r + ATTN_PANEL - 1) / ATTN_PANEL * ATTN_PANEL;
    const float root = (float)pow((double)d, -0.25);
    float *panel = f->scratch, weight[ATTN_GRAD_QUERIES];

    /* phi <- phi 2^-M: what the features weigh relative to D. */
    for (size_t i = 0; i < f->rows; i++) {
        const float shift = f->shift[i];
        if (f->elu1 && shift == INFINITY) memset(f->phi + i * phi_row, 0, phi_row * sizeof *f->phi);
        else if (f->elu1) elu1_row(f->q + (ptrdiff_t)i * f->q_row, d, padded, root, f->phi + i * phi_row);
        if (f->phi_log && f->phi_log[i] != 0.0)
            weight[i] = (float)exp2(f->phi_log[i] * 0x1.71547652b82fep+0 - (double)shift);
        else
            weight[i] = shift > 150.0f ? 0.0f : shift < -128.0f ? INFINITY : power_of_two(-(int)shift);
    }
    /* dphi = (d_out Z^T - (d_out.T) k^T) / D, as the features were written. */
    for (size_t c = 0; c < r; c += ATTN_PANEL) {
        const size_t cols = least(ATTN_PANEL, r - c);
        ISA_NAME(attn_pack_panels)(f->Z + (ptrdiff_t)c * f->Z_row, f->Z_row, cols, d, panel);
        for (size_t i = 0; i < f->rows; i++) {
            float *to = f->dphi + i * dphi_row + c;
            scaled(to, f->kvec + c, -f->delta[i], cols);
            for (size_t j = cols; j < ATTN_PANEL; j++) to[j] = 0.0f;
        }
        product(f->rows, ATTN_PANEL, d, f->g, (ptrdiff_t)padded, 1, panel, ATTN_PANEL, f->dphi + c, (ptrdiff_t)dphi_row, as_is);
    }
    for (size_t i = 0; i < f->rows; i++) {
        float *phi = f->phi + i * phi_row, *dphi = f->dphi + i * dphi_row;
        if (f->shift[i] == INFINITY) memset(dphi, 0, dphi_row * sizeof *dphi);
        if (f->elu1) {
            /* elu' = 1 above 0 and e^z = phi below: min(phi, 1). Padded columns have dphi = 0. */
            float *dq = f->dq + i * padded;
            const vf by = splat(weight[i] * root), dense = splat(f->dq_scale);
            for (size_t c = 0; c < padded; c += VW) {
                const vf p = load(phi + c);
                store(dq + c, dense * load(dq + c) + by * load(dphi + c) * choose(p < splat(1.0f), p, splat(1.0f)));
            }
        } else if (weight[i] != 1.0f) {
            scaled(dphi, dphi, weight[i], r);
        }
        if (weight[i] != 1.0f) scaled(phi, phi, weight[i], phi_row);
        if (f->dk && f->first && !i) scaled(f->dk, phi, -f->delta[i], r);
        else if (f->dk) add_scaled(f->dk, phi, -f->delta[i], r);
    }
    if (f->dZ)
        product(r, padded, f->rows, f->phi, 1, (ptrdiff_t)phi_row, f->g, (ptrdiff_t)padded, f->dZ, f->dZ_row,
                f->first ? from_zero : as_is);
}

#if defined(ISA_PORTABLE)
size_t attn_forward_scratch(size_t rows, size_t head_dim)
{
    const size_t padded = attn_padded(head_dim);
    return 2 * rows * padded + rows * 16 + WIDE * STRIP_LD + round16(rows) + 16 +
           (ATTN_STRIP / ATTN_PANEL + 1) * ATTN_PANEL * head_dim + ATTN_STRIP * padded;
}

size_t attn_backward_scratch(size_t head_dim)
{
    const size_t padded = attn_padded(head_dim);
    return 2 * ATTN_GRAD_QUERIES * GRAD_LD + 3 * ATTN_GRAD_KEYS * padded + 2 * ATTN_GRAD_KEYS * head_dim;
}

size_t attn_feature_scratch(size_t head_dim) { return ATTN_PANEL * head_dim; }
#endif
