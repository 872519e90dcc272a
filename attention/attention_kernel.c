/* The forward pass of a block of queries: scores of a strip of keys, their joint shift, weights, sums; a
 * summary joins at the end. */
#include "attention/kernel_tiles.h"

#include <limits.h>

enum { STRIP_LD = ATTN_STRIP + 16 };

/* to[r] = largest lane of x[r], r < rows, of the 16 numbers set; x holds 16 vectors, -inf beyond rows. */
INLINE void row_maxima(const vf *x, size_t rows, float *to)
{
#if WIDTH >= 8
/* Lanes without bit t: maxima over l and l + t of a; with it: of b. Folding x[i] with x[i + t]
 * for t = 4, 2, 1 leaves row r in the lanes that are r modulo 8. */
#define FOLD(a, b, t) \
    vmax(__builtin_shufflevector(a, b, LANES(FIRST, t)), __builtin_shufflevector(a, b, LANES(SECOND, t)))
#define FOLD_EIGHT(x) \
    FOLD(FOLD(FOLD((x)[0], (x)[4], 4), FOLD((x)[2], (x)[6], 4), 2), FOLD(FOLD((x)[1], (x)[5], 4), FOLD((x)[3], (x)[7], 4), 2), 1)
    const vf low = FOLD_EIGHT(x);
#if WIDTH == 16
    store(to, FOLD(low, rows > 8 ? FOLD_EIGHT(x + 8) : low, 8));
#else
    (void)rows;
    store(to, low);
#endif
#undef FOLD
#undef FOLD_EIGHT
#else
    for (size_t r = 0; r < 16; r++) to[r] = r < rows ? horizontal_max(x[r]) : -INFINITY;
#endif
}

/* Scores of `rows` queries against nv vectors of keys: stored to S, maxima taken.
 * limit: NULL, or per row how many of these keys it may see; the others become -inf. */
struct score_tile {
    size_t head_dim;
    const float *q;               /* rows, stride padded */
    ptrdiff_t q_row;
    const float *panel;
    const int *limit;
    float *S;                     /* stride STRIP_LD */
    vf *max;
};

INLINE void score_tile(const int rows, const int nv, const struct score_tile *t)
{
    vf acc[WIDE][NV];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    multiply(rows, nv, t->head_dim, t->q, t->q_row, 1, t->panel, ATTN_PANEL, acc);
    if (t->limit)
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
            acc[r][v] = choose(lane_index() + v * VW < splat_int(t->limit[r]), acc[r][v], splat(-INFINITY));
    UNROLL for (int r = 0; r < rows; r++) {
        vf max = t->max[r];
        UNROLL for (int v = 0; v < nv; v++) {
            max = vmax(acc[r][v], max);
            store(t->S + r * STRIP_LD + v * VW, acc[r][v]);
        }
        t->max[r] = max;
    }
}

TILES(DEFINE_TILE, score_tile) TILES_WIDE(DEFINE_TILE, score_tile)

static void (*const score_tiles[MR + 1][NV + 1])(const struct score_tile *) = {
    TILES(NAME_TILE, score_tile) TILES_WIDE(NAME_TILE, score_tile)
};

/* Consecutive keys in the strip. */
struct piece {
    size_t cols, col0;            /* keys, and where they start in the strip (multiple of 16) */
    const float *panels;
    const float *v;
    ptrdiff_t v_row;
    int causal;
    ptrdiff_t bound;              /* causal: row i sees the first bound + i keys */
};

/* State of the rows of a block. */
struct forward_rows {
    size_t padded;
    float *q, *acc;               /* (rows, padded) */
    float *mass;                  /* (rows, VW): lanes of the running sum */
    float *shift;                 /* (rows, and 16 more): M */
    float *strip;                 /* (WIDE, STRIP_LD) */
    int fresh;                    /* acc and mass are not set yet */
};

static void make_piece(const struct attn_keys *keys, size_t from, size_t cols, size_t head_dim, float *panels,
                       float *rows, struct piece *piece)
{
    piece->cols = cols;
    if (keys->storage != ATTN_F32) {
        const size_t padded = attn_padded(head_dim);
        const size_t numbers = attn_panels(cols) * ATTN_PANEL * head_dim;
        ISA_NAME(attn_widen)(keys->storage, numbers, keys->k_half + from * head_dim, panels);
        ISA_NAME(attn_widen)(keys->storage, cols * padded, keys->v_half + from * padded, rows);
        piece->panels = panels;
        piece->v = rows;
        piece->v_row = (ptrdiff_t)padded;
        return;
    }
    if (keys->k_panels) {
        piece->panels = keys->k_panels + from * head_dim;
    } else {
        ISA_NAME(attn_pack_panels)(keys->k + (ptrdiff_t)from * keys->k_row, keys->k_row, cols, head_dim, panels);
        piece->panels = panels;
    }
    piece->v = keys->v + (ptrdiff_t)from * keys->v_row;
    piece->v_row = keys->v_row;
    if (keys->k_panels || rows_usable(head_dim, keys->v_row)) return;
    ISA_NAME(attn_pack_rows)(piece->v, piece->v_row, cols, head_dim, rows);
    piece->v = rows;
    piece->v_row = (ptrdiff_t)attn_padded(head_dim);
}

