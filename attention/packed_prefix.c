#include "attention/packed_prefix.h"

#include <stdlib.h>

#include "attention/call.h"
#include "common/pages.h"
#include "common/parallel.h"

struct attn_packed {
    size_t batch, kv_heads, len, head_dim;
    bool backward;
    enum attn_storage storage;
    size_t panels, rows;        /* numbers per head of each kind */
    size_t bytes;
    float *k_panels, *v_rows;   /* float32 */
    float *v_panels, *k_rows;   /* for the backward pass */
    uint16_t *k_half, *v_half;  /* the first two in half precision */
    void *memory;
};

static struct attn_packed *alloc(enum attn_storage storage, size_t batch, size_t kv_heads, size_t prefix_len,
                                 size_t head_dim, bool backward)
{
    if (!batch || !kv_heads || !prefix_len || !head_dim) return NULL;
    /* panels + rows of padded numbers, in both kinds, and rounding: below 2^62 bytes. */
    size_t numbers;
    if (prefix_len > SIZE_MAX - ATTN_PANEL || head_dim > SIZE_MAX / 2 ||
        __builtin_mul_overflow(attn_panels(prefix_len) * ATTN_PANEL, attn_padded(head_dim), &numbers) ||
        __builtin_mul_overflow(numbers, batch, &numbers) || __builtin_mul_overflow(numbers, kv_heads, &numbers) ||
        numbers > SIZE_MAX / 64)
        return NULL;
    struct attn_packed *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    const size_t padded_len = attn_panels(prefix_len) * ATTN_PANEL;
    *p = (struct attn_packed){ .batch = batch, .kv_heads = kv_heads, .len = prefix_len, .head_dim = head_dim,
                               .backward = backward, .storage = storage, .panels = padded_len * head_dim,
                               .rows = padded_len * attn_padded(head_dim) };
    const size_t heads = batch * kv_heads, kinds = backward ? 2 : 1;
    const size_t number = storage == ATTN_F32 ? sizeof(float) : sizeof(uint16_t);
    struct arena size = { NULL, 0 };
    arena_take(&size, kinds * heads * p->panels * number);
    arena_take(&size, kinds * heads * p->rows * number);
    p->bytes = size.used;
    p->memory = pages_alloc(size.used);
    if (!p->memory) {
        free(p);
        return NULL;
    }
    if (storage != ATTN_F32) {
        p->k_half = p->memory;
        p->v_half = p->k_half + heads * p->panels;
        return p;
    }
    p->k_panels = p->memory;
    p->v_rows = p->k_panels + heads * p->panels;
    if (backward) {
        p->v_panels = p->v_rows + heads * p->rows;
        p->k_rows = p->v_panels + heads * p->panels;
    }
    return p;
}

struct attn_packed *attn_packed_alloc(size_t batch, size_t kv_heads, size_t prefix_len, size_t head_dim, int backward)
{
    return alloc(ATTN_F32, batch, kv_heads, prefix_len, head_dim, backward != 0);
}

struct attn_packed *attn_packed_alloc_as(enum attn_storage storage, size_t batch, size_t kv_heads, size_t prefix_len,
                                         size_t head_dim)
{
    if (storage != ATTN_F32 && storage != ATTN_BF16 && storage != ATTN_F16) return NULL;
    return alloc(storage, batch, kv_heads, prefix_len, head_dim, false);
}

void attn_packed_free(struct attn_packed *packed)
{
    if (!packed) return;
    free(packed->memory);
    free(packed);
}

size_t attn_packed_bytes(const struct attn_packed *packed) { return packed ? packed->bytes + sizeof *packed : 0; }

struct pack_job {
    struct attn_packed *packed;
    struct attn_in k, v;
    const struct attn_kernels *kernels;
    atomic_size_t overflows;
};

/* Tasks: head by head, in runs of panels. */
enum { PACK_KEYS = 32 * ATTN_PANEL };

/* Keys from .. from+len-1 of head `at`, rounded; how many finite numbers became infinite. */
static size_t pack_half(const struct pack_job *job, size_t at, size_t from, size_t len, const float *k, const float *v)
{
    enum { COLS = 16 };
    const struct attn_packed *p = job->packed;
    const size_t d = p->head_dim, padded = attn_padded(d);
    uint16_t *panels = p->k_half + at * p->panels + from * d, *rows = p->v_half + at * p->rows + from * padded;
    _Alignas(ATTN_ALIGN) float some[COLS * ATTN_PANEL];
    size_t over = 0;
    for (size_t j = 0; j < len; j += ATTN_PANEL)
        for (size_t c = 0; c < d; c += COLS) {
            const size_t cols = least(COLS, d - c);
            if (len - j < ATTN_PANEL) memset(some, 0, sizeof some);
            const float *first = k + (ptrdiff_t)j * job->k.row + c;
            job->kernels->pack_panels(first, job->k.row, least(ATTN_PANEL, len - j), cols, some);
            over += job->kernels->narrow(p->storage, cols * ATTN_PANEL, some, panels + j * d + c * ATTN_PANEL);
        }
    for (size_t j = 0; j < len; j++) {
        over += job->kernels->narrow(p->storage, d, v + (ptrdiff_t)j * job->v.row, rows + j * padded);
        memset(rows + j * padded + d, 0, (padded - d) * sizeof *rows);
    }
    return over;
}

