#include "theory/prefix_pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>
#include <gsl/gsl_errno.h>
#include "common/parallel.h"
#include "common/isa.h"
#include "theory/prefix_pass_kernel.h"

enum {
    CHUNK_BLOCKS_MIN = 8,          /* a chunk is worth handing to a thread ...           */
    CHUNKS_PER_HALF_MAX = 128,     /* ... and their sums stay small beside the work      */
    ALIGNMENT = 64
};

static size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

/* The cut of prefix_len tokens, a function of prefix_len alone. */
static void cut(struct prefix_pass *p)
{
    const size_t m = p->prefix_len;
    p->half[0] = 0;
    p->half[1] = m - m / 2;
    p->half[2] = m;
    const size_t blocks = (p->half[1] + PASS_TOKENS - 1) / PASS_TOKENS;
    size_t per_chunk = (blocks + CHUNKS_PER_HALF_MAX - 1) / CHUNKS_PER_HALF_MAX;
    if (per_chunk < CHUNK_BLOCKS_MIN) per_chunk = CHUNK_BLOCKS_MIN;
    p->chunk_len = per_chunk * PASS_TOKENS;
    p->first_chunk[0] = 0;
    for (int h = 0; h < 2; h++) {
        const size_t len = p->half[h + 1] - p->half[h];
        p->first_chunk[h + 1] = p->first_chunk[h] + (len + p->chunk_len - 1) / p->chunk_len;
    }
    p->num_chunks = p->first_chunk[2];
}

static void chunk_range(const struct prefix_pass *p, size_t chunk, size_t *begin, size_t *end)
{
    const int h = chunk >= p->first_chunk[1];
    *begin = p->half[h] + (chunk - p->first_chunk[h]) * p->chunk_len;
    *end = *begin + p->chunk_len < p->half[h + 1] ? *begin + p->chunk_len : p->half[h + 1];
}

static void sizes(struct prefix_pass *p)
{
    p->dim_pad = round_up(p->dim, PASS_PAD);
    cut(p);
    p->partial_size = round_up(p->num_samples * (p->dim_pad + 2), ALIGNMENT / sizeof(double));
    /* wt, dwt, rows, weights, coeff, signs, bias, mass */
    p->scratch_size = PASS_TOKENS * (2 * p->dim + p->dim_pad + p->num_samples + 2 * PASS_SAMPLES + 2)
                    + p->num_samples * PASS_PAD;
    p->scratch_size = round_up(p->scratch_size, ALIGNMENT / sizeof(double));
}

size_t prefix_pass_bytes(size_t prefix_len, size_t dim, size_t num_samples, int num_threads)
{
    struct prefix_pass p = { .prefix_len = prefix_len, .dim = dim, .num_samples = num_samples };
    sizes(&p);
    return sizeof(double) * (num_samples * (3 * dim + p.dim_pad + 4) + prefix_len
                             + p.num_chunks * p.partial_size + (size_t)num_threads * p.scratch_size);
}

/* Those of the instruction set in use when the pass is made. */
static struct pass_kernels kernels_now(void)
{
#define KERNELS(isa) { pass_accumulate_##isa, pass_accumulate_shifted_##isa, pass_gradient_##isa, pass_load_##isa,     \
                       pass_update_##isa }
    static const struct pass_kernels all[] = ISA_TABLE(KERNELS);
    return all[isa_current()];
}

static double *aligned(size_t count)
{
    return aligned_alloc(ALIGNMENT, round_up((count ? count : 1) * sizeof(double), ALIGNMENT));
}

