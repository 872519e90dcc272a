/* The forward pass of a block of queries. QUERIES of them lie side by side in vectors, transposed once, and
 * meet the keys as these lie; the scores of a strip of keys come out as (key, query), so that maxima and sums
 * over keys run along the lanes, and P V reads the weights as broadcast scalars. A summary joins as more
 * keys: of elu1 in the first strip, of other maps at the end. */
#include "attention/kernel_tiles.h"

#include <limits.h>

enum {
    VECTORS = WIDTH == 16 ? 2 : NV,                       /* of a panel of queries */
    QUERIES = VECTORS * VW,
    WIDEST_QUERIES = 32,                                  /* the largest QUERIES of any instruction set */
    MOST_PANELS = ATTN_QUERIES / QUERIES + 1
};

/* Scores of some keys (A, as they lie or in panels) against nv vectors of queries: stored to S, maxima taken. */
struct score_tile {
    size_t head_dim;
    const float *k;
    ptrdiff_t k_row, k_col;       /* one of them is 1 */
    const float *q;               /* (head_dim, QUERIES) */
    int masked;                   /* lanes below first + r may not see key r: -inf */
    int first;
    float *S;                     /* (keys, QUERIES) */
    vf *max;
};

INLINE void score_tile(const int rows, const int nv, const struct score_tile *t)
{
    vf acc[WIDE][NV];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    if (t->k_col == 1) multiply(rows, nv, t->head_dim, t->k, t->k_row, 1, t->q, QUERIES, acc);
    else multiply(rows, nv, t->head_dim, t->k, 1, ATTN_PANEL, t->q, QUERIES, acc);
    if (t->masked)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
            acc[r][v] = choose(lane_index() + v * VW >= splat_int(t->first + r), acc[r][v], splat(-INFINITY));
    UNROLL for (int v = 0; v < nv; v++) {
        vf max = t->max[v];
        UNROLL for (int r = 0; r < rows; r++) {
            max = vmax(acc[r][v], max);
            store(t->S + r * QUERIES + v * VW, acc[r][v]);
        }
        t->max[v] = max;
    }
}

TILES(DEFINE_TILE, score_tile) TILES_WIDE(DEFINE_TILE, score_tile) TILES_TALL(DEFINE_TILE, score_tile)

static void (*const score_tiles[WIDE + 1][NV + 1])(const struct score_tile *) = {
    TILES(NAME_TILE, score_tile) TILES_WIDE(NAME_TILE, score_tile) TILES_TALL(NAME_TILE, score_tile)
};

/* Rows of values and their weights, of which query r of the tile has weights[k QUERIES + r]. */
struct span { size_t count; const float *weights, *values; ptrdiff_t row; };

enum { MOST_SPANS = 3 };          /* prefix, input, summary */

/* to = beta (alpha acc + sum over spans), alpha and beta per row. */
struct value_tile {
    struct span spans[MOST_SPANS];
    size_t num_spans, col;        /* columns from col on */
    const float *acc, *alpha, *beta;                      /* beta NULL: 1 */
    float *to;
    ptrdiff_t acc_row, to_row;
};

INLINE void value_tile(const int rows, const int nv, const struct value_tile *t)
{
    vf acc[WIDE][NV];
    if (t->alpha == from_zero) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    } else {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
            acc[r][v] = t->alpha[r] * load(t->acc + r * t->acc_row + t->col + v * VW);
    }
    for (size_t i = 0; i < t->num_spans; i++) {
        const struct span *s = &t->spans[i];
        multiply(rows, nv, s->count, s->weights, 1, QUERIES, s->values + t->col, s->row, acc);
    }
    if (t->beta)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] *= splat(t->beta[r]);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
        store(t->to + r * t->to_row + t->col + v * VW, acc[r][v]);
}

TILES(DEFINE_TILE, value_tile) TILES_WIDE(DEFINE_TILE, value_tile) TILES_TALL(DEFINE_TILE, value_tile)

static void (*const value_tiles[WIDE + 1][NV + 1])(const struct value_tile *) = {
    TILES(NAME_TILE, value_tile) TILES_WIDE(NAME_TILE, value_tile) TILES_TALL(NAME_TILE, value_tile)
};