static void pack_task(void *context, size_t task, int thread)
{
    (void)thread;
    struct pack_job *job = context;
    const struct attn_packed *p = job->packed;
    const size_t runs = ceil_div(p->len, PACK_KEYS), at = task / runs, from = task % runs * PACK_KEYS;
    const size_t len = least(PACK_KEYS, p->len - from), d = p->head_dim, padded = attn_padded(d);
    const float *k = row_in(job->k, at / p->kv_heads, at % p->kv_heads, from);
    const float *v = row_in(job->v, at / p->kv_heads, at % p->kv_heads, from);
    if (p->storage != ATTN_F32) {
        atomic_fetch_add(&job->overflows, pack_half(job, at, from, len, k, v));
        return;
    }
    job->kernels->pack_panels(k, job->k.row, len, d, p->k_panels + at * p->panels + from * d);
    job->kernels->pack_rows(v, job->v.row, len, d, p->v_rows + at * p->rows + from * padded);
    if (!p->backward) return;
    job->kernels->pack_panels(v, job->v.row, len, d, p->v_panels + at * p->panels + from * d);
    job->kernels->pack_rows(k, job->k.row, len, d, p->k_rows + at * p->rows + from * padded);
}

int attn_packed_set(struct attn_packed *packed, struct attn_in k, struct attn_in v, int num_threads)
{
    if (!packed || !k.data || !v.data || num_threads < 1) return GSL_EINVAL;
    struct pack_job job = { .packed = packed, .k = k, .v = v, .kernels = attn_kernels_current() };
    atomic_init(&job.overflows, 0);
    parallel_for(packed->batch * packed->kv_heads * ceil_div(packed->len, PACK_KEYS), num_threads, pack_task, &job);
    return atomic_load(&job.overflows) ? GSL_EOVRFLW : GSL_SUCCESS;
}

int prefix_status(const struct attn_shape *s, const struct attn_prefix *p, bool backward)
{
    if (!p || !p->len) return GSL_SUCCESS;
    if (!p->packed) return p->k.data && p->v.data ? GSL_SUCCESS : GSL_EINVAL;
    const struct attn_packed *packed = p->packed;
    if (packed->len != p->len || packed->head_dim != s->head_dim || (backward && !packed->backward) ||
        (packed->batch != 1 && packed->batch != s->batch) ||
        (packed->kv_heads != 1 && packed->kv_heads != s->kv_heads))
        return GSL_EBADLEN;
    return GSL_SUCCESS;
}

bool packed_in_float32(const struct attn_prefix *p) { return p->packed && p->packed->storage == ATTN_F32; }

struct attn_keys prefix_keys(const struct attn_prefix *p, size_t b, size_t kv, size_t lo, size_t hi)
{
    struct attn_keys keys = { .len = hi - lo };
    if (hi <= lo) return (struct attn_keys){ 0 };
    if (!p->packed) {
        keys.k = row_in(p->k, b, kv, lo);
        keys.v = row_in(p->v, b, kv, lo);
        keys.k_row = p->k.row;
        keys.v_row = p->v.row;
        return keys;
    }
    const struct attn_packed *packed = p->packed;
    const size_t d = packed->head_dim, padded = attn_padded(d);
    const size_t at = (packed->batch == 1 ? 0 : b) * packed->kv_heads + (packed->kv_heads == 1 ? 0 : kv);
    if (packed->storage != ATTN_F32) {
        keys.storage = packed->storage;
        keys.k_half = packed->k_half + at * packed->panels + lo * d;
        keys.v_half = packed->v_half + at * packed->rows + lo * padded;
        return keys;
    }
    keys.k_panels = packed->k_panels + at * packed->panels + lo * d;
    keys.v = packed->v_rows + at * packed->rows + lo * padded;
    if (packed->backward) {
        keys.v_panels = packed->v_panels + at * packed->panels + lo * d;
        keys.k = packed->k_rows + at * packed->rows + lo * padded;
    }
    keys.k_row = keys.v_row = (ptrdiff_t)padded;
    return keys;
}

struct attn_keys plain_keys(struct attn_in k, struct attn_in v, size_t b, size_t kv, size_t lo, size_t hi)
{
    if (hi <= lo) return (struct attn_keys){ 0 };
    return (struct attn_keys){ .len = hi - lo, .k = row_in(k, b, kv, lo), .v = row_in(v, b, kv, lo),
                               .k_row = k.row, .v_row = v.row };
}