struct prefix_pass *prefix_pass_alloc(const gsl_vector *signs, const gsl_matrix *X, int num_threads)
{
    struct prefix_pass *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->prefix_len = signs->size;
    p->dim = X->size2;
    p->num_samples = X->size1;
    p->num_threads = num_threads > 1 ? num_threads : 1;
    p->kernels = kernels_now();
    sizes(p);
    p->own_last = p->num_chunks;
    const size_t n = p->num_samples, d = p->dim;
    p->X = aligned(n * d);
    p->XR = aligned(2 * n * d);
    p->offset = aligned(n);
    p->c = aligned(n);
    p->signs = aligned(p->prefix_len);
    p->top = aligned(n);
    p->mass = aligned(n);
    p->sum = aligned(n * p->dim_pad);
    p->partial = aligned(p->num_chunks * p->partial_size);
    p->scratch = aligned((size_t)p->num_threads * p->scratch_size);
    if (!p->X || !p->XR || !p->offset || !p->c || !p->signs || !p->top || !p->mass || !p->sum
        || !p->partial || !p->scratch) {
        prefix_pass_free(p);
        return NULL;
    }
    /* The padding of the token rows stays 0 from here on. */
    memset(p->scratch, 0, (size_t)p->num_threads * p->scratch_size * sizeof(double));
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < d; k++)
            p->X[i * d + k] = p->XR[2 * i * d + k] = gsl_matrix_get(X, i, k);
    for (size_t r = 0; r < p->prefix_len; r++) p->signs[r] = gsl_vector_get(signs, r);
    return p;
}

void prefix_pass_free(struct prefix_pass *p)
{
    if (!p) return;
    free(p->X);
    free(p->XR);
    free(p->offset);
    free(p->c);
    free(p->signs);
    free(p->top);
    free(p->mass);
    free(p->sum);
    free(p->merged);
    free(p->partial);
    free(p->scratch);
    free(p);
}

/* One thread's block of tokens. */
struct block {
    double *wt, *dwt, *rows, *weights, *coeff, *signs, *bias, *mass;
    size_t live;
};

static struct block block_of(const struct prefix_pass *p, int thread)
{
    struct block b;
    double *at = p->scratch + (size_t)thread * p->scratch_size;
    b.wt = at;
    b.dwt = at += PASS_TOKENS * p->dim;
    b.rows = at += PASS_TOKENS * p->dim;
    b.weights = at += PASS_TOKENS * p->dim_pad;
    b.coeff = at += PASS_TOKENS * p->num_samples;
    b.signs = at += PASS_TOKENS * 2 * PASS_SAMPLES;
    b.bias = at += PASS_TOKENS;
    b.mass = at += PASS_TOKENS;
    b.live = 0;
    return b;
}

/* Tokens begin .. begin + live of W, transposed into lanes, and a_r w_r as rows; the
 * rest of the block becomes tokens that weigh nothing. */
static void block_load(const struct prefix_pass *p, struct block *b, const double *W, size_t ld,
                       size_t begin, size_t live)
{
    b->live = live;
    for (size_t r = 0; r < PASS_TOKENS; r++) {
        b->signs[r] = r < live ? p->signs[begin + r] : 0.0;
        b->bias[r] = r < live ? 0.0 : -INFINITY;
    }
    if (live == PASS_TOKENS) {
        p->kernels.load(p->dim, p->dim_pad, W + begin * ld, ld, b->signs, b->wt, b->rows);
        return;
    }
    for (size_t r = 0; r < PASS_TOKENS; r++)
        for (size_t k = 0; k < p->dim; k++) {
            const double w = r < live ? W[(begin + r) * ld + k] : 0.0;
            b->wt[k * PASS_TOKENS + r] = w;
            b->rows[r * p->dim_pad + k] = b->signs[r] * w;
        }
}

/* W <- W - step_size dW for the block, in W, in its lanes and in its rows. */
static void block_update(const struct prefix_pass *p, struct block *b, double step_size, double *W, size_t ld,
                         size_t begin)
{
    if (b->live == PASS_TOKENS) {
        p->kernels.update(p->dim, p->dim_pad, step_size, b->dwt, b->signs, b->wt, W + begin * ld, ld, b->rows);
        return;
    }
    for (size_t r = 0; r < b->live; r++)
        for (size_t k = 0; k < p->dim; k++) {
            double *w = b->wt + k * PASS_TOKENS + r;
            *w -= step_size * b->dwt[k * PASS_TOKENS + r];
            W[(begin + r) * ld + k] = *w;
            b->rows[r * p->dim_pad + k] = b->signs[r] * *w;
        }
}

struct sums { double *top, *mass, *sum; };

