/* The backward pass: weights and their gradients of a tile of queries by keys, the three products with
 * them; the part of the features. */
#include "attention/kernel_tiles.h"

enum { GRAD_LD = ATTN_GRAD_KEYS + 16 };

/* One tile of the backward pass: P = 2^(s - shift), dS = P (G v - delta). */
struct grad_tile {
    size_t head_dim;
    const float *q, *g;           /* rows, stride padded */
    ptrdiff_t row;
    const float *k_panel, *v_panel;
    const float *shift, *delta;
    const int *limit;             /* as in score_tile; hidden keys get P = dS = 0, whatever they hold */
    float *P, *dS;                /* stride GRAD_LD */
};

INLINE void grad_tile(const int rows, const int nv, const struct grad_tile *t)
{
    vf acc[WIDE][NV];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    multiply(rows, nv, t->head_dim, t->q, t->row, 1, t->k_panel, ATTN_PANEL, acc);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) {
        vf p = vexp2(acc[r][v] - splat(t->shift[r]));
        if (t->limit) p = choose(lane_index() + v * VW < splat_int(t->limit[r]), p, (vf){ 0 });
        store(t->P + r * GRAD_LD + v * VW, p);
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){ 0 };
    multiply(rows, nv, t->head_dim, t->g, t->row, 1, t->v_panel, ATTN_PANEL, acc);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) {
        vf ds = load(t->P + r * GRAD_LD + v * VW) * (acc[r][v] - splat(t->delta[r]));
        if (t->limit) ds = choose(lane_index() + v * VW < splat_int(t->limit[r]), ds, (vf){ 0 });
        store(t->dS + r * GRAD_LD + v * VW, ds);
    }
}

TILES(DEFINE_TILE, grad_tile) TILES_WIDE(DEFINE_TILE, grad_tile)

static void (*const grad_tiles[MR + 1][NV + 1])(const struct grad_tile *) = {
    TILES(NAME_TILE, grad_tile) TILES_WIDE(NAME_TILE, grad_tile)
};

void ISA_NAME(attn_grad_prepare)(const struct attn_grad_rows *r, const struct attn_grad_source *from)
{
    const size_t head_dim = from->head_dim, padded = attn_padded(head_dim);
    for (size_t i = 0; i < r->rows; i++) {
        const float *qi = from->q + (ptrdiff_t)i * from->q_row, *oi = from->out + (ptrdiff_t)i * from->out_row;
        const float *gi = from->d_out + (ptrdiff_t)i * from->d_out_row, D = from->stats[i][1];
        const int good = D > 0.0f && D < INFINITY;
        const float by = good ? 1.0f / D : 0.0f;
        float *to_q = r->q + i * padded, *to_g = r->g + i * padded;
        if (good) {
            scaled(to_q, qi, from->scale2, head_dim);
            scaled(to_g, gi, by, head_dim);
        }
        for (size_t c = good ? head_dim : 0; c < padded; c++) to_q[c] = to_g[c] = 0.0f;
        r->delta[i] = good ? (float)dot(to_g, oi, head_dim) : 0.0f;
        r->shift[i] = good ? from->stats[i][0] : INFINITY;
    }
    if (r->dq) memset(r->dq, 0, r->rows * padded * sizeof(float));
}

/* dst (rows, head_dim) = or += by * src (rows, padded). */
static void write_rows(const float *src, size_t padded, size_t rows, size_t head_dim, float by, float *dst,
                       ptrdiff_t dst_row, int add)
{
    for (size_t j = 0; j < rows; j++) {
        float *to = dst + (ptrdiff_t)j * dst_row;
        const float *from = src + j * padded;
        if (add) add_scaled(to, from, by, head_dim);
        else scaled(to, from, by, head_dim);
    }
}

/* How many of `keys` keys of the block row i sees: the first bound + i when causal, none where
 * D is bad. */
