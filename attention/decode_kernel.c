/* A few queries against many keys, which are read once: scores of a stretch of keys, weights relative to the shift so
 * far, sums of the values. Memory is what it costs, so whatever reads one stretch asks for the next. */
#include "attention/half_vectors.h"
#include "attention/kernel_vectors.h"
#include "attention/kernels.h"

enum {
    GROUP = 4,                      /* rows of a tile */
    STRETCH = ATTN_PANEL,           /* keys: scores and values of one stay in the first-level cache */
    CACHE_LINE = 64                 /* bytes */
};

/* ---- a few rows times a matrix that streams by ----------------------------------------------------------------- */

/* C (rows, nv vectors) = or += A B, A (rows, n) float32, B (n, nv vectors) in storage of some kind; rows of B and of
 * what is asked for, `next`, are so many bytes apart. */
struct sums_tile {
    size_t n;
    const float *A;
    size_t a_row;
    const char *B, *next;
    ptrdiff_t b_row, next_row;
    float *C;
    size_t c_row;
    int fresh;
};

INLINE void sums_tile(const int kind, const int rows, const int nv, const struct sums_tile *t)
{
    const int bytes = VW * number_bytes(kind);
    vf acc[GROUP][8];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
        acc[r][v] = t->fresh ? (vf){ 0 } : load(t->C + (size_t)r * t->c_row + v * VW);
    const char *B = t->B, *next = t->next;
    for (size_t k = 0; k < t->n; k++, B += t->b_row, next += t->next_row) {
        vf b[8];
        UNROLL for (int v = 0; v < nv; v++) {
            b[v] = take(kind, B + v * bytes);
            if (v * bytes % CACHE_LINE == 0) __builtin_prefetch(next + v * bytes);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            const vf a = splat(t->A[(size_t)r * t->a_row + k]);
            UNROLL for (int v = 0; v < nv; v++) acc[r][v] += a * b[v];
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
        store(t->C + (size_t)r * t->c_row + v * VW, acc[r][v]);
}

/* Tiles whose sums fit the registers. */
#define NARROW_TILES(X, kind) \
    X(kind, 1, 1) X(kind, 1, 2) X(kind, 1, 4) X(kind, 1, 8) X(kind, 2, 1) X(kind, 2, 2) X(kind, 2, 4) \
    X(kind, 3, 1) X(kind, 3, 2) X(kind, 4, 1) X(kind, 4, 2)
#if WIDTH == 16 || defined(ISA_NEON)
enum { MOST_SUMS = 16 };
#define EVERY_TILE(X, kind) NARROW_TILES(X, kind) X(kind, 2, 8) X(kind, 3, 4) X(kind, 4, 4)
#else
enum { MOST_SUMS = 8 };
#define EVERY_TILE(X, kind) NARROW_TILES(X, kind)
#endif
#define DEFINE_SUMS(kind, R, V) \
    static __attribute__((noinline)) void sums_##kind##_##R##_##V(const struct sums_tile *t) \
    { sums_tile(ATTN_##kind, R, V, t); }
#define NAME_SUMS(kind, R, V) [ATTN_##kind][R][V] = sums_##kind##_##R##_##V,

EVERY_TILE(DEFINE_SUMS, F32) EVERY_TILE(DEFINE_SUMS, BF16) EVERY_TILE(DEFINE_SUMS, F16)

static void (*const sums_tiles[ATTN_F16 + 1][GROUP + 1][9])(const struct sums_tile *) = {
    EVERY_TILE(NAME_SUMS, F32) EVERY_TILE(NAME_SUMS, BF16) EVERY_TILE(NAME_SUMS, F16)
};

/* All rows and columns (a multiple of 16) of a product that begins as *t says. */
static void sums(int kind, size_t rows, size_t cols, const struct sums_tile *from)
{
    const ptrdiff_t bytes = number_bytes(kind);
    for (size_t r = 0; r < rows; r += GROUP) {
        const size_t num = least(GROUP, rows - r), most = MOST_SUMS / (num == 3 ? 4 : num);
        for (size_t c = 0, nv = 8; c < cols; c += nv * VW) {
            while (nv > most || nv > (cols - c) / VW) nv /= 2;
            struct sums_tile t = *from;
            t.A += r * t.a_row;
            t.B += (ptrdiff_t)c * bytes;
            t.next += (ptrdiff_t)c * bytes;
            t.C += r * t.c_row + c;
            sums_tiles[kind][num][nv](&t);
        }
    }
}

/* ---- scores of keys as they lie ---------------------------------------------------------------------------------- */

/* Lane l of the result: the sum over the lanes of x[l]. */
INLINE vf totals(vf x[VW])
{
#define FOLD(a, b, t) \
    (__builtin_shufflevector(a, b, LANES(FIRST, t)) + __builtin_shufflevector(a, b, LANES(SECOND, t)))
#if WIDTH == 16
    UNROLL for (int i = 0; i < 8; i++) x[i] = FOLD(x[i], x[i + 8], 8);
#endif
#if WIDTH >= 8
    UNROLL for (int i = 0; i < 4; i++) x[i] = FOLD(x[i], x[i + 4], 4);
#endif
    UNROLL for (int i = 0; i < 2; i++) x[i] = FOLD(x[i], x[i + 2], 2);
    return FOLD(x[0], x[1], 1);
#undef FOLD
}

struct dot_tile {
    size_t dim;                     /* a multiple of 16 */
    const float *q;
    size_t q_row;
    const float *k;
    ptrdiff_t k_row;
    const char *next;
    ptrdiff_t next_row;
    float *S;                       /* stride STRETCH */
};

/* `rows` queries, a divisor of VW, against VW / rows keys. */
INLINE void dot_tile(const int rows, const struct dot_tile *t)
{
    enum { BYTES = sizeof(float) };
    const int keys = VW / rows;
    vf acc[VW];
    UNROLL for (int i = 0; i < VW; i++) acc[i] = (vf){ 0 };
    for (size_t c = 0; c < t->dim; c += VW) {
        vf q[GROUP];
        UNROLL for (int r = 0; r < rows; r++) q[r] = load(t->q + (size_t)r * t->q_row + c);
        UNROLL for (int j = 0; j < keys; j++) {
            const vf key = load(t->k + j * t->k_row + c);
            if (c * BYTES % CACHE_LINE == 0) __builtin_prefetch(t->next + j * t->next_row + c * BYTES);
            UNROLL for (int r = 0; r < rows; r++) acc[r * keys + j] += q[r] * key;
        }
    }
    float each[VW];
    store(each, totals(acc));
    UNROLL for (int r = 0; r < rows; r++) memcpy(t->S + r * STRETCH, each + r * keys, (size_t)keys * BYTES);
}

static __attribute__((noinline)) void dot_tile_1(const struct dot_tile *t) { dot_tile(1, t); }
static __attribute__((noinline)) void dot_tile_2(const struct dot_tile *t) { dot_tile(2, t); }
static __attribute__((noinline)) void dot_tile_4(const struct dot_tile *t) { dot_tile(4, t); }
static void (*const dot_tiles[GROUP + 1])(const struct dot_tile *) = {
    [1] = dot_tile_1, [2] = dot_tile_2, [4] = dot_tile_4
};

/* Scores of n keys, n at most STRETCH. */
static void dots(size_t rows, size_t n, const struct dot_tile *from, float *scratch)
{
    for (size_t r = 0, num = GROUP; r < rows; r += num) {
        while (num > rows - r) num /= 2;
        const size_t keys = VW / num;
        struct dot_tile t = *from;
        t.q += r * t.q_row;
        t.S += r * STRETCH;
        if (n < keys) {
            /* A tile of its own, filled up with zeros. */
            memset(scratch, 0, keys * t.dim * sizeof *scratch);
            for (size_t j = 0; j < n; j++)
                memcpy(scratch + j * t.dim, t.k + (ptrdiff_t)j * t.k_row, t.dim * sizeof *scratch);
            t.k = scratch;
            t.k_row = (ptrdiff_t)t.dim;
            t.next = (const char *)scratch;
            t.next_row = 0;
            dot_tiles[num](&t);
            continue;
        }
        for (size_t done = 0; done < n; done += keys) {
            /* The last tile meets some keys again. */
            const size_t j = least(done, n - keys);
            t.k = from->k + (ptrdiff_t)j * t.k_row;
            t.next = from->next + (ptrdiff_t)j * t.next_row;
            t.S = from->S + r * STRETCH + j;
            dot_tiles[num](&t);
        }
    }
}

/* ---- stretches of keys ------------------------------------------------------------------------------------------- */

struct stretch {
    size_t n, first;                /* keys, and how many of their part lie before */
    int input, kind, panel;
    const char *k, *v;
    ptrdiff_t k_row, v_row;         /* bytes from key to key; with `panel` k_row is what one key takes */
};

/* The next stretch of the part whose first `done` keys are over; 0 when there is none. */
static int stretch_of(const struct attn_keys *keys, size_t len, size_t done, size_t head_dim, struct stretch *s)
{
    if (done >= len) return 0;
    const ptrdiff_t padded = (ptrdiff_t)attn_padded(head_dim);
    *s = (struct stretch){ .n = least(STRETCH, len - done), .first = done };
    if (keys->storage != ATTN_F32) {
        s->kind = (int)keys->storage;
        s->panel = 1;
        s->k_row = 2 * (ptrdiff_t)head_dim;
        s->v_row = 2 * padded;
        s->k = (const char *)keys->k_half;
        s->v = (const char *)keys->v_half;
    } else {
        s->panel = keys->k_panels != NULL;
        s->k_row = 4 * (s->panel ? (ptrdiff_t)head_dim : keys->k_row);
        s->v_row = 4 * keys->v_row;
        s->k = (const char *)(s->panel ? keys->k_panels : keys->k);
        s->v = (const char *)keys->v;
    }
    s->k += (ptrdiff_t)done * s->k_row;
    s->v += (ptrdiff_t)done * s->v_row;
    return 1;
}

static int next_stretch(const struct attn_decode_block *b, size_t inputs, const struct stretch *last, struct stretch *s)
{
    if (!last->input && stretch_of(&b->prefix, b->prefix.len, last->first + last->n, b->head_dim, s)) return 1;
    const int more = stretch_of(&b->input, inputs, last->input ? last->first + last->n : 0, b->head_dim, s);
    s->input = 1;
    return more;
}

static void stretch_scores(const struct attn_decode_block *b, const struct stretch *s, float *S, float *panel)
{
    const size_t d = b->head_dim, padded = attn_padded(d);
    if (!s->panel && b->dots) {
        const struct dot_tile t = { d, b->q, padded, (const float *)s->k, s->k_row / 4, s->v, s->v_row, S };
        dots(b->rows, s->n, &t, panel);
        return;
    }
    const char *B = s->k;
    if (!s->panel) {
        ISA_NAME(attn_pack_panels)((const float *)s->k, s->k_row / 4, s->n, d, panel);
        B = (const char *)panel;
    }
    /* As many bytes of values are to come as a panel has, where they have no gaps. */
    const ptrdiff_t row = STRETCH * number_bytes(s->kind);
    const int dense = s->n == STRETCH && s->v_row == (ptrdiff_t)d * number_bytes(s->kind);
    const struct sums_tile t = { d, b->q, padded, B, dense ? s->v : B, row, row, S, STRETCH, 1 };
    sums(s->kind, b->rows, round16(s->n), &t);
}

/* Scores, of which row r sees the first seen[r], become weights relative to 2^shift; what was summed before follows the
 * shift. */
static void weigh(const struct attn_decode_block *b, const size_t *seen, size_t end, float *S)
{
    const size_t padded = attn_padded(b->head_dim);
    vf max[ATTN_FEW_ROWS];
    for (size_t r = 0; r < b->rows; r++) {
        float *row = S + r * STRETCH;
        for (size_t j = seen[r]; j < end; j++) row[j] = -INFINITY;
        max[r] = load(row);
        for (size_t j = VW; j < end; j += VW) max[r] = vmax(load(row + j), max[r]);
    }
    float used[ATTN_FEW_ROWS], by[ATTN_FEW_ROWS];
    for (size_t r = 0; r < b->rows; r++) used[r] = horizontal_max(max[r]);
    for (size_t r = 0; r < b->rows; r += VW) {
        const vi real = lane_index() + (int)r < splat_int((int)b->rows);
        const vf old = load(b->shift + r), none = splat(-INFINITY);
        const vf shift = vmax(choose(real, vceil(load(used + r)), old), old);
        store(b->shift + r, shift);
        store(by + r, choose(shift == old, splat(1.0f), vexp2(old - shift)));
        /* While all keys are hidden any finite shift serves: 2^(-inf) = 0. */
        store(used + r, choose(shift == none, (vf){ 0 }, shift));
    }
    for (size_t r = 0; r < b->rows; r++) {
        float *row = S + r * STRETCH, *mass = b->mass + r * VW, *acc = b->acc + r * padded;
        if (by[r] != 1.0f) {
            scaled(mass, mass, by[r], VW);
            scaled(acc, acc, by[r], padded);
        }
        vf sum = load(mass);
        for (size_t j = 0; j < end; j += VW) {
            const vf p = vexp2(load(row + j) - splat(used[r]));
            store(row + j, p);
            sum += p;
        }
        store(mass, sum);
    }
}

static void stretch_values(const struct attn_decode_block *b, const struct stretch *s, const struct stretch *next,
                           const size_t *seen, const float *S, float *rows)
{
    const size_t padded = attn_padded(b->head_dim);
    size_t common = s->n;
    for (size_t r = 0; r < b->rows; r++) common = least(common, seen[r]);
    struct sums_tile t = { common, S, STRETCH, s->v, next->k, s->v_row, next->k_row, b->acc, padded, 0 };
    if (!s->panel && b->head_dim % 16) {
        ISA_NAME(attn_pack_rows)((const float *)s->v, s->v_row / 4, s->n, b->head_dim, rows);
        t.B = (const char *)rows;
        t.b_row = 4 * (ptrdiff_t)padded;
    }
    sums(s->kind, b->rows, padded, &t);
    /* 0 times a value that is not finite is NaN: each row meets the keys it sees, no others. */
    for (size_t r = 0; r < b->rows; r++) {
        if (seen[r] <= common) continue;
        const struct sums_tile rest = {
            seen[r] - common, S + r * STRETCH + common, STRETCH, t.B + (ptrdiff_t)common * t.b_row, t.B, t.b_row, 0,
            b->acc + r * padded, padded, 0
        };
        sums(s->kind, 1, padded, &rest);
    }
}

void ISA_NAME(attn_decode_keys)(const struct attn_decode_block *b)
{
    const size_t d = b->head_dim, padded = attn_padded(d);
    float *S = b->scratch, *panel = S + ATTN_FEW_ROWS * STRETCH, *v_rows = panel + STRETCH * d;
    memset(b->acc, 0, b->rows * padded * sizeof *b->acc);
    memset(b->mass, 0, b->rows * VW * sizeof *b->mass);
    size_t inputs = b->input_seen ? 0 : b->input.len;
    for (size_t r = 0; r < ATTN_FEW_ROWS; r++) b->shift[r] = -INFINITY;
    for (size_t r = 0; b->input_seen && r < b->rows; r++)
        if (b->input_seen[r] > inputs) inputs = b->input_seen[r];
    struct stretch s, next;
    const struct stretch none = { 0 };
    for (int more = next_stretch(b, inputs, &none, &s); more; s = next) {
        more = next_stretch(b, inputs, &s, &next);
        size_t seen[ATTN_FEW_ROWS];
        for (size_t r = 0; r < b->rows; r++) {
            const size_t all = s.input && b->input_seen ? b->input_seen[r] : s.first + s.n;
            seen[r] = all > s.first ? least(s.n, all - s.first) : 0;
        }
        stretch_scores(b, &s, S, panel);
        weigh(b, seen, round16(s.n), S);
        stretch_values(b, &s, more ? &next : &s, seen, S, v_rows);
    }
}

void ISA_NAME(attn_decode_rows)(const struct attn_decode_rows *t)
{
    const size_t d = t->head_dim, padded = attn_padded(d);
    float *q = t->scratch, *acc = q + t->rows * padded, *mass = acc + t->rows * padded, *shift = mass + t->rows * 16;
    const struct attn_decode_block b = {
        .rows = t->rows, .head_dim = d, .q = q, .acc = acc, .mass = mass, .shift = shift, .prefix = t->prefix,
        .input = t->input, .input_seen = t->input_seen, .dots = t->dots, .scratch = shift + ATTN_FEW_ROWS
    };
    for (size_t r = 0; r < t->rows; r++) scaled(q + r * padded, t->q[r], t->scale2, d);
    ISA_NAME(attn_decode_keys)(&b);
    for (size_t r = 0; r < t->rows; r++) {
        const float D = horizontal_sum(load(mass + r * VW));
        const int good = D > 0.0f && D < INFINITY;
        if (good || t->partial) scaled(t->out[r], acc + r * padded, t->partial ? 1.0f : 1.0f / D, d);
        else memset(t->out[r], 0, d * sizeof *acc);
        t->stats[r][0] = shift[r];
        t->stats[r][1] = D;
    }
}

#if defined(ISA_PORTABLE)
size_t attn_decode_keys_scratch(size_t head_dim)
{
    return ATTN_FEW_ROWS * STRETCH + STRETCH * head_dim + STRETCH * attn_padded(head_dim);
}

size_t attn_decode_rows_scratch(size_t head_dim)
{
    return ATTN_FEW_ROWS * (2 * attn_padded(head_dim) + 16) + ATTN_FEW_ROWS + attn_decode_keys_scratch(head_dim);
}
#endif