static struct sums partial_of(const struct prefix_pass *p, size_t chunk)
{
    double *at = p->partial + chunk * p->partial_size;
    return (struct sums){ at, at + p->num_samples, at + 2 * p->num_samples };
}

static void sums_clear(const struct prefix_pass *p, struct sums s)
{
    for (size_t i = 0; i < p->num_samples; i++) s.top[i] = -INFINITY;
    memset(s.mass, 0, p->num_samples * sizeof(double));
    memset(s.sum, 0, p->num_samples * p->dim_pad * sizeof(double));
}

/* into += from, both scaled to the larger maximum. */
static void sums_merge(const struct prefix_pass *p, struct sums into, struct sums from)
{
    for (size_t i = 0; i < p->num_samples; i++) {
        const double top = from.top[i] > into.top[i] ? from.top[i] : into.top[i];
        const double mine = exp(into.top[i] - top), other = exp(from.top[i] - top);
        into.top[i] = top;
        into.mass[i] = mine * into.mass[i] + other * from.mass[i];
        double *a = into.sum + i * p->dim_pad;
        const double *b = from.sum + i * p->dim_pad;
        for (size_t k = 0; k < p->dim; k++) a[k] = mine * a[k] + other * b[k];
    }
}

/* Merges all chunks into top, mass, sum, but for what subtrees are merged already. */
int prefix_pass_merge(struct prefix_pass *p)
{
    for (int h = 0; h < 2; h++) {
        const size_t first = p->first_chunk[h], count = p->first_chunk[h + 1] - first;
        for (size_t stride = 1; stride < count; stride *= 2)
            for (size_t c = 0; c + stride < count; c += 2 * stride)
                if (!p->merged || stride >= p->merged[first + c])
                    sums_merge(p, partial_of(p, first + c), partial_of(p, first + c + stride));
    }
    const struct sums all = partial_of(p, 0);
    if (p->first_chunk[2] > p->first_chunk[1]) sums_merge(p, all, partial_of(p, p->first_chunk[1]));
    memcpy(p->top, all.top, p->num_samples * sizeof(double));
    memcpy(p->mass, all.mass, p->num_samples * sizeof(double));
    memcpy(p->sum, all.sum, p->num_samples * p->dim_pad * sizeof(double));
    for (size_t i = 0; i < p->num_samples; i++)
        if (!(isfinite(p->top[i]) && p->mass[i] > 0.0 && isfinite(p->mass[i]))) return GSL_EDOM;
    return GSL_SUCCESS;
}

/* ---- chunks of several processes ---- */

static void chunks_of(const struct prefix_pass *p, int rank, int count, size_t *first, size_t *last)
{
    *first = p->num_chunks * (size_t)rank / (size_t)count;
    *last = p->num_chunks * ((size_t)rank + 1) / (size_t)count;
}

/* The largest subtree of the tree of a half that begins at chunk c and does not reach beyond `last`; the chunks
 * behind it. */
static size_t subtree(const struct prefix_pass *p, size_t c, size_t last, size_t *size)
{
    const int h = c >= p->first_chunk[1];
    const size_t first = p->first_chunk[h], end = p->first_chunk[h + 1], at = c - first;
    *size = 1;
    for (;;) {
        const size_t beyond = c + 2 * *size < end ? c + 2 * *size : end;
        if (at % (2 * *size) || beyond > last || c + *size >= end) break;
        *size *= 2;
    }
    return c + *size < end ? c + *size : end;
}

int prefix_pass_share(struct prefix_pass *p, int rank, int count)
{
    if (!p->merged && !(p->merged = malloc(p->num_chunks * sizeof *p->merged))) return GSL_ENOMEM;
    for (int r = 0; r < count; r++) {
        size_t c, last, size;
        for (chunks_of(p, r, count, &c, &last); c < last;)
            for (size_t next = subtree(p, c, last, &size); c < next; c++) p->merged[c] = size;
    }
    chunks_of(p, rank, count, &p->own_first, &p->own_last);
    return GSL_SUCCESS;
}

