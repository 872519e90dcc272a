/* Register kernels of the pair moments, one set per instruction set.
 *
 * For a block of tokens t = 0..len-1 and samples i the weights are
 * rho_it = e^{<w_t, x_i>} 2^-shift_i, and for every pair (i <= j) and column c of
 * per-token features phi the block adds sum_t rho_it rho_jt phi_ct to a row of
 * moments. Columns, in this order: w_k w_l (k <= l); w_k; b_k = a w_k; and, each of them
 * a column by itself, a; 1. The last four only if asked for. A pair costs one fused
 * multiply-add per column and token, and nothing else but the product of two weights.
 *
 * A column's sum has the same bits whatever other columns there are.
 *
 * Lengths are padded with tokens of weight zero up to a multiple of 8. Buffers are
 * 64-byte aligned. All sums run over tokens in an order that depends on the shape
 * only. */
#ifndef THEORY_GRAM_KERNEL_H
#define THEORY_GRAM_KERNEL_H
#include <stddef.h>
#include "common/isa.h"

enum {
    GRAM_TOKENS = 256,      /* longest block, and the stride of every by-token buffer */
    GRAM_ITEM = 16,         /* tokens of a block prepared by one thread */
    GRAM_ROWS = 6,          /* pairs (or samples) in a register tile */
    GRAM_ALIGN = 8          /* doubles in a cache line */
};

/* Scores beyond this are refused: e^x would lose the exact power of two. */
#define GRAM_MAX_SCORE 0x1p20

struct gram_columns {
    size_t dim;
    int has_w, has_b, has_a, has_one;
    size_t num_products;            /* d (d+1) / 2 */
    size_t num_wide;                /* columns before a and 1 */
    size_t first_single;            /* where a and 1 are in a row of moments */
    size_t num_singles, stride;     /* of a row */
    size_t num_vectors, num_panels; /* how the kernels cut the wide columns */
};

/* Tokens [first, last) (multiples of 8, GRAM_ITEM at most; tokens from len on are zero) of a block. X and rho have
 * padded_samples rows (a multiple of GRAM_ROWS). */
struct gram_scores {
    size_t padded_samples, len, first, last;
    const double *X;
    const double *W;                /* (len, dim) row-major, leading dimension tda */
    size_t tda;
    const double *signs;            /* signs[t * sign_stride] */
    size_t sign_stride;
    double *tokens;                 /* (1 + dim, GRAM_TOKENS) out: ones, then b_k (w_k without that column) */
    double *panels;                 /* out: the wide columns, first_single * GRAM_TOKENS numbers, panel by panel */
    double *singles;                /* (2, GRAM_TOKENS) out: a and 1, those there are */
    double *rho, *top;              /* rho[i][t] out; top[i] out: the maximum over the existing tokens */
    double *scratch;                /* dim + first_single + 16 doubles of the calling thread */
};

struct gram_kernels {
    /* Fills the cut for this instruction set. */
    void (*cut)(struct gram_columns *columns);

    /* Transposes tokens, forms the features, and writes scores <w_t, x_i> with their maxima. Returns 0, or 1 when a
     * score is not finite or beyond GRAM_MAX_SCORE. */
    int (*scores)(const struct gram_columns *columns, const struct gram_scores *tokens);

    /* rho[t] <- e^rho[t] 2^-shift for one sample, 0 from token len on to padded. */
    void (*weights)(double *rho, double shift, size_t len, size_t padded);

    /* Adds the block to GRAM_ROWS rows of moments: pair r is (rho[i[r]], rho[j[r]]).
     * Panels [first_panel, last_panel), and a and 1 when `singles` is not NULL. */
    void (*pairs)(const struct gram_columns *columns, const double *rho, const unsigned *i,
                  const unsigned *j, size_t padded, const double *panels, size_t first_panel,
                  size_t last_panel, const double *singles, double *moments);

    /* Adds sum_t rho[r][t] tokens[c][t], c < count, to sums[r * stride + c] of
     * GRAM_ROWS consecutive samples. */
    void (*sums)(const double *rho, const double *tokens, size_t count, size_t padded,
                 double *sums, size_t stride);
};

extern const struct gram_kernels gram_kernels_portable, gram_kernels_avx2, gram_kernels_avx512, gram_kernels_neon;

/* Those of the instruction set in use. */
const struct gram_kernels *gram_kernels_current(void);
/* That of an instruction set; NULL where the build has none. */
const struct gram_kernels *gram_kernels_of(enum isa isa);

#endif