/* Consecutive keys of a strip. */
struct piece {
    size_t cols;                  /* keys */
    const float *k;               /* rows, or (panels) those of a prefix packed before */
    ptrdiff_t k_row;
    int panels;
    const float *v;
    ptrdiff_t v_row;
    int causal;
    ptrdiff_t bound;              /* causal: row i sees the first bound + i keys */
};

/* Rows that will be read soon, fetched into the cache a few at a time between tiles. */
struct upcoming {
    struct { const float *at; ptrdiff_t row; size_t count; } runs[8];
    size_t num_runs, run, done;   /* done: rows of the current run */
    size_t step;                  /* rows at a time */
};

static void expect(struct upcoming *u, const float *at, ptrdiff_t row, size_t count)
{
    if (!count || !at) return;
    u->runs[u->num_runs].at = at;
    u->runs[u->num_runs].row = row;
    u->runs[u->num_runs++].count = count;
}

/* Keys from .. from+count-1 and their values. */
static void expect_keys(struct upcoming *u, const struct attn_keys *keys, size_t from, size_t count, size_t head_dim)
{
    if (keys->storage != ATTN_F32) return;
    if (keys->k_panels) expect(u, keys->k_panels + from * head_dim, (ptrdiff_t)head_dim, count);
    else expect(u, keys->k + (ptrdiff_t)from * keys->k_row, keys->k_row, count);
    expect(u, keys->v + (ptrdiff_t)from * keys->v_row, keys->v_row, count);
}

static void fetch(struct upcoming *u, size_t head_dim)
{
    for (size_t left = u->step; left && u->run < u->num_runs; left--) {
        const float *row = u->runs[u->run].at + (ptrdiff_t)u->done * u->runs[u->run].row;
        for (size_t c = 0; c < head_dim; c += 16) __builtin_prefetch(row + c, 0, 2);
        if (++u->done < u->runs[u->run].count) continue;
        u->done = 0;
        u->run++;
    }
}

/* State of the rows of a block. `values`: where the sums of a panel of queries are. */
enum values { NOWHERE, IN_ACC, IN_OUT };

struct forward_rows {
    size_t padded;
    float *q, *phi;               /* panels, (head_dim, QUERIES): scaled; features of elu1 or NULL */
    float *acc;                   /* (rows, padded) */
    float *mass, *shift;          /* per row: sums of weights, M */
    float *alpha, *beta;          /* per row: what old sums, and new ones, are multiplied by */
    float *strip;                 /* (ATTN_STRIP, QUERIES) */
    const float *Z;               /* of elu1, rows that can be read as they lie */
    ptrdiff_t Z_row;
    enum values values[MOST_PANELS];
};

/* k_rows, v_rows: for copies of rows too far apart, and of rows in half precision; a prefix only. */
static void make_piece(const struct attn_keys *keys, size_t from, size_t cols, size_t head_dim, float *k_rows,
                       float *v_rows, struct piece *piece)
{
    const ptrdiff_t padded = (ptrdiff_t)attn_padded(head_dim);
    piece->cols = cols;
    if (keys->storage != ATTN_F32) {
        const size_t numbers = attn_panels(cols) * ATTN_PANEL * head_dim;
        ISA_NAME(attn_widen)(keys->storage, numbers, keys->k_half + from * head_dim, k_rows);
        ISA_NAME(attn_widen)(keys->storage, cols * (size_t)padded, keys->v_half + from * (size_t)padded, v_rows);
        *piece = (struct piece){ .cols = cols, .k = k_rows, .panels = 1, .v = v_rows, .v_row = padded };
        return;
    }
    piece->panels = keys->k_panels != NULL;
    piece->k_row = keys->k_row;
    if (piece->panels) {
        piece->k = keys->k_panels + from * head_dim;
    } else if (rows_near(head_dim, keys->k_row)) {
        piece->k = keys->k + (ptrdiff_t)from * keys->k_row;
    } else {
        ISA_NAME(attn_pack_rows)(keys->k + (ptrdiff_t)from * keys->k_row, keys->k_row, cols, head_dim, k_rows);
        piece->k = k_rows;
        piece->k_row = padded;
    }
    piece->v = keys->v + (ptrdiff_t)from * keys->v_row;
    piece->v_row = keys->v_row;
    if (piece->panels || rows_usable(head_dim, keys->v_row)) return;
    ISA_NAME(attn_pack_rows)(piece->v, piece->v_row, cols, head_dim, v_rows);
    piece->v = v_rows;
    piece->v_row = padded;
}

