/* Partial results of a prefix in pieces. The pass itself is attention_forward.c. */
#include "prefix_ntk/attention.h"

#include <stdint.h>

#include "attention/call.h"
#include "attention/partial.h"

void attn_partial_merge(const struct attn_shape *s, struct attn_out into, attn_row *into_rows, struct attn_in from,
                        const attn_row *from_rows)
{
    for (size_t head = 0; head < s->batch * s->heads; head++)
        for (size_t i = 0; i < s->len_q; i++) {
            const size_t b = head / s->heads, h = head % s->heads, at = head * s->len_q + i;
            merge_row(row_out(into, b, h, i), into_rows[at], row_in(from, b, h, i), from_rows[at], s->head_dim);
        }
}

int attn_partial_finish(const struct attn_shape *s, struct attn_out values, const attn_row *rows,
                        struct attn_failure *failure)
{
    size_t first_bad = SIZE_MAX;
    for (size_t at = 0; at < s->batch * s->heads * s->len_q; at++) {
        const size_t head = at / s->len_q;
        float *row = row_out(values, head / s->heads, head % s->heads, at % s->len_q);
        if (!finish_row(row, rows[at][1], s->head_dim)) first_bad = least(first_bad, at);
    }
    return name_failure(s, first_bad, failure);
}
