/* What every call of attention.h and linear.h begins and ends with: checks of its
 * arguments, elements of its views, its workspace, the first row that failed, and the sums of
 * gradients that the caller's views share. */
#ifndef ATTENTION_CALL_H
#define ATTENTION_CALL_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"

enum { ATTN_ALIGN = 64 };         /* bytes: every piece of a workspace starts at a multiple of it */

static const double LOG2E = 0x1.71547652b82fep+0, LN2 = 0x1.62e42fefa39efp-1;

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t most(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

/* ---- views -------------------------------------------------------------------- */

static inline const float *row_in(struct attn_in x, size_t b, size_t h, size_t i)
{
    return x.data + (ptrdiff_t)b * x.batch + (ptrdiff_t)h * x.head + (ptrdiff_t)i * x.row;
}

static inline float *row_out(struct attn_out x, size_t b, size_t h, size_t i)
{
    return x.data + (ptrdiff_t)b * x.batch + (ptrdiff_t)h * x.head + (ptrdiff_t)i * x.row;
}

static inline struct attn_in as_input(struct attn_out x)
{
    return (struct attn_in){ x.data, x.batch, x.head, x.row };
}

/* The view from its row `row` on. */
static inline struct attn_in from_row(struct attn_in x, size_t row)
{
    if (x.data) x.data += (ptrdiff_t)row * x.row;
    return x;
}

/* Whether batch entries or heads (of `heads`) of a view fall on each other. */
static inline bool is_shared(const struct attn_shape *s, size_t heads, struct attn_out x)
{
    return x.data && ((s->batch > 1 && !x.batch) || (heads > 1 && !x.head));
}

/* ---- shapes --------------------------------------------------------------------- */

/* GSL_EINVAL: sizes that make no sense, or whose bytes overflow; prefix_len and feat_dim
 * 0 where there is none. */
int attn_shape_status(const struct attn_shape *s, size_t prefix_len, size_t feat_dim);
/* The same and the views that every call has; `out` is anything that must not be NULL. */
int attn_call_status(const struct attn_shape *s, size_t prefix_len, size_t feat_dim, struct attn_in q, struct attn_in k,
                     struct attn_in v, const void *out, int num_threads);
/* GSL_EBADLEN a map of another dimension, GSL_EUNSUP one that is not explicit. */
int attn_map_status(const struct attn_shape *s, const feature_map *map);
/* The same for a summary, whose views and heads must be right, too (GSL_EINVAL). */
int attn_summary_status(const struct attn_shape *s, const struct attn_summary *summary);

/* Numbers of threads beyond what parallel_for takes need no scratch. */
static inline int used_threads(int num_threads) { return num_threads < 256 ? num_threads : 256; }

/* Input keys that batch entry b has. */
static inline size_t input_keys(const struct attn_shape *s, size_t b)
{
    return s->key_lengths ? s->key_lengths[b] : s->len_k;
}

/* How many of the first `keys` input keys query i sees. */
static inline size_t visible_keys(const struct attn_shape *s, size_t keys, size_t i)
{
    if (!s->causal) return keys;
    const size_t ahead = i + 1 + s->len_k;
    return ahead > s->len_q ? least(ahead - s->len_q, keys) : 0;
}

/* ---- workspace -------------------------------------------------------------------- */

/* Hands out aligned pieces of a workspace; measures them when base is NULL. */
struct arena { char *base; size_t used; };

static inline void *arena_take(struct arena *a, size_t bytes)
{
    void *p = a->base ? a->base + a->used : NULL;
    a->used += (bytes + ATTN_ALIGN - 1) / ATTN_ALIGN * ATTN_ALIGN;
    return p;
}

static inline float *arena_floats(struct arena *a, size_t n) { return arena_take(a, n * sizeof(float)); }
static inline double *arena_doubles(struct arena *a, size_t n) { return arena_take(a, n * sizeof(double)); }

/* Bytes to ask for where an arena has measured `used`: the caller's pointer may lie anywhere. */
static inline size_t workspace_bytes(size_t used) { return used + ATTN_ALIGN; }

/* An arena in the caller's workspace, or in one of its own (*owned, to be freed).
 * GSL_EBADLEN the caller's is too small; GSL_ENOMEM. */
int workspace_open(size_t bytes, void *work, size_t work_bytes, struct arena *arena, void **owned);

/* ---- failures ---------------------------------------------------------------------- */

/* Rows are counted in (batch, head, row) order; SIZE_MAX stands for none. */
void note_first(atomic_size_t *first, size_t row);
/* GSL_EDOM and the row's name, or GSL_SUCCESS. */
int name_failure(const struct attn_shape *s, size_t row, struct attn_failure *failure);
/* Keeps the largest status of any task. */
void note_status(atomic_int *largest, int status);

/* Whether all of n numbers are finite. */
static inline bool row_is_finite(const float *x, size_t n)
{
    float sum = 0.0f;
    for (size_t c = 0; c < n; c++) sum += x[c] * 0.0f;
    return sum == 0.0f;
}

/* The row, or zeros for one that is not finite. */
static inline void copy_finite(float *to, const float *from, size_t n)
{
    if (row_is_finite(from, n)) memcpy(to, from, n * sizeof *to);
    else memset(to, 0, n * sizeof *to);
}

/* Into double; zeros and false for a row that is not finite. */
static inline bool widen_finite(const float *from, size_t n, double *to)
{
    const bool finite = row_is_finite(from, n);
    for (size_t c = 0; c < n; c++) to[c] = finite ? (double)from[c] : 0.0;
    return finite;
}

/* ---- shared gradients -------------------------------------------------------------- */

/* Rows of `to` become sums, in order, over the batch entries and heads of `from` that the view
 * shares (strides 0). Both have s->batch entries, `heads` heads, len rows of dim numbers. */
void sum_shared(const struct attn_shape *s, size_t heads, size_t len, size_t dim, struct attn_in from,
                struct attn_out to, int num_threads);

/* The same from doubles without gaps: rows of `stride` numbers of which `dim` are taken. */
void sum_shared_f64(const struct attn_shape *s, size_t heads, size_t len, size_t dim, const double *from, size_t stride,
                    struct attn_out to);

#endif