/* Keys of a piece that row `row` of the block sees. */
INLINE size_t visible(const struct piece *p, size_t row)
{
    if (!p->causal) return p->cols;
    const ptrdiff_t seen = p->bound + (ptrdiff_t)row;
    return seen <= 0 ? 0 : least(p->cols, (size_t)seen);
}

/* Rows p0 .. p0+rows-1 of the block as a panel: q times scale2 and, with phi, the features and mass = phi.k; 0
 * beyond the rows. */
INLINE void pack_queries(const struct attn_forward_block *b, size_t p0, size_t rows, float *q, float *phi, float *mass)
{
    const size_t d = b->head_dim;
    const vf scale2 = splat(b->scale2);
    const float root = phi ? (float)pow((double)d, -0.25) : 0.0f;
    for (size_t lane = 0; lane < rows; lane += VW) {
        const float *from = b->q + (ptrdiff_t)(p0 + lane) * b->q_row;
        vf sum = { 0 }, poison = { 0 };
        for (size_t c = 0; c < d; c += VW) {
            const size_t cols = least(VW, d - c);
            vf x[VW];
            load_square(from + c, b->q_row, least(VW, rows - lane), cols, x);
            transpose_square(x);
            UNROLL for (int i = 0; i < VW; i++) {
                if ((size_t)i >= cols) break;
                const size_t at = (c + (size_t)i) * QUERIES + lane;
                store(q + at, scale2 * x[i]);
                if (!phi) continue;
                const vf f = elu1(x[i], root);
                store(phi + at, f);
                sum += f * splat(b->kvec[c + (size_t)i]);
                /* elu1 forgives -inf. */
                poison += x[i] * 0.0f;
            }
        }
        if (phi) store(mass + lane, sum + poison);
    }
}

/* Scores of the first `seen` keys of a piece against the panel of queries p0 .. . */
static void score_keys(const struct piece *p, size_t seen, size_t p0, size_t vectors, size_t head_dim, const float *q,
                       float *S, vf *max)
{
    /* Lane i sees key j where j < bound + p0 + i: from lane j - ahead on. */
    const ptrdiff_t ahead = p->causal ? p->bound + (ptrdiff_t)p0 - 1 : (ptrdiff_t)seen;
    size_t n;
    for (size_t j = 0; j < seen; j += n) {
        const ptrdiff_t first = (ptrdiff_t)j - ahead;
        const size_t hidden = first >= VW ? (size_t)first / VW : 0;   /* whole vectors */
        const size_t nv = vectors - hidden;
        n = even_part(seen - j, vector_rows(nv));
        if (p->panels) n = least(n, ATTN_PANEL - j % ATTN_PANEL);
        const ptrdiff_t in_panels = (ptrdiff_t)(j / ATTN_PANEL * ATTN_PANEL * head_dim + j % ATTN_PANEL);
        float *to = S + j * QUERIES;
        for (size_t r = 0; r < n; r++)
            for (size_t v = 0; v < hidden; v++) store(to + r * QUERIES + v * VW, splat(-INFINITY));
        const struct score_tile t = {
            .head_dim = head_dim,
            .k = p->k + (p->panels ? in_panels : (ptrdiff_t)j * p->k_row),
            .k_row = p->panels ? 1 : p->k_row, .k_col = p->panels ? ATTN_PANEL : 1, .q = q + hidden * VW,
            .masked = first + (ptrdiff_t)n > 1, .first = (int)(first - (ptrdiff_t)(hidden * VW)),
            .S = to + hidden * VW, .max = max + hidden
        };
        score_tiles[n][nv](&t);
    }
}

/* An integer e with |mass| <= 2^e < 4 |mass|; mass is not 0. */
INLINE int exponent_above(double mass)
{
    int e;
    union { double value; uint64_t bits; } u = { mass };
    e = (int)(u.bits >> 52 & 0x7ff);
    if (!e) frexp(mass, &e);
    else e -= 1022;
    return e;
}

enum {
    NEAR_ZERO = 40,               /* so far from the ends of the range a shift of 0 serves, features as they are */
    LOWEST_SHIFT = 60,            /* features times 2^LOWEST_SHIFT do not overflow */
    VANISHED = 1000               /* beyond this exponent everything has overflowed or vanished */
};

