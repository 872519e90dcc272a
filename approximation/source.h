/* Where the attention studies take their tokens from: one layer's W_Q, W_K, W_V and the
 * prefix and input tokens that go through it. */
#ifndef CLI_SOURCE_H
#define CLI_SOURCE_H
#include <stddef.h>
#include <stdint.h>

#include "data/idx.h"

enum source_values {
    SOURCE_TIED,               /* K_P = P W_K and V_P = P W_V of one P: what a prefix is */
    SOURCE_INDEPENDENT         /* the control: V_P of other tokens than K_P */
};

/* Tokens from data in place of Gaussian ones: 8 x 8 patches of the 24 x 24 centre of
 * MNIST's training images, less the mean pixel, over the pixels' deviation. */
struct source_tokens {
    struct idx images;
    size_t num_rows;           /* patches */
    double pixel_mean, pixel_scale;
    double *second, *mean;     /* (64, 64), (64): second moments and mean of the patches */
};

enum { SOURCE_PATCH_DIM = 64 };

/* Exit code 0, or 1/3 with the line printed. */
struct cli_common;
int source_tokens_mnist(const struct cli_common *cfg, struct source_tokens *out);
void source_tokens_free(struct source_tokens *t);

struct source {
    size_t dim;
    uint64_t seed, trial;
    enum source_values values;
    const struct source_tokens *tokens;      /* NULL: Gaussian */
    double *Wq, *Wk, *Wv, *mean;             /* mean (dim): of Gaussian prefix tokens */
    double *work;
};

enum { SOURCE_BLOCK = 512 };

/* Draws the layer of `trial`. W_K and W_V have entries N(0, 1/dim), W_Q is scaled so
 * that the scores <q, k>/sqrt(dim) between input and prefix tokens have standard
 * deviation exactly 1: callers multiply Q by the spread they want. score_mean: Gaussian
 * prefix tokens get a mean such that the scores' means have root mean square
 * score_mean (at spread 1) over queries. GSL codes. */
int source_init(struct source *s, uint64_t seed, uint64_t trial, size_t dim,
                enum source_values values, const struct source_tokens *tokens, double score_mean);
void source_free(struct source *s);

/* Bytes of a source of this dimension. */
size_t source_bytes(size_t dim);

/* Input tokens [first, first + count) as queries (spread 1), keys, values; each
 * (count, dim), any may be NULL. */
int source_inputs(const struct source *s, size_t first, size_t count, double *Q, double *K, double *V);

/* Prefix tokens [first, first + count), count <= SOURCE_BLOCK, a function of (seed,
 * trial, token) alone: prefixes of one trial are nested. Kp, Vp (count, dim). */
int source_prefix(struct source *s, size_t first, size_t count, double *Kp, double *Vp);

/* What a long Gaussian prefix tends to for queries Q (n, dim): the scores' spread and
 * mean of each query (n), the mean of the prefix (n, dim). Tied values only. */
int source_gaussian_limit(const struct source *s, const double *Q, size_t n, double *spread,
                          double *score_mean, double *limit);

/* ||W_V||_F^2. */
double source_value_norm2(const struct source *s);

#endif