void prefix_pass_tokens(const struct prefix_pass *p, int rank, int count, size_t *first, size_t *last)
{
    size_t begin, end, unused;
    chunks_of(p, rank, count, &begin, &end);
    *first = *last = 0;
    if (begin == end) return;
    chunk_range(p, begin, first, &unused);
    chunk_range(p, end - 1, &unused, last);
}

size_t prefix_pass_parts_size(const struct prefix_pass *p, int rank, int count)
{
    size_t c, last, size, parts = 0;
    for (chunks_of(p, rank, count, &c, &last); c < last; parts++) c = subtree(p, c, last, &size);
    return parts * p->partial_size;
}

/* Own sums merged within their subtrees; parts NULL: left in place. */
void prefix_pass_parts_read(struct prefix_pass *p, int rank, int count, double *parts)
{
    size_t c, last, size;
    for (chunks_of(p, rank, count, &c, &last); c < last;) {
        const size_t next = subtree(p, c, last, &size);
        for (size_t stride = 1; stride < size; stride *= 2)
            for (size_t i = c; i + stride < next; i += 2 * stride)
                sums_merge(p, partial_of(p, i), partial_of(p, i + stride));
        if (parts) {
            memcpy(parts, p->partial + c * p->partial_size, p->partial_size * sizeof *parts);
            parts += p->partial_size;
        }
        c = next;
    }
}

void prefix_pass_parts_write(struct prefix_pass *p, int rank, int count, const double *parts)
{
    size_t c, last, size;
    for (chunks_of(p, rank, count, &c, &last); c < last; parts += p->partial_size) {
        memcpy(p->partial + c * p->partial_size, parts, p->partial_size * sizeof *parts);
        c = subtree(p, c, last, &size);
    }
}

/* Threads for one pass: starting them costs more than a small pass takes. */
static int threads_for(const struct prefix_pass *p)
{
    const double work = (double)p->prefix_len * (double)p->num_samples * (double)p->dim;
    const int most = p->num_chunks < (size_t)p->num_threads ? (int)p->num_chunks : p->num_threads;
    return work > 262144.0 ? most : 1;
}

/* Sums of a chunk with a given shift: before its first block, of a block, after its last. */
static void shifted_begin(const struct prefix_pass *p, const struct block *b, struct sums s, const double *shift)
{
    sums_clear(p, s);
    memcpy(s.top, shift, p->num_samples * sizeof(double));
    memset(b->mass, 0, p->num_samples * PASS_PAD * sizeof(double));
}

