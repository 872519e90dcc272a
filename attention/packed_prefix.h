/* Keys and values of one head as the kernels read them: rows of the caller, or a prefix packed
 * before. */
#ifndef ATTENTION_PACKED_PREFIX_H
#define ATTENTION_PACKED_PREFIX_H
#include <stdbool.h>
#include "attention/kernels.h"
#include "prefix_ntk/attention.h"

/* GSL_EINVAL rows missing, GSL_EBADLEN packed for other sizes, or not for `backward`. */
int prefix_status(const struct attn_shape *s, const struct attn_prefix *p, bool backward);

/* Whether there is a packed prefix, and its numbers are float32. */
bool packed_in_float32(const struct attn_prefix *p);

/* Keys lo .. hi-1 of prefix or input for one head. lo is a multiple of 64. */
struct attn_keys prefix_keys(const struct attn_prefix *p, size_t b, size_t kv, size_t lo, size_t hi);
struct attn_keys plain_keys(struct attn_in k, struct attn_in v, size_t b, size_t kv, size_t lo, size_t hi);

#endif
