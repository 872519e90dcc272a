/* A Llama-shaped decoder: weights, key/value cache, prefixes and summaries in front of the text.
 *
 *   x = embed[id]
 *   h = RMSNorm(x) n1           q, k, v = h W_q^T, h W_k^T, h W_v^T; q and k rotated by their position
 *   x = x + Attn(q, K, V) W_o^T         query head h reads key/value head h / (num_heads / kv_heads)
 *   h = RMSNorm(x) n2           x = x + (silu(h W_g^T) * (h W_u^T)) W_d^T
 *   logits = RMSNorm(x) n W_out^T       W_out is the embedding when the file has none of its own
 *
 *   RMSNorm(x) = x / sqrt(mean(x^2) + eps)
 *   rotation at position p of the pair (x_{2i}, x_{2i+1}) by the angle p base^{-2i/head_dim}
 *
 * Rotation and prefixes. Text starts at position prefix->positions. What stands in front of it is seen by all
 * queries and comes in one of two conventions, for exact tokens and for phi(q) alike:
 *   ROTATED    K_P is in the frame of the cache: used as it is, against the rotated q; a summary is phi of
 *              the rotated q, its Z and k folded from rotated keys. Keys taken from a cache (a prompt that was
 *              read), and PEFT's prefix tuning, are of this kind.
 *   UNROTATED  K_P was never rotated, and meets q before its rotation: s = <q, k_P> scale whatever the
 *              distance. A summary is phi of q before rotation.
 *
 * float32, row-major, no gaps; weights (out, in). GEMMs and the attention of the library in blocks that
 * depend on shapes alone: results do not depend on the number of threads. Neither prints nor exits. */
#ifndef TRANSFORMER_DECODER_H
#define TRANSFORMER_DECODER_H
#include <stddef.h>
#include <stdint.h>

#include "common/reason.h"
#include "prefix_ntk/feature.h"
#include "transformer/bpe.h"

struct decoder_config {
    size_t vocab_size, hidden, num_layers, num_heads, kv_heads, head_dim, mlp_dim, max_positions;
    double norm_eps, rope_base;
};

struct decoder_layer {
    const float *norm1, *norm2;     /* (hidden) */
    const float *qkv;               /* ((num_heads + 2 kv_heads) head_dim, hidden): q, k, v */
    const float *o;                 /* (hidden, num_heads head_dim) */
    const float *gate_up;           /* (2 mlp_dim, hidden): gate, up */
    const float *down;              /* (hidden, mlp_dim) */
};

struct decoder {
    struct decoder_config config;
    const float *embed, *final_norm, *output;
    struct decoder_layer *layers;
    float *weights;                 /* what all of these point into */
    size_t num_weights;
    struct bpe *bpe;                /* NULL: none (decoder_random) */
    int32_t bos, eos;               /* -1: none */
    int add_bos;                    /* texts start with bos */
    int half_pairs;                 /* the file has the halves of a head as pairs; here they are adjacent */
};

/* NAME (smollm2-135m: CACHE_DIR/smollm2-135m/model.gguf; cache_dir NULL: where data/folder.h says), a FILE.gguf of the
 * architecture llama, or a
 * Hugging Face directory: config.json of model_type llama, model.safetensors, tokenizer.json. Quantised weights become
 * float32. GSL_EFAILED cannot be read, GSL_EINVAL bad data, GSL_ENOMEM; *why names the file. */
int decoder_open(const char *name_or_path, const char *cache_dir, struct decoder **out, struct reason why);
/* Whether a name or path is a decoder's: smollm2-135m, a file that begins as GGUF does, a folder whose config.json
 * says llama. */
int decoder_is(const char *name_or_path);
void decoder_free(struct decoder *decoder);             /* accepts NULL */
/* Random weights, for tests: matrices N(0, scale^2 / columns), norms 1 + N(0, 0.1^2), tied output. */
int decoder_random(const struct decoder_config *config, double scale, uint64_t seed, struct decoder **out);