/* The shift of a row with features of this mass, whose keys have the shift `keys`; *exponent: of the power of two
 * that the features are multiplied by, which must not overflow, however small all masses are. */
static float feature_shift(float keys, float mass, int *exponent)
{
    *exponent = 0;
    const int top = mass != 0.0f ? exponent_above(mass) : INT_MIN / 2;
    if (fabsf(keys) < NEAR_ZERO && top < NEAR_ZERO) return 0.0f;
    float shift = mass != 0.0f && (float)top > keys ? (float)top : keys;
    shift = shift > -LOWEST_SHIFT ? shift : -LOWEST_SHIFT;
    *exponent = -(int)(shift > VANISHED ? VANISHED : shift);
    return shift;
}

/* x 2^e, exact as far as the result is representable. */
static float times_power(float x, int e)
{
    for (; e < -126; e += 126) x *= 0x1p-126f;
    return x * power_of_two(e);
}

/* The features of a panel join the keys, whose maxima are `keys`: shift and mass are set, phi scaled. */
static void join_features(float *phi, size_t feat_dim, size_t vectors, const vf *keys, float *shift, float *mass)
{
    const vf most = splat((float)NEAR_ZERO), heaviest = splat(0x1p38f);
    for (size_t v = 0; v < vectors; v++) {
        const vf m = load(mass + v * VW), top = vceil(keys[v]);
        store(shift + v * VW, (vf){ 0 });
        if (every_lane((top < most) & (top > -most) & (m < heaviest) & (m > -heaviest))) continue;
        for (size_t i = 0; i < VW; i++) {
            int e;
            const size_t at = v * VW + i;
            shift[at] = feature_shift(top[i], mass[at], &e);
            if (!e) continue;
            mass[at] = times_power(mass[at], e);
            for (size_t f = 0; f < feat_dim; f++) phi[f * QUERIES + at] = times_power(phi[f * QUERIES + at], e);
        }
    }
}

/* The joint shift of a panel after more keys, an integer so that rescaling is exact, what the sums made
 * with the old one are multiplied by, and the weights of `keys` keys from their scores. */
static void weigh_keys(const struct forward_rows *s, size_t p0, size_t vectors, size_t keys, const vf *max, int fresh)
{
    for (size_t v = 0; v < vectors; v++) {
        float *S = s->strip + v * VW, *shift_at = s->shift + p0 + v * VW, *mass = s->mass + p0 + v * VW;
        const vf old = load(shift_at), none = splat(-INFINITY);
        vf shift = vmax(vceil(max[v]), old), sum = load(mass), sum2 = { 0 };
        /* A shift of 0 that features have chosen stays while it serves. */
        if (s->phi) shift = choose((old == (vf){ 0 }) & (shift < splat((float)NEAR_ZERO)), old, shift);
        if (!fresh) {
            const vf alpha = choose(old == shift, splat(1.0f), vexp2(old - shift));
            store(s->alpha + p0 + v * VW, alpha);
            sum *= alpha;
        }
        store(shift_at, shift);
        /* While all keys are hidden it is -inf, and any finite number serves: 2^(-inf) = 0. */
        const vf used = choose(shift == none, (vf){ 0 }, shift);
        size_t j = 0;
        for (; j + 2 <= keys; j += 2) {
            const vf p = vexp2(load(S + j * QUERIES) - used), p2 = vexp2(load(S + (j + 1) * QUERIES) - used);
            store(S + j * QUERIES, p);
            store(S + (j + 1) * QUERIES, p2);
            sum += p;
            sum2 += p2;
        }
        if (j < keys) {
            const vf p = vexp2(load(S + j * QUERIES) - used);
            store(S + j * QUERIES, p);
            sum += p;
        }
        store(mass, sum + sum2);
    }
}

/* A panel of queries meeting the pieces of one strip. */
struct meeting {
    size_t p0;                    /* first row */
    const struct piece *pieces;
    size_t num_pieces;
    const float *phi;             /* NULL: features do not join here */
    int fresh, out;               /* nothing summed before; nothing follows: straight to the output */
    struct upcoming *upcoming;
};

/* Rows r0 .. r0+rows-1 of the panel take the values of the keys they see. In a group, 0 times a value that is not
 * finite would be NaN: false, a row on its own meets only the keys it sees. */