static size_t grad_visible(const struct attn_backward_block *b, size_t i, size_t keys, ptrdiff_t bound)
{
    if (b->rows.shift[i] == INFINITY) return 0;
    const ptrdiff_t seen = b->causal ? bound + (ptrdiff_t)i : (ptrdiff_t)keys;
    return seen <= 0 ? 0 : least(keys, (size_t)seen);
}

static int any_bad(const struct attn_backward_block *b, size_t i, size_t rows)
{
    float most = 0.0f;
    for (size_t r = i; r < i + rows; r++) most = b->rows.shift[r] > most ? b->rows.shift[r] : most;
    return most == INFINITY;
}

/* P and dS of rows i0 .. i0+rows-1 against keys 0..keys-1 of the block, of which row i sees
 * grad_visible. */
static void grad_weights(const struct attn_backward_block *b, size_t i0, size_t rows, size_t keys, ptrdiff_t bound,
                         const float *k_panels, const float *v_panels, float *P, float *dS)
{
    const size_t d = b->head_dim, padded = attn_padded(d), all = round16(keys);
    for (size_t r = 0; r < rows; r += MR) {
        const size_t n = least(MR, rows - r);
        const ptrdiff_t last = b->causal ? bound + (ptrdiff_t)(i0 + r + n - 1) : (ptrdiff_t)keys;
        const size_t seen = last <= 0 ? 0 : least(keys, (size_t)last), end = round16(seen);
        const int bad = any_bad(b, i0 + r, n);
        for (size_t c = 0; c < end; c += NV * VW) {
            int limit[MR];
            const size_t nv = least(NV, (end - c) / VW);
            const int masked = bad || (b->causal && bound + (ptrdiff_t)(i0 + r) < (ptrdiff_t)(c + nv * VW));
            for (size_t i = 0; masked && i < n; i++) {
                const ptrdiff_t left = (ptrdiff_t)grad_visible(b, i0 + r + i, keys, bound) - (ptrdiff_t)c;
                limit[i] = left < 0 ? 0 : left > NV * VW ? NV * VW : (int)left;
            }
            const size_t panel = c / ATTN_PANEL * ATTN_PANEL * d + c % ATTN_PANEL;
            const struct grad_tile t = {
                d, b->rows.q + (i0 + r) * padded, b->rows.g + (i0 + r) * padded, (ptrdiff_t)padded,
                k_panels + panel, v_panels + panel, b->rows.shift + i0 + r, b->rows.delta + i0 + r,
                masked ? limit : NULL, P + r * GRAD_LD + c, dS + r * GRAD_LD + c
            };
            grad_tiles[n][nv](&t);
        }
        for (size_t i = r; i < r + n && end < all; i++) {
            memset(P + i * GRAD_LD + end, 0, (all - end) * sizeof *P);
            memset(dS + i * GRAD_LD + end, 0, (all - end) * sizeof *dS);
        }
    }
}

