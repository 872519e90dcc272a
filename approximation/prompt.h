/* A prompt in one key/value head of a decoder's cache, and what can stand in for it: fewer tokens, weighted
 * means, a summary (Z, k), or both. Double sums over float32 keys and values; row-major, no gaps. GSL codes;
 * single-threaded. */
#ifndef APPROXIMATION_PROMPT_H
#define APPROXIMATION_PROMPT_H
#include <stddef.h>

#include "approximation/approx.h"
#include "prefix_ntk/feature.h"
#include "transformer/decoder.h"

struct prompt {
    size_t len, dim;
    const float *K, *V;             /* (len, dim) */
};

/* Queries and what each sees of its own text, the prompt aside. */
struct prompt_queries {
    size_t n;
    const double *Q;                /* (n, dim) */
    struct attn_sums input;
};

/* What stands in for the prompt, with its arrays. */
struct prompt_piece {
    struct decoder_piece piece;
    float *owned;                   /* K, V, log_weight, Z, k, centre */
    int failed;                     /* no summary with D > 0 on the queries it is fitted to: nothing stands there */
};
void prompt_piece_free(struct prompt_piece *piece);

/* Bytes of a piece in the cache, float32. */
size_t prompt_piece_bytes(const struct decoder_piece *piece, size_t dim);

/* The exact sums of the whole prompt, and (share not NULL, (len)) the attention each token gets, summed over queries.
 * */
int prompt_sums(const struct prompt *prompt, const struct prompt_queries *q, struct attn_sums *out, double *share);
/* The sums of a piece. */
int prompt_piece_sums(const struct decoder_piece *piece, const double *Q, size_t n, size_t dim, struct attn_sums *out);
/* Standard deviation of the scores of a query over the prompt, and share of the softmax that the prompt has, each the
 * mean over queries. */
int prompt_spread(const struct prompt *prompt, const struct prompt_queries *q, double *score_std, double *mass);

/* Tokens `index` (count, ascending) of the prompt. */
int prompt_keep(const struct prompt *prompt, const size_t *index, size_t count, struct prompt_piece *out);
/* The `count` of the largest share, ascending. */
int prompt_most(const double *share, size_t len, size_t count, size_t *index);
/* Means of clusters of keys (Lloyd's iterations from tokens at equal distances) with the counts as weights. */
int prompt_cluster(const struct prompt *prompt, size_t count, size_t iterations, struct prompt_piece *out);
/* Z = Phi(K)^T V, k = Phi(K)^T 1; centred: of the keys about their mean. */
int prompt_fold(const struct prompt *prompt, const feature_map *map, int centred, struct prompt_piece *out);
/* (Z, k) by least squares on the queries (summary_fit_lstsq), of all that the `tokens` (a piece of tokens, or NULL)
 * leave out; these become part of the piece. `prefix`: the sums of the whole prompt for these queries. */
int prompt_fit(const struct prompt *prompt, const feature_map *map, int centred, const struct decoder_piece *tokens,
               const struct prompt_queries *q, const struct attn_sums *prefix, struct prompt_piece *out);

#endif