/* Keys of a piece that some row of r0 .. r0+rows-1 sees. */
INLINE size_t visible(const struct piece *p, size_t last_row)
{
    if (!p->causal) return p->cols;
    const ptrdiff_t seen = p->bound + (ptrdiff_t)last_row;
    return seen <= 0 ? 0 : least(p->cols, (size_t)seen);
}

static void clear_rows(const struct forward_rows *s, size_t r0, size_t rows)
{
    memset(s->acc + r0 * s->padded, 0, rows * s->padded * sizeof(float));
    memset(s->mass + r0 * VW, 0, rows * VW * sizeof(float));
}

/* Rows r0 .. r0+rows-1 (rows at most WIDE) against the pieces of one strip. */
static void forward_group(const struct forward_rows *s, size_t r0, size_t rows, size_t head_dim,
                          const struct piece *pieces, size_t num_pieces)
{
    const size_t padded = s->padded;
    size_t seen[2], cols = 0;
    vf max[16];
    UNROLL for (int r = 0; r < 16; r++) max[r] = splat(-INFINITY);

    for (size_t i = 0; i < num_pieces; i++) {
        const struct piece *p = &pieces[i];
        seen[i] = visible(p, r0 + rows - 1);
        if (!seen[i]) continue;
        const size_t end = round16(seen[i]);
        cols = p->col0 + end;
        for (size_t sub = 0; sub < rows; sub += MR) {
            const size_t n = least(MR, rows - sub), fewest = visible(p, r0 + sub);
            for (size_t c = 0; c < end; c += NV * VW) {
                int limit[MR];
                const size_t nv = least(NV, (end - c) / VW);
                /* Some key of the tile hidden from the first row, who sees least? */
                const int masked = c + nv * VW > fewest;
                for (size_t r = 0; masked && r < n; r++) {
                    const ptrdiff_t keys = (ptrdiff_t)visible(p, r0 + sub + r) - (ptrdiff_t)c;
                    limit[r] = keys < 0 ? 0 : keys > NV * VW ? NV * VW : (int)keys;
                }
                const struct score_tile t = {
                    head_dim, s->q + (r0 + sub) * padded, (ptrdiff_t)padded,
                    p->panels + c / ATTN_PANEL * ATTN_PANEL * head_dim + c % ATTN_PANEL,
                    masked ? limit : NULL, s->strip + sub * STRIP_LD + p->col0 + c, max + sub
                };
                score_tiles[n][nv](&t);
            }
        }
    }
    if (!cols) {
        if (s->fresh) clear_rows(s, r0, rows);
        return;
    }

    /* The joint shift so far, an integer so that rescaling is exact, and what the sums
     * made with the old one are multiplied by. While all keys are hidden it is -inf, and
     * any finite number serves: 2^(-inf) = 0. */
    float top[16], alpha[16], used[16];
    row_maxima(max, rows, top);
    for (size_t r = 0; r < rows; r += VW) {
        const vf old = load(s->shift + r0 + r), none = splat(-INFINITY);
        vf shift = vmax(vceil(load(top + r)), old);
        shift = choose(lane_index() + (int)r < splat_int((int)rows), shift, old);
        store(s->shift + r0 + r, shift);
        store(alpha + r, choose(old == shift, splat(1.0f), vexp2(old - shift)));
        store(used + r, choose(shift == none, (vf){ 0 }, shift));
    }
    for (size_t r = 0; r < rows; r++) {
        float *S = s->strip + r * STRIP_LD, *mass = s->mass + (r0 + r) * VW;
        const vf m = splat(used[r]);
        vf sum = s->fresh ? (vf){ 0 } : alpha[r] * load(mass), sum2 = (vf){ 0 };
        size_t c = 0;
        for (; c + 2 * VW <= cols; c += 2 * VW) {
            const vf p = vexp2(load(S + c) - m), p2 = vexp2(load(S + c + VW) - m);
            store(S + c, p);
            store(S + c + VW, p2);
            sum += p;
            sum2 += p2;
        }
        for (; c < cols; c += VW) {
            const vf p = vexp2(load(S + c) - m);
            store(S + c, p);
            sum += p;
        }
        store(mass, sum + sum2);
    }

    const float *scale = s->fresh ? from_zero : alpha;
    for (size_t i = 0; i < num_pieces; i++) {
        if (!seen[i]) continue;
        const struct piece *p = &pieces[i];
        const float *P = s->strip + p->col0;
        float *acc = s->acc + r0 * padded;
        const size_t common = visible(p, r0);
        if (common >= seen[i] ||
            all_finite(p->v + (ptrdiff_t)common * p->v_row, p->v_row, seen[i] - common, padded)) {
            product_group(rows, padded, seen[i], P, STRIP_LD, 1, p->v, p->v_row, acc, (ptrdiff_t)padded, scale);
        } else {
            /* 0 times a value that is not finite is NaN: each row meets the keys it sees, no others. */
            for (size_t r = 0; r < rows; r++)
                product_group(1, padded, visible(p, r0 + r), P + r * STRIP_LD, STRIP_LD, 1, p->v, p->v_row,
                              acc + r * padded, (ptrdiff_t)padded,
                              scale == from_zero || scale == as_is ? scale : scale + r);
        }
        scale = as_is;
    }
}