static int add_values(const struct attn_forward_block *b, const struct forward_rows *s, const struct meeting *m,
                      size_t r0, size_t rows)
{
    const size_t padded = s->padded, vectors = padded / VW;
    const int scaled_out = m->out && !b->partial;
    const float *weights = s->strip + (r0 - m->p0);
    struct value_tile t = {
        .acc = s->acc + r0 * padded, .acc_row = (ptrdiff_t)padded, .alpha = m->fresh ? from_zero : s->alpha + r0,
        .beta = scaled_out ? s->beta + r0 : NULL,
        .to = m->out ? b->out + (ptrdiff_t)r0 * b->out_row : s->acc + r0 * padded,
        .to_row = m->out ? b->out_row : (ptrdiff_t)padded
    };
    for (size_t i = 0; i < m->num_pieces; i++) {
        const struct piece *p = &m->pieces[i];
        const size_t seen = visible(p, r0 + rows - 1), common = visible(p, r0);
        const float *partly = p->v + (ptrdiff_t)common * p->v_row;
        if (common < seen && !all_finite(partly, p->v_row, seen - common, padded)) return 0;
        t.spans[t.num_spans++] = (struct span){ seen, weights, p->v, p->v_row };
        weights += p->cols * QUERIES;
    }
    if (m->phi) t.spans[t.num_spans++] = (struct span){ b->feat_dim, m->phi + (r0 - m->p0), s->Z, s->Z_row };
    size_t nv;
    for (size_t at = 0; at < vectors; at += nv) {
        nv = even_part(vectors - at, NV);
        t.col = at * VW;
        value_tiles[rows][nv](&t);
    }
    return 1;
}

/* last: the panel sees no key after this strip. */
static void forward_panel(const struct attn_forward_block *b, struct forward_rows *s, struct meeting *m, int last)
{
    const size_t p0 = m->p0, rows = least(QUERIES, b->rows - p0), vectors = (rows + VW - 1) / VW, d = b->head_dim;
    enum values *values = &s->values[p0 / QUERIES];
    size_t keys = 0;
    vf max[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) max[v] = splat(-INFINITY);
    for (size_t i = 0; i < m->num_pieces; i++) {
        const size_t before = i ? m->pieces[0].cols : 0, seen = visible(&m->pieces[i], p0 + rows - 1);
        if (!seen) continue;
        score_keys(&m->pieces[i], seen, p0, vectors, d, s->q + p0 * d, s->strip + before * QUERIES, max);
        keys = before + seen;
    }
    if (!keys && !m->phi) return;
    m->fresh = *values == NOWHERE;
    m->out = last && d == s->padded;
    if (m->phi) join_features(s->phi + p0 * d, d, vectors, max, s->shift + p0, s->mass + p0);
    weigh_keys(s, p0, vectors, keys, max, m->fresh);
    for (size_t v = 0; m->out && v < vectors; v++)
        store(s->beta + p0 + v * VW, 1.0f / load(s->mass + p0 + v * VW));
    size_t n;
    for (size_t r = p0; r < p0 + rows; r += n) {
        n = even_part(p0 + rows - r, tile_rows(s->padded));
        fetch(m->upcoming, d);
        if (add_values(b, s, m, r, n)) continue;
        for (size_t i = 0; i < n; i++) add_values(b, s, m, r + i, 1);
    }
    *values = m->out ? IN_OUT : IN_ACC;
}

/* What follows once so many keys are done: the next strip, or the next block's first. */
static void expect_strip(struct upcoming *u, const struct attn_forward_block *b, size_t prefix_done, size_t input_done,
                         size_t inputs)
{
    const int more = prefix_done < b->prefix.len || input_done < inputs;
    const struct attn_forward_block *from = more ? b : b->next;
    if (!from) return;
    if (!more) {
        prefix_done = input_done = 0;
        inputs = from->input.len;
        expect(u, from->q, from->q_row, from->rows);
    }
    const size_t d = b->head_dim, n = least(ATTN_STRIP, from->prefix.len - prefix_done);
    expect_keys(u, &from->prefix, prefix_done, n, d);
    expect_keys(u, &from->input, input_done, least(ATTN_STRIP - n, inputs - input_done), d);
    if (!more) {
        if (from->feat_dim) expect(u, from->Z, from->Z_row, from->feat_dim);
        expect(u, from->out, from->out_row, from->rows);
    }
    size_t rows = 0;
    for (size_t i = 0; i < u->num_runs; i++) rows += u->runs[i].count;
    u->step = rows * MR / b->rows + 1;
}

