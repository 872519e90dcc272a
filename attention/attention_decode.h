/* Calls of a few queries, as decoding makes them: the queries of all heads that share keys are rows of one task, and
 * each stretch of keys is read from memory once. */
#ifndef ATTENTION_ATTENTION_DECODE_H
#define ATTENTION_ATTENTION_DECODE_H
#include <stdbool.h>
#include "attention/call.h"

struct attn_decode_call {
    const struct attn_shape *shape;
    float scale2;                 /* scale log2(e) */
    struct attn_in q, k, v;
    const struct attn_prefix *prefix;
    size_t prefix_len;
    struct attn_out out;
    attn_row *rows;               /* NULL: not wanted */
    bool partial;                 /* values stay unnormalised */
};

/* Whether a call of this shape is such a one; `packed`: with a prefix packed in float32. */
bool attn_decode_fits(const struct attn_shape *s, size_t prefix_len, bool packed);
/* Whether scores of rows of keys are dot products (packing keys costs more), or come from panels. */
bool attn_decode_dots(const struct attn_shape *s);
/* Bytes of workspace. */
size_t attn_decode_bytes(const struct attn_shape *s, size_t prefix_len, int num_threads);
/* As attn_exact_forward and attn_partial_forward, whose arguments were checked. */
int attn_decode_run(const struct attn_decode_call *call, void *work, size_t work_bytes, int num_threads,
                    struct attn_failure *failure);

#endif