static void forward_keys(const struct attn_forward_block *b, struct forward_rows *s, float *panels, float *v_rows)
{
    const size_t d = b->head_dim, step = tile_rows(s->padded);
    size_t inputs = b->input.len;
    if (b->causal) {
        const ptrdiff_t most = b->bound + (ptrdiff_t)b->rows - 1;
        inputs = most <= 0 ? 0 : least(inputs, (size_t)most);
    }
    size_t prefix_done = 0, input_done = 0;
    s->fresh = 1;
    while (prefix_done < b->prefix.len || input_done < inputs) {
        struct piece pieces[2];
        size_t num_pieces = 0, used = 0;
        if (prefix_done < b->prefix.len) {
            const size_t n = least(ATTN_STRIP, b->prefix.len - prefix_done);
            struct piece *p = &pieces[num_pieces++];
            *p = (struct piece){ 0 };
            make_piece(&b->prefix, prefix_done, n, d, panels, v_rows, p);
            prefix_done += n;
            used = round16(n);
        }
        if (prefix_done == b->prefix.len && input_done < inputs) {
            /* Whole panels, unless the rest fits. */
            const size_t left = inputs - input_done, room = ATTN_STRIP - used;
            const size_t n = left <= room ? left : room / ATTN_PANEL * ATTN_PANEL;
            if (n) {
                struct piece *p = &pieces[num_pieces++];
                *p = (struct piece){ .col0 = used, .causal = b->causal, .bound = b->bound - (ptrdiff_t)input_done };
                make_piece(&b->input, input_done, n, d, panels + attn_panels(used) * ATTN_PANEL * d,
                           v_rows + used * s->padded, p);
                input_done += n;
            }
        }
        for (size_t r = 0; r < b->rows; r += step)
            forward_group(s, r, least(step, b->rows - r), d, pieces, num_pieces);
        s->fresh = 0;
    }
    if (s->fresh) clear_rows(s, 0, b->rows);
}