static void forward_keys(const struct attn_forward_block *b, struct forward_rows *s, float *k_rows, float *v_rows)
{
    const size_t d = b->head_dim;
    const int joins_later = b->feat_dim && !s->phi;
    size_t inputs = b->input.len;
    if (b->causal) {
        const ptrdiff_t most = b->bound + (ptrdiff_t)b->rows - 1;
        inputs = most <= 0 ? 0 : least(inputs, (size_t)most);
    }
    size_t prefix_done = 0, input_done = 0;
    int first = 1;
    do {
        struct piece pieces[2];
        size_t num_pieces = 0, used = 0;
        if (prefix_done < b->prefix.len) {
            used = least(ATTN_STRIP, b->prefix.len - prefix_done);
            pieces[num_pieces] = (struct piece){ 0 };
            make_piece(&b->prefix, prefix_done, used, d, k_rows, v_rows, &pieces[num_pieces++]);
            prefix_done += used;
        }
        const size_t n = least(ATTN_STRIP - used, inputs - input_done);
        if (prefix_done == b->prefix.len && n) {
            pieces[num_pieces] = (struct piece){ .causal = b->causal, .bound = b->bound - (ptrdiff_t)input_done };
            make_piece(&b->input, input_done, n, d, k_rows + attn_panels(used) * ATTN_PANEL * s->padded,
                       v_rows + used * s->padded, &pieces[num_pieces++]);
            input_done += n;
        }
        struct upcoming upcoming = { .num_runs = 0 };
        expect_strip(&upcoming, b, prefix_done, input_done, inputs);
        for (size_t p0 = 0; p0 < b->rows; p0 += QUERIES) {
            const ptrdiff_t end = b->bound + (ptrdiff_t)least(b->rows, p0 + QUERIES) - 1;    /* of the keys it sees */
            const int last = prefix_done == b->prefix.len &&
                             (input_done == inputs || (b->causal && end <= (ptrdiff_t)input_done));
            struct meeting m = { p0, pieces, num_pieces, first && s->phi ? s->phi + p0 * d : NULL, 0, 0, &upcoming };
            forward_panel(b, s, &m, last && !joins_later);
        }
        first = 0;
    } while (prefix_done < b->prefix.len || input_done < inputs);
}

static int all_zero(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0.0f) return 0;
    return 1;
}

/* x *= 2^e, exact as far as the result is representable. */
static void scale_row(float *x, size_t n, int e)
{
    do {
        const int part = e > 126 ? 126 : e < -126 ? -126 : e;
        scaled(x, x, power_of_two(part), n);
        e -= part;
    } while (e);
}

/* As a call without a summary takes few rows. scratch: that of copies of keys and values. */
static void forward_few(const struct attn_forward_block *b, struct forward_rows *s, float *scratch)
{
    size_t seen[ATTN_FEW_ROWS];
    float *q = scratch, *lanes = q + ATTN_FEW_ROWS * s->padded;
    for (size_t i = 0; i < b->rows; i++) {
        const ptrdiff_t sees = b->causal ? b->bound + (ptrdiff_t)i : (ptrdiff_t)b->input.len;
        seen[i] = sees < 0 ? 0 : least(b->input.len, (size_t)sees);
        scaled(q + i * s->padded, b->q + (ptrdiff_t)i * b->q_row, b->scale2, b->head_dim);
    }
    const struct attn_decode_block few = {
        .rows = b->rows, .head_dim = b->head_dim, .q = q, .prefix = b->prefix, .input = b->input,
        .input_seen = seen, .dots = b->dots, .acc = s->acc, .mass = lanes, .shift = s->shift,
        .scratch = lanes + ATTN_FEW_ROWS * 16
    };
    ISA_NAME(attn_decode_keys)(&few);
    for (size_t i = 0; i < b->rows; i++) s->mass[i] = horizontal_sum(load(lanes + i * VW));
    for (size_t panel = 0; panel * QUERIES < b->rows; panel++) s->values[panel] = IN_ACC;
}

