/* Attention with a relative bias (MPNet): scores <q_i,k_j>/sqrt d + bias[bucket(j - i)][head] over the input's keys,
 * none over a prefix; a plain path of one product per sequence and head. Arguments of attention_forward/backward. */
#ifndef TRANSFORMER_ATTENTION_BIAS_H
#define TRANSFORMER_ATTENTION_BIAS_H
#include "transformer/attention_beside.h"
#include "transformer/encoder.h"

/* T5's buckets, both directions: of num_buckets, half per side, a quarter exact, the rest logarithmic up to 128. */
size_t attention_bias_bucket(ptrdiff_t distance, size_t num_buckets);

int attention_bias_forward(struct encoder *encoder, const struct block_state *state,
                           const struct attention_extra *extra, int training);
int attention_bias_backward(struct encoder *encoder, const struct block_state *state,
                            const struct attention_extra *extra, const float *d_context, float *d_qkv);
size_t attention_bias_work_bytes(const struct encoder *encoder, const struct attention_extra *extra);

/* Of attention.c. Rows row .. row+rows-1: context = soft + phi(q) Z; dZ += phi^T dT and d_qkv (NULL: not wanted) gets
 * J_phi^T (dT Z^T) added to its q part. work: attention_beside_bytes. */
int attention_rows_beside(const struct encoder *encoder, const struct block_state *state,
                          const struct attention_extra *extra, size_t row, size_t rows, char *work);
int attention_rows_beside_backward(const struct encoder *encoder, const struct block_state *state,
                                   const struct attention_extra *extra, size_t row, size_t rows,
                                   const float *d_context, float *d_qkv, float *dZ, char *work);

/* Sums the groups' shared gradients (attention.c): partial sums of a group are those of K or Z, of V or k, and of the
 * relative bias last. */
void attention_gather(const struct encoder *encoder, const struct attention_extra *extra);

#endif