static void shifted_end(const struct prefix_pass *p, const struct block *b, struct sums s)
{
    for (size_t i = 0; i < p->num_samples; i++) {
        const double *lane = b->mass + i * PASS_PAD;
        s.mass[i] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
}

/* The block in b and where its sums go: with a given shift those of each lane, b->mass. */
static struct pass_sums sums_of(const struct prefix_pass *p, const struct block *b, struct sums s, const double *shift)
{
    return (struct pass_sums){
        .n = p->num_samples, .dim = p->dim, .dim_pad = p->dim_pad, .X = p->X, .wt = b->wt, .bias = b->bias,
        .rows = b->rows,
        .shift = shift, .weights = b->weights, .top = s.top, .mass = shift ? b->mass : s.mass, .sum = s.sum,
    };
}

static void block_gradient(const struct prefix_pass *p, const struct block *b)
{
    const struct pass_gradient args = { .n = p->num_samples, .dim = p->dim, .XR = p->XR, .offset = p->offset, .c = p->c,
                                        .wt = b->wt, .signs = b->signs, .coeff = b->coeff, .dwt = b->dwt };
    p->kernels.gradient(&args);
}

void prefix_pass_sums_begin(struct prefix_pass *p, const double *W, size_t ld, const double *shift)
{
#pragma omp parallel num_threads(parallel_openmp_threads(threads_for(p)))
    {
        struct block b = block_of(p, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (size_t chunk = p->own_first; chunk < p->own_last; chunk++) {
            size_t begin, end;
            chunk_range(p, chunk, &begin, &end);
            const struct sums s = partial_of(p, chunk);
            if (shift) shifted_begin(p, &b, s, shift);
            else sums_clear(p, s);
            for (size_t r = begin; r < end; r += PASS_TOKENS) {
                block_load(p, &b, W, ld, r, end - r < PASS_TOKENS ? end - r : PASS_TOKENS);
                const struct pass_sums args = sums_of(p, &b, s, shift);
                if (shift) p->kernels.accumulate_shifted(&args);
                else p->kernels.accumulate(&args);
            }
            if (shift) shifted_end(p, &b, s);
        }
    }
}

int prefix_pass_sums(struct prefix_pass *p, const double *W, size_t ld, const double *shift)
{
    prefix_pass_sums_begin(p, W, ld, shift);
    return prefix_pass_merge(p);
}

/* R into the odd rows of XR, and the exponent that makes e^{s - offset} = m S. */
static void gradient_setup(struct prefix_pass *p, const double *R, const double *c, const double *lse)
{
    const double log_m = log((double)p->prefix_len);
    for (size_t i = 0; i < p->num_samples; i++) {
        memcpy(p->XR + (2 * i + 1) * p->dim, R + i * p->dim, p->dim * sizeof(double));
        p->offset[i] = lse[i] - log_m;
        p->c[i] = c[i];
    }
}

void prefix_pass_gradient(struct prefix_pass *p, const double *R, const double *c, const double *lse,
                          const double *W, size_t ld, double *dW, size_t ld_dW)
{
    gradient_setup(p, R, c, lse);
#pragma omp parallel num_threads(parallel_openmp_threads(threads_for(p)))
    {
        struct block b = block_of(p, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (size_t chunk = 0; chunk < p->num_chunks; chunk++) {
            size_t begin, end;
            chunk_range(p, chunk, &begin, &end);
            for (size_t r = begin; r < end; r += PASS_TOKENS) {
                block_load(p, &b, W, ld, r, end - r < PASS_TOKENS ? end - r : PASS_TOKENS);
                block_gradient(p, &b);
                for (size_t q = 0; q < b.live; q++)
                    for (size_t k = 0; k < p->dim; k++)
                        dW[(r + q) * ld_dW + k] = b.dwt[k * PASS_TOKENS + q];
            }
        }
    }
}

void prefix_pass_descend_begin(struct prefix_pass *p, const double *R, const double *c, const double *lse,
                               double step_size, double *W, size_t ld)
{
    gradient_setup(p, R, c, lse);
#pragma omp parallel num_threads(parallel_openmp_threads(threads_for(p)))
    {
        struct block b = block_of(p, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (size_t chunk = p->own_first; chunk < p->own_last; chunk++) {
            size_t begin, end;
            chunk_range(p, chunk, &begin, &end);
            const struct sums s = partial_of(p, chunk);
            /* The new scores are shifted by the old log-sum-exp, which is no less than the
             * old maximum: no running maximum. */
            shifted_begin(p, &b, s, lse);
            /* A block is read once: its gradient, its update and its part of the next
             * forward pass, while it is in the first cache. */
            for (size_t r = begin; r < end; r += PASS_TOKENS) {
                block_load(p, &b, W, ld, r, end - r < PASS_TOKENS ? end - r : PASS_TOKENS);
                block_gradient(p, &b);
                block_update(p, &b, step_size, W, ld, r);
                const struct pass_sums args = sums_of(p, &b, s, lse);
                p->kernels.accumulate_shifted(&args);
            }
            shifted_end(p, &b, s);
        }
    }
}

int prefix_pass_in_range(const struct prefix_pass *p)
{
    for (size_t i = 0; i < p->num_samples; i++)
        if (!(isfinite(p->top[i]) && p->mass[i] > 1e-100 && p->mass[i] < 1e100)) return 0;
    return 1;
}

int prefix_pass_descend(struct prefix_pass *p, const double *R, const double *c, const double *lse,
                        double step_size, double *W, size_t ld, int *shifted)
{
    prefix_pass_descend_begin(p, R, c, lse, step_size, W, ld);
    *shifted = !prefix_pass_merge(p) && prefix_pass_in_range(p);
    return *shifted ? GSL_SUCCESS : prefix_pass_sums(p, W, ld, NULL);
}