void ISA_NAME(attn_backward_block)(const struct attn_backward_block *b)
{
    const size_t d = b->head_dim, padded = attn_padded(d), step = tile_rows(padded);
    float *at = b->scratch;
    float *P = at;        at += ATTN_GRAD_QUERIES * GRAD_LD;
    float *dS = at;       at += ATTN_GRAD_QUERIES * GRAD_LD;
    float *dK = at;       at += ATTN_GRAD_KEYS * padded;
    float *dV = at;       at += ATTN_GRAD_KEYS * padded;
    float *K_rows = at;   at += ATTN_GRAD_KEYS * padded;
    float *K_panels = at; at += ATTN_GRAD_KEYS * d;
    float *V_panels = at;

    for (size_t j0 = 0; j0 < b->keys.len; j0 += ATTN_GRAD_KEYS) {
        const size_t keys = least(ATTN_GRAD_KEYS, b->keys.len - j0);
        const ptrdiff_t bound = b->bound - (ptrdiff_t)j0;
        /* Row i sees keys below bound + i: the first row that sees any is 1 - bound. */
        const size_t first = b->causal && bound < 1 ? (size_t)(1 - bound) : 0;
        if (first >= b->rows.rows) {
            memset(dK, 0, keys * padded * sizeof *dK);
            memset(dV, 0, keys * padded * sizeof *dV);
        } else {
            const float *kt = K_panels, *vt = V_panels, *k = b->keys.k + (ptrdiff_t)j0 * b->keys.k_row;
            ptrdiff_t k_row = b->keys.k_row;
            if (b->keys.k_panels) {
                kt = b->keys.k_panels + j0 * d;
                vt = b->keys.v_panels + j0 * d;
            } else {
                ISA_NAME(attn_pack_panels)(k, k_row, keys, d, K_panels);
                ISA_NAME(attn_pack_panels)(b->keys.v + (ptrdiff_t)j0 * b->keys.v_row, b->keys.v_row, keys, d, V_panels);
                if (!rows_usable(d, k_row)) {
                    ISA_NAME(attn_pack_rows)(k, k_row, keys, d, K_rows);
                    k = K_rows;
                    k_row = (ptrdiff_t)padded;
                }
            }
            for (size_t i0 = first; i0 < b->rows.rows; i0 += ATTN_GRAD_QUERIES) {
                const size_t rows = least(ATTN_GRAD_QUERIES, b->rows.rows - i0);
                const float *g = b->rows.g + i0 * padded, *q = b->rows.q + i0 * padded;
                const float *fresh = i0 == first ? from_zero : as_is;
                grad_weights(b, i0, rows, keys, bound, kt, vt, P, dS);
                /* Rows and keys go in groups; where one of them is not finite, one by one, so that it
                 * does not meet (as 0 times NaN) what it may not see. */
                const size_t key_step = !b->causal || all_finite(g, (ptrdiff_t)padded, rows, padded) ? step : 1;
                for (size_t j = 0; j < keys; j += key_step) {
                    const size_t n = least(key_step, keys - j);
                    const ptrdiff_t start = b->causal ? (ptrdiff_t)j - bound + 1 - (ptrdiff_t)i0 : 0;
                    const size_t from = start <= 0 ? 0 : least(rows, (size_t)start);
                    product_group(n, padded, rows - from, P + from * GRAD_LD + j, 1, GRAD_LD, g + from * padded,
                                  (ptrdiff_t)padded, dV + j * padded, (ptrdiff_t)padded, fresh);
                    product_group(n, padded, rows - from, dS + from * GRAD_LD + j, 1, GRAD_LD, q + from * padded,
                                  (ptrdiff_t)padded, dK + j * padded, (ptrdiff_t)padded, fresh);
                }
                for (size_t r = 0; r < rows; r += step) {
                    const size_t n = least(step, rows - r);
                    const ptrdiff_t last = b->causal ? bound + (ptrdiff_t)(i0 + r + n - 1) : (ptrdiff_t)keys;
                    const size_t seen = last <= 0 ? 0 : least(keys, (size_t)last);
                    const size_t common = grad_visible(b, i0 + r, keys, bound);
                    const int whole = !any_bad(b, i0 + r, n) &&
                        (common >= seen || all_finite(k + (ptrdiff_t)common * k_row, k_row, seen - common, d));
                    for (size_t i = r; i < r + n; i += whole ? n : 1)
                        product_group(whole ? n : 1, padded, whole ? seen : grad_visible(b, i0 + i, keys, bound),
                                      dS + i * GRAD_LD, GRAD_LD, 1, k, k_row, b->rows.dq + (i0 + i) * padded,
                                      (ptrdiff_t)padded, as_is);
                }
            }
        }
        /* q carries scale * log2(e): scale dS^T Q = ln 2 dS^T q. */
        if (b->dk) write_rows(dK, padded, keys, d, 0x1.62e43p-1f, b->dk + (ptrdiff_t)j0 * b->dk_row, b->dk_row, b->add);
        if (b->dv) write_rows(dV, padded, keys, d, 1.0f, b->dv + (ptrdiff_t)j0 * b->dv_row, b->dv_row, b->add);
    }
}