/* Features of elu1 row by row. */
static float *few_features(const struct attn_forward_block *b, float *phi)
{
    const size_t d = b->head_dim;
    const float root = (float)pow((double)d, -0.25);
    for (size_t i = 0; i < b->rows; i++) {
        const float *q = b->q + (ptrdiff_t)i * b->q_row;
        elu1_row(q, d, d, root, phi + i * d);
        /* elu1 forgives -inf. */
        if (!all_finite(q, 0, 1, d)) phi[i * d] = NAN;
    }
    return phi;
}

/* Whether a summary adds nothing. */
static int summary_is_zero(const struct attn_forward_block *b)
{
    int empty = all_zero(b->kvec, b->feat_dim);
    for (size_t f = 0; f < b->feat_dim && empty; f++) empty = all_zero(b->Z + (ptrdiff_t)f * b->Z_row, b->head_dim);
    return empty;
}

/* Row i, of features phi_i, takes a summary in: its shift, its mass, what its sums so far are multiplied by, and
 * the features relative to the shift. */
static void join_row(const struct attn_forward_block *b, const struct forward_rows *s, size_t i)
{
    const size_t r = b->feat_dim;
    float *row = b->phi + i * r;
    double mass = dot(row, b->kvec, r);
    int whole = 0;
    if (b->phi_log && b->phi_log[i] != 0.0) {
        /* e^log = 2^whole part, part in [1, 2). */
        const double log2_scale = fmin(fmax(b->phi_log[i] * 0x1.71547652b82fep+0, -1e8), 1e8);
        whole = (int)floor(log2_scale);
        const float part = (float)exp2(log2_scale - whole);
        scaled(row, row, part, r);
        mass *= part;
    }
    /* mass 2^whole; its exponent bounds its logarithm. */
    const float old = s->shift[i];
    float shift = old;
    const int top = mass != 0.0 ? exponent_above(mass) : INT_MIN / 2;
    if (!whole && fabsf(old) < NEAR_ZERO && top < NEAR_ZERO) {
        s->shift[i] = 0.0f;
        s->alpha[i] = power_of_two((int)old);
        s->mass[i] = s->mass[i] * s->alpha[i] + (float)mass;
        return;
    }
    if (mass != 0.0 && (float)(whole + top) > shift) shift = (float)(whole + top);
    /* Features times 2^-shift must not overflow, however small all masses are. */
    const float lowest = (float)(whole - LOWEST_SHIFT);
    shift = shift > lowest ? shift : lowest;
    s->shift[i] = shift;
    const float down = old - shift;
    s->alpha[i] = down == 0.0f ? 1.0f : down < -150.0f ? 0.0f : power_of_two((int)down);
    float by = (float)whole - shift;
    by = by < -VANISHED ? -VANISHED : by > VANISHED ? VANISHED : by;
    scale_row(row, r, (int)by);
    s->mass[i] = s->mass[i] * s->alpha[i] +
                 (float)(by > -120.0f && by < 120.0f ? mass * power_of_two((int)by) : ldexp(mass, (int)by));
}

/* The summary joins as feat_dim more keys whose weights are the features. After the
 * keys, so that the joint shift is known: 2^-shift alone may overflow. */
static void forward_summary(const struct attn_forward_block *b, struct forward_rows *s, float *v_rows)
{
    const size_t d = b->head_dim, r = b->feat_dim, padded = s->padded, step = tile_rows(padded);
    for (size_t i = 0; i < b->rows; i++) join_row(b, s, i);
    for (size_t p0 = 0; p0 < b->rows; p0 += QUERIES) {
        if (s->values[p0 / QUERIES] == NOWHERE)
            memset(s->acc + p0 * padded, 0, least(QUERIES, b->rows - p0) * padded * sizeof(float));
        s->values[p0 / QUERIES] = IN_ACC;
    }
    /* In blocks of features, so that padded rows of Z fit the scratch of V. */
    for (size_t f = 0; f < r; f += ATTN_STRIP) {
        const size_t n = least(ATTN_STRIP, r - f);
        const float *Z = b->Z + (ptrdiff_t)f * b->Z_row;
        ptrdiff_t Z_row = b->Z_row;
        if (!rows_usable(d, Z_row)) {
            ISA_NAME(attn_pack_rows)(Z, Z_row, n, d, v_rows);
            Z = v_rows;
            Z_row = (ptrdiff_t)padded;
        }
        for (size_t i = 0; i < b->rows; i += step)
            product_group(least(step, b->rows - i), padded, n, b->phi + i * r + f, (ptrdiff_t)r, 1, Z, Z_row,
                          s->acc + i * padded, (ptrdiff_t)padded, f ? as_is : s->alpha + i);
    }
}

