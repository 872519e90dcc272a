/* Pair moments in registers: see gram_kernel.h.
 *
 * One tile is GRAM_ROWS pairs by up to MAX_VECTORS vectors of columns: per token it
 * loads the vectors, broadcasts the weights of the pairs and does all products. 24
 * accumulators of 32 registers (12 of 16 where there are 16) hide the latency of the
 * units and leave room for the operands. */
#include "theory/gram_kernel.h"

#include <math.h>
#include <string.h>
#include "common/isa.h"
#include "common/vmath.h"

enum { LANES = VMATH_LANES };
#if defined(ISA_AVX512) || defined(ISA_NEON)
enum { MAX_VECTORS = 4 };
#else
enum { MAX_VECTORS = 2 };
#endif

#define INLINE static inline __attribute__((always_inline))

INLINE vdouble load(const double *p)
{
    vdouble v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(double *p, vdouble v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vdouble splat(double x)
{
    return x - (vdouble){ 0 };
}

INLINE double sum_lanes(vdouble v)
{
    double sum = v[0];
    for (int i = 1; i < LANES; i++) sum += v[i];
    return sum;
}

static void cut(struct gram_columns *columns)
{
    columns->num_vectors = (columns->num_wide + LANES - 1) / LANES;
    columns->num_panels = (columns->num_vectors + MAX_VECTORS - 1) / MAX_VECTORS;
}

/* Panels are of equal width, the first `wider` one vector more. */
struct widths { size_t base, wider; };

INLINE struct widths panel_widths(const struct gram_columns *columns)
{
    return (struct widths){ columns->num_vectors / columns->num_panels, columns->num_vectors % columns->num_panels };
}

/* The wide columns of one token, zeros up to a whole vector.
 * Whole vectors are stored from the start of each run; what goes beyond its end is
 * overwritten by the next. w has LANES readable numbers behind it. */
INLINE void features(const struct gram_columns *columns, const double *w, double a, double *row)
{
    const size_t d = columns->dim;
    for (size_t k = 0; k < d; k++) {
        const vdouble wk = splat(w[k]);
        for (size_t l = k; l < d; l += LANES) store(row + (l - k), wk * load(w + l));
        row += d - k;
    }
    if (columns->has_w) {
        for (size_t k = 0; k < d; k += LANES) store(row + k, load(w + k));
        row += d;
    }
    if (columns->has_b) {
        for (size_t k = 0; k < d; k += LANES) store(row + k, splat(a) * load(w + k));
        row += d;
    }
    store(row, splat(0.0));
}

/* In one function: every part works on the block that the part before has just written. */
static int scores(const struct gram_columns *columns, const struct gram_scores *in)
{
    const size_t d = columns->dim, padded_samples = in->padded_samples, len = in->len, first = in->first,
        last = in->last;
    const size_t tda = in->tda, sign_stride = in->sign_stride;
    const double *X = in->X, *W = in->W, *signs = in->signs;
    double *tokens = in->tokens, *panels = in->panels, *singles = in->singles, *rho = in->rho, *top = in->top;
    double *scratch = in->scratch;
    const struct widths widths = panel_widths(columns);
    double *w = scratch, *row = scratch + d + GRAM_ALIGN, a[GRAM_ITEM];
    memset(w, 0, (d + GRAM_ALIGN) * sizeof *w);
    for (size_t t = first; t < last; t++) {
        if (t < len) memcpy(w, W + t * tda, d * sizeof *w);
        else memset(w, 0, d * sizeof *w);
        a[t - first] = t < len ? signs[t * sign_stride] : 0.0;
        features(columns, w, a[t - first], row);
        const double *from = row;
        double *panel = panels;
        for (size_t p = 0; p < columns->num_panels; p++) {
            const size_t width = (widths.base + (p < widths.wider)) * LANES;
            for (size_t v = 0; v < width; v += LANES) store(panel + t * width + v, load(from + v));
            panel += width * GRAM_TOKENS;
            from += width;
        }
        if (columns->has_a) singles[t] = a[t - first];
        if (columns->has_one) singles[(size_t)columns->has_a * GRAM_TOKENS + t] = 1.0;
        /* Tokens by coordinate, without signs for the scores; those come below. */
        tokens[t] = 1.0;
        for (size_t k = 0; k < d; k++) tokens[(k + 1) * GRAM_TOKENS + t] = w[k];
    }

    vint64 refused = (vint64){ 0 };
    for (size_t i = 0; i < padded_samples; i += GRAM_ROWS) {
        const double *x = X + i * d;
        for (size_t t = first; t < last; t += LANES) {
            vdouble acc[GRAM_ROWS];
            for (int r = 0; r < GRAM_ROWS; r++) acc[r] = splat(0.0);
            for (size_t k = 0; k < d; k++) {
                const vdouble coordinate = load(tokens + (k + 1) * GRAM_TOKENS + t);
                for (int r = 0; r < GRAM_ROWS; r++) acc[r] += x[(size_t)r * d + k] * coordinate;
            }
            for (int r = 0; r < GRAM_ROWS; r++) {
                const vint64 size = (vint64)acc[r] & INT64_MAX;
                refused |= ~((vdouble)size <= GRAM_MAX_SCORE);
                store(rho + (i + (size_t)r) * GRAM_TOKENS + t, acc[r]);
            }
        }
    }
    for (size_t i = 0; i < padded_samples; i++) {
        const double *s = rho + i * GRAM_TOKENS;
        vdouble best = splat(-INFINITY);
        size_t t = first;
        for (; t < last && t + LANES <= len; t += LANES) best = vmath_max(load(s + t), best);
        double most = best[0];
        for (int u = 1; u < LANES; u++) most = best[u] > most ? best[u] : most;
        for (; t < last && t < len; t++) most = s[t] > most ? s[t] : most;
        top[i] = most;
    }

    if (columns->has_b)
        for (size_t k = 1; k <= d; k++)
            for (size_t t = first; t < last; t += LANES) {
                double *b = tokens + k * GRAM_TOKENS + t;
                store(b, load(a + (t - first)) * load(b));
            }
    int any = 0;
    for (int u = 0; u < LANES; u++) any |= refused[u] != 0;
    return any;
}

static void weights(double *rho, double shift, size_t len, size_t padded)
{
    const vdouble k = splat(shift);
    for (size_t t = 0; t < padded; t += LANES) store(rho + t, vmath_exp_scaled(load(rho + t), k));
    for (size_t t = len; t < padded; t++) rho[t] = 0.0;
}

/* moments[r][v] += sum_t q[r][t] panel[t][v] for a panel of `vectors` vectors. */
INLINE void tile(const double *restrict q, const double *restrict panel, size_t padded,
                 double *restrict moments, size_t stride, const int vectors)
{
    vdouble acc[GRAM_ROWS][MAX_VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < GRAM_ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[r][v] = splat(0.0);
    for (size_t t = 0; t < padded; t++, panel += vectors * LANES) {
        vdouble column[MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) column[v] = load(panel + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < GRAM_ROWS; r++) {
            const vdouble weight = splat(q[r * GRAM_TOKENS + t]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[r][v] += weight * column[v];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < GRAM_ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            double *m = moments + (size_t)r * stride + v * LANES;
            store(m, load(m) + acc[r][v]);
        }
}

/* The same for columns stored by token, vectors running along the tokens. */
INLINE void dots(const double *restrict rows, const double *restrict columns, size_t padded,
                 double *restrict sums, size_t stride, const int count)
{
    vdouble acc[GRAM_ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < GRAM_ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < count; c++) acc[r][c] = splat(0.0);
    for (size_t t = 0; t < padded; t += LANES) {
        vdouble column[4];
#pragma GCC unroll 4
        for (int c = 0; c < count; c++) column[c] = load(columns + c * GRAM_TOKENS + t);
#pragma GCC unroll 6
        for (int r = 0; r < GRAM_ROWS; r++) {
            const vdouble row = load(rows + r * GRAM_TOKENS + t);
#pragma GCC unroll 4
            for (int c = 0; c < count; c++) acc[r][c] += row * column[c];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < GRAM_ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < count; c++) sums[(size_t)r * stride + (size_t)c] += sum_lanes(acc[r][c]);
}

static void sums(const double *rho, const double *tokens, size_t count, size_t padded, double *out,
                 size_t stride)
{
    while (count >= 4) {
        dots(rho, tokens, padded, out, stride, 4);
        tokens += 4 * GRAM_TOKENS;
        out += 4;
        count -= 4;
    }
    if (count == 3) dots(rho, tokens, padded, out, stride, 3);
    if (count == 2) dots(rho, tokens, padded, out, stride, 2);
    if (count == 1) dots(rho, tokens, padded, out, stride, 1);
}

static void pairs(const struct gram_columns *columns, const double *rho, const unsigned *i,
                  const unsigned *j, size_t padded, const double *panels, size_t first_panel,
                  size_t last_panel, const double *singles, double *moments)
{
    double q[GRAM_ROWS * GRAM_TOKENS] __attribute__((aligned(64)));
    for (int r = 0; r < GRAM_ROWS; r++) {
        const double *left = rho + (size_t)i[r] * GRAM_TOKENS, *right = rho + (size_t)j[r] * GRAM_TOKENS;
        for (size_t t = 0; t < padded; t += LANES)
            store(q + r * GRAM_TOKENS + t, load(left + t) * load(right + t));
    }
    const size_t stride = columns->stride;
    const struct widths widths = panel_widths(columns);
    for (size_t p = first_panel; p < last_panel; p++) {
        const size_t start = p * widths.base + (p < widths.wider ? p : widths.wider);
        const size_t vectors = widths.base + (p < widths.wider);
        const double *panel = panels + start * LANES * GRAM_TOKENS;
        double *to = moments + start * LANES;
        switch (vectors) {
        case 1: tile(q, panel, padded, to, stride, 1); break;
        case 2: tile(q, panel, padded, to, stride, 2); break;
#if defined(ISA_AVX512) || defined(ISA_NEON)
        case 3: tile(q, panel, padded, to, stride, 3); break;
        default: tile(q, panel, padded, to, stride, 4); break;
#endif
        }
    }
    if (singles)
        sums(q, singles, columns->num_singles, padded, moments + columns->first_single, stride);
}

const struct gram_kernels ISA_NAME(gram_kernels) = { cut, scores, weights, pairs, sums };