/* As a call without a summary takes them. */
static void forward_few(const struct attn_forward_block *b, const struct forward_rows *s, float *scratch)
{
    size_t seen[ATTN_FEW_ROWS];
    for (size_t i = 0; i < b->rows; i++) {
        const ptrdiff_t sees = b->causal ? b->bound + (ptrdiff_t)i : (ptrdiff_t)b->input.len;
        seen[i] = sees < 0 ? 0 : least(b->input.len, (size_t)sees);
    }
    const struct attn_decode_block few = {
        .rows = b->rows, .head_dim = b->head_dim, .q = s->q, .prefix = b->prefix, .input = b->input,
        .input_seen = seen, .dots = b->dots, .acc = s->acc, .mass = s->mass, .shift = s->shift, .scratch = scratch
    };
    ISA_NAME(attn_decode_keys)(&few);
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

/* The summary joins as feat_dim more keys whose weights are the features. After the
 * keys, so that the joint shift is known: 2^-shift alone may overflow. */
static void forward_summary(const struct attn_forward_block *b, const struct forward_rows *s, float *v_rows)
{
    const size_t d = b->head_dim, r = b->feat_dim, padded = s->padded, step = tile_rows(padded);
    int empty = all_zero(b->kvec, r);
    for (size_t f = 0; f < r && empty; f++) empty = all_zero(b->Z + (ptrdiff_t)f * b->Z_row, d);
    if (empty) return;

    const size_t phi_row = b->phi ? r : padded;
    float *phi = b->phi ? b->phi : s->q, alpha[ATTN_QUERIES];
    const float root = (float)pow((double)d, -0.25);
    for (size_t i = 0; i < b->rows; i++) {
        float *row = phi + i * phi_row;
        if (!b->phi) elu1_row(b->q + (ptrdiff_t)i * b->q_row, d, padded, root, row);
        double mass = dot(row, b->kvec, r);
        /* elu1 forgives -inf. */
        if (!b->phi && !all_finite(b->q + (ptrdiff_t)i * b->q_row, 0, 1, d)) mass = NAN;
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
        float shift = old, *sum = s->mass + i * VW;
        const int top = mass != 0.0 ? exponent_above(mass) : INT_MIN / 2;
        if (!whole && fabsf(old) < 40.0f && top < 40) {
            /* Far from the ends of the range a shift of 0 serves, and the features stay as
             * they are; rescaling by powers of two rounds nothing. */
            s->shift[i] = 0.0f;
            alpha[i] = power_of_two((int)old);
            scaled(sum, sum, alpha[i], VW);
            sum[0] += (float)mass;
            continue;
        }
        if (mass != 0.0 && (float)(whole + top) > shift) shift = (float)(whole + top);
        /* Features times 2^-shift must not overflow, however small all masses are. */
        const float lowest = (float)(whole - 60);
        shift = shift > lowest ? shift : lowest;
        s->shift[i] = shift;
        const float down = old - shift;
        alpha[i] = down == 0.0f ? 1.0f : down < -150.0f ? 0.0f : power_of_two((int)down);
        /* Beyond +-1000 everything has overflowed or vanished. */
        float by = (float)whole - shift;
        by = by < -1000.0f ? -1000.0f : by > 1000.0f ? 1000.0f : by;
        scale_row(row, phi_row, (int)by);
        scaled(sum, sum, alpha[i], VW);
        sum[0] += (float)(by > -120.0f && by < 120.0f ? mass * power_of_two((int)by) : ldexp(mass, (int)by));
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
            product_group(least(step, b->rows - i), padded, n, phi + i * phi_row + f, (ptrdiff_t)phi_row, 1, Z, Z_row,
                          s->acc + i * padded, (ptrdiff_t)padded, f ? as_is : alpha + i);
    }
}

size_t ISA_NAME(attn_forward_block)(const struct attn_forward_block *b)
{
    const size_t d = b->head_dim, padded = attn_padded(d), rows = b->rows;
    struct forward_rows s = { .padded = padded };
    float *at = b->scratch;
    s.q = at, at += rows * padded;
    s.acc = at, at += rows * padded;
    s.mass = at, at += rows * 16;
    s.strip = at, at += WIDE * STRIP_LD;
    s.shift = at, at += round16(rows) + 16;
    float *panels = at;
    at += (ATTN_STRIP / ATTN_PANEL + 1) * ATTN_PANEL * d;
    float *v_rows = at;

    for (size_t i = 0; i < rows; i++) scaled(s.q + i * padded, b->q + (ptrdiff_t)i * b->q_row, b->scale2, d);
    for (size_t i = 0; i < round16(rows) + 16; i += VW) store(s.shift + i, splat(-INFINITY));
    if (b->few) forward_few(b, &s, panels);
    else forward_keys(b, &s, panels, v_rows);
    if (b->feat_dim) forward_summary(b, &s, v_rows);

    size_t first_bad = rows;
    for (size_t i = 0; i < rows; i++) {
        const float D = horizontal_sum(load(s.mass + i * VW));
        const int good = D > 0.0f && D < INFINITY;
        if (!good && first_bad == rows) first_bad = i;
        float *out = b->out + (ptrdiff_t)i * b->out_row;
        if (good || b->partial) scaled(out, s.acc + i * padded, b->partial ? 1.0f : 1.0f / D, d);
        else memset(out, 0, d * sizeof *out);
        if (b->stats) {
            b->stats[i][0] = s.shift[i];
            b->stats[i][1] = D;
        }
    }
    return first_bad;
}

#if defined(ISA_PORTABLE)
size_t attn_forward_scratch(size_t rows, size_t head_dim)
{
    const size_t padded = attn_padded(head_dim);
    return 2 * rows * padded + rows * 16 + WIDE * STRIP_LD + round16(rows) + 16 +
           (ATTN_STRIP / ATTN_PANEL + 1) * ATTN_PANEL * head_dim + ATTN_STRIP * padded;
}
#endif