/* ---- what stands in front of the text -------------------------------------------------------------------- */

/* Of one layer and key/value head, either or both parts. Arrays are the caller's.
 *   e^{s}-weighted tokens: sum_j w_j e^{<q,k_j> scale} (v_j, 1)
 *   summary:               e^{<q,centre> scale} phi(q) (Z, k); `beside` the softmax: phi(q) Z is added to its result */
struct decoder_piece {
    size_t len;                     /* 0: no tokens */
    const float *K, *V;             /* (len, head_dim) */
    const float *log_weight;        /* (len) log w_j; NULL: all 0 */
    const struct feature_map *map;  /* NULL: no summary */
    size_t summaries;               /* 1, shared by the query heads of the group, or one for each of them */
    const float *Z, *k;             /* (summaries, feat_dim, head_dim), (summaries, feat_dim) */
    const float *centre;            /* (head_dim), or NULL: 0 */
    int beside;                     /* 1: k and centre are not read */
};

enum decoder_rotation { DECODER_ROTATED, DECODER_UNROTATED };

struct decoder_prefix {
    enum decoder_rotation rotation;
    size_t positions;               /* of the first token of the text */
    const struct decoder_piece *pieces;     /* (num_layers, kv_heads) */
};

/* ---- running ------------------------------------------------------------------------------------------------ */

/* A text being read: its keys and values, and all scratch. One caller's at a time; several may share a decoder. */
struct decoder_run;

/* For texts of at most max_len tokens, read at most max_chunk at a time. prefix (NULL: none) must outlive it.
 * GSL_EINVAL,
 * GSL_ENOMEM. */
int decoder_run_alloc(const struct decoder *decoder, const struct decoder_prefix *prefix, size_t max_len,
                      size_t max_chunk,
                      int num_threads, struct decoder_run **out);
void decoder_run_free(struct decoder_run *run);         /* accepts NULL */
/* Bytes decoder_run_alloc takes; SIZE_MAX: overflow. */
size_t decoder_run_bytes(const struct decoder_config *config, size_t max_len, size_t max_chunk, int num_threads);

/* Forgets all tokens from `len` (<= the present length) on. */
void decoder_run_rewind(struct decoder_run *run, size_t len);
/* Another prefix (or NULL) for what follows; the text must be empty. */
void decoder_run_set_prefix(struct decoder_run *run, const struct decoder_prefix *prefix);
size_t decoder_run_length(const struct decoder_run *run);
/* Rotated keys, values of a layer and key/value head: (length, head_dim), valid until the run is freed. */
const float *decoder_run_keys(const struct decoder_run *run, size_t layer, size_t kv_head);
const float *decoder_run_values(const struct decoder_run *run, size_t layer, size_t kv_head);

/* Where the queries of the tokens read go from now on, rotated as the cache has it and with UNROTATED prefixes
 * before rotation: (num_layers, num_heads, n, head_dim) of the next call, n its number of tokens. NULL: nowhere. */
void decoder_run_record(struct decoder_run *run, float *queries);

/* Reads n tokens. hidden (n, hidden), after the final norm; NULL: not wanted. GSL_EINVAL an id beyond the vocabulary, a
 * text beyond max_len or beyond max_positions; GSL_EDOM a normaliser D that is not positive: the run is then at its
 * former length. */
int decoder_read(struct decoder_run *run, const int32_t *ids, size_t n, float *hidden);

/* logits (n, vocab_size) of rows of `hidden`. */
void decoder_logits(const struct decoder *decoder, const float *hidden, size_t n, float *logits, int num_threads);
/* Logits in place to log-probabilities: x - log sum e^x, the sum in double. */
void decoder_log_softmax(float *logits, size_t n);
/* The first of the largest. */
int32_t decoder_argmax(const float *logits, size_t n);

#endif