void ISA_NAME(attn_feature_backward)(const struct attn_feature_grad *f)
{
    const size_t d = f->head_dim, padded = attn_padded(d), r = f->feat_dim;
    const size_t phi_row = f->elu1 ? padded : r, dphi_row = (r + ATTN_PANEL - 1) / ATTN_PANEL * ATTN_PANEL;
    const float root = (float)pow((double)d, -0.25);
    float *panel = f->scratch, weight[ATTN_GRAD_QUERIES];

    /* phi <- phi 2^-M: what the features weigh relative to D. */
    for (size_t i = 0; i < f->rows; i++) {
        const float shift = f->shift[i];
        if (f->elu1 && shift == INFINITY) memset(f->phi + i * phi_row, 0, phi_row * sizeof *f->phi);
        else if (f->elu1) elu1_row(f->q + (ptrdiff_t)i * f->q_row, d, padded, root, f->phi + i * phi_row);
        if (f->phi_log && f->phi_log[i] != 0.0)
            weight[i] = (float)exp2(f->phi_log[i] * 0x1.71547652b82fep+0 - (double)shift);
        else
            weight[i] = shift > 150.0f ? 0.0f : shift < -128.0f ? INFINITY : power_of_two(-(int)shift);
    }
    /* dphi = (d_out Z^T - (d_out.T) k^T) / D, as the features were written. */
    for (size_t c = 0; c < r; c += ATTN_PANEL) {
        const size_t cols = least(ATTN_PANEL, r - c);
        ISA_NAME(attn_pack_panels)(f->Z + (ptrdiff_t)c * f->Z_row, f->Z_row, cols, d, panel);
        for (size_t i = 0; i < f->rows; i++) {
            float *to = f->dphi + i * dphi_row + c;
            scaled(to, f->kvec + c, -f->delta[i], cols);
            for (size_t j = cols; j < ATTN_PANEL; j++) to[j] = 0.0f;
        }
        product(f->rows, round16(cols), d, f->g, (ptrdiff_t)padded, 1, panel, ATTN_PANEL, f->dphi + c,
                (ptrdiff_t)dphi_row, as_is);
    }
    for (size_t i = 0; i < f->rows; i++) {
        float *phi = f->phi + i * phi_row, *dphi = f->dphi + i * dphi_row;
        if (f->shift[i] == INFINITY) memset(dphi, 0, dphi_row * sizeof *dphi);
        if (f->elu1) {
            /* elu' = 1 above 0 and e^z = phi below: min(phi, 1). Padded columns have dphi = 0. */
            float *dq = f->dq + i * padded;
            const vf by = splat(weight[i] * root), dense = splat(f->dq_scale);
            for (size_t c = 0; c < padded; c += VW) {
                const vf p = load(phi + c);
                store(dq + c, dense * load(dq + c) + by * load(dphi + c) * choose(p < splat(1.0f), p, splat(1.0f)));
            }
        } else if (weight[i] != 1.0f) {
            scaled(dphi, dphi, weight[i], r);
        }
        if (weight[i] != 1.0f) scaled(phi, phi, weight[i], phi_row);
        if (f->dk && f->first && !i) scaled(f->dk, phi, -f->delta[i], r);
        else if (f->dk) add_scaled(f->dk, phi, -f->delta[i], r);
    }
    if (f->dZ)
        product(r, padded, f->rows, f->phi, 1, (ptrdiff_t)phi_row, f->g, (ptrdiff_t)padded, f->dZ, f->dZ_row,
                f->first ? from_zero : as_is);
}

#if defined(ISA_PORTABLE)
size_t attn_backward_scratch(size_t head_dim)
{
    const size_t padded = attn_padded(head_dim);
    return 2 * ATTN_GRAD_QUERIES * GRAD_LD + 3 * ATTN_GRAD_KEYS * padded + 2 * ATTN_GRAD_KEYS * head_dim;
}

size_t attn_feature_scratch(size_t head_dim) { return ATTN_PANEL * head_dim; }
#endif