/* What is not in the output yet, zeros where D is bad, and the statistics. */
static size_t finish_rows(const struct attn_forward_block *b, const struct forward_rows *s)
{
    const size_t d = b->head_dim;
    size_t first_bad = b->rows;
    for (size_t i = 0; i < b->rows; i++) {
        const float D = s->mass[i];
        const int good = D > 0.0f && D < INFINITY;
        const enum values at = s->values[i / QUERIES];
        float *out = b->out + (ptrdiff_t)i * b->out_row;
        if (!good && first_bad == b->rows) first_bad = i;
        if (at == NOWHERE || !(good || b->partial)) memset(out, 0, d * sizeof *out);
        else if (at == IN_ACC) scaled(out, s->acc + i * s->padded, b->partial ? 1.0f : 1.0f / D, d);
        if (!b->stats) continue;
        b->stats[i][0] = s->shift[i];
        b->stats[i][1] = D;
    }
    return first_bad;
}

size_t ISA_NAME(attn_forward_block)(const struct attn_forward_block *given)
{
    struct attn_forward_block block = *given;
    const struct attn_forward_block *b = &block;
    if (block.feat_dim && summary_is_zero(b)) block.feat_dim = 0;
    const size_t d = b->head_dim, padded = attn_padded(d), rows = b->rows;
    const size_t room = (rows + WIDEST_QUERIES - 1) / WIDEST_QUERIES * WIDEST_QUERIES;
    const int elu1_joins = b->feat_dim && !b->phi;
    struct forward_rows s = { .padded = padded, .Z = b->Z, .Z_row = b->Z_row };
    float *at = b->scratch;
    s.strip = at, at += ATTN_STRIP * WIDEST_QUERIES;
    s.q = at, at += room * d;
    s.acc = at, at += rows * padded;
    s.mass = at, at += room;
    s.shift = at, at += room;
    s.alpha = at, at += room;
    s.beta = at, at += room;
    float *k_rows = at;
    at += (ATTN_STRIP + ATTN_PANEL) * padded;
    float *v_rows = at;
    at += ATTN_STRIP * padded;
    if (elu1_joins) {
        s.phi = at, at += room * d;
        if (!rows_usable(d, b->Z_row)) {
            ISA_NAME(attn_pack_rows)(b->Z, b->Z_row, d, d, at);
            s.Z = at;
            s.Z_row = (ptrdiff_t)padded;
        }
    }
    for (size_t i = 0; i < room; i += VW) {
        store(s.shift + i, splat(-INFINITY));
        store(s.mass + i, (vf){ 0 });
    }
    for (size_t p0 = 0; p0 < rows && !b->few; p0 += QUERIES) {
        const size_t n = least(QUERIES, rows - p0);
        if (elu1_joins) pack_queries(b, p0, n, s.q + p0 * d, s.phi + p0 * d, s.mass + p0);
        else pack_queries(b, p0, n, s.q + p0 * d, NULL, NULL);
    }
    if (b->few) forward_few(b, &s, k_rows);
    else forward_keys(b, &s, k_rows, v_rows);
    if (b->few && elu1_joins) block.phi = few_features(b, s.phi);
    if (b->feat_dim && (b->few || !elu1_joins)) forward_summary(b, &s, v_rows);
    return finish_rows(b, &s);
}

#if defined(ISA_PORTABLE)
size_t attn_forward_scratch(size_t rows, size_t head_dim, int elu1)
{
    const size_t padded = attn_padded(head_dim), room = (rows + WIDEST_QUERIES - 1) / WIDEST_QUERIES * WIDEST_QUERIES;
    return ATTN_STRIP * WIDEST_QUERIES + room * head_dim + rows * padded + 4 * room +
           (2 * ATTN_STRIP + ATTN_PANEL) * padded + (elu1 ? room * head_dim + head_dim * padded : 0);
}
#endif
