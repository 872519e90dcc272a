/* Pair moments of a prefix that arrives in pieces, and the kernels made of them. */
#include "prefix_ntk/ntk.h"

#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_errno.h>
#include "common/hash.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "common/saved.h"
#include "theory/gram_kernel.h"

enum {
    COLUMNS_PER_CHUNK = 192,/* whose features of a block stay in the L2 cache */
    MAX_BATCH = 8,          /* blocks between two meetings of the threads */
    MAX_BATCH_FEATURES = 1 << 20,
    MAX_GROUPS_PER_ITEM = 8,/* of pairs, taken through a batch by one thread */
    MIN_ITEMS = 16,         /* enough to share among threads, where there are as many */
    ITEMS_PER_BLOCK = GRAM_TOKENS / GRAM_ITEM,
    MAX_LEVELS = 64
};

/* A weight may exceed its sample's shift by this power of two before the shift is
 * raised: products of two and their sums stay far from overflow, and random prefixes
 * never get there. */
static const double MAX_EXPONENT = 256.0;

/* Sums over a range of tokens, all times 2^-(shift_i + shift_j). */
struct node {
    double *moments;        /* (num_groups * GRAM_ROWS, stride), by pair */
    double *sums;           /* (padded_samples, sums_stride): sum rho, sum rho b */
    double *shift;          /* (padded_samples), integers */
};

struct ntk_moments {
    size_t num_samples, padded_samples, dim, num_pairs, num_groups;
    enum prefix_signs law;
    enum ntk_kernel kernel;
    int num_threads, status;
    const struct gram_kernels *kernels;
    struct gram_columns columns;
    size_t num_sums, sums_stride;
    double *X;              /* (padded_samples, dim), zero rows at the end */
    unsigned *left, *right; /* samples of a pair; the last pair repeated to whole groups */

    /* Binary counter: level l holds 2^l whole leaves; the leaf in progress holds whole
     * blocks; the block in progress holds tokens. */
    size_t count, num_pending;
    struct node levels[MAX_LEVELS], leaf, spare[2];
    int has_shift;
    double *pending_W, *pending_signs;

    /* A batch of blocks in work, buffers of gram_kernel.h by block. */
    size_t max_batch;
    double *rho, *tokens, *panels, *singles, *tops, *shift, *scratch;
};

static size_t round_up(size_t x, size_t unit)
{
    return (x + unit - 1) / unit * unit;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static double *doubles(size_t count)
{
    if (count > SIZE_MAX / sizeof(double) - 64) return NULL;
    double *p = aligned_alloc(64, round_up(count * sizeof(double), 64));
    return p;
}

/* ---- shapes ------------------------------------------------------------------ */

static struct gram_columns columns_of(size_t dim, enum prefix_signs law, enum ntk_kernel kernel)
{
    struct gram_columns c = { .dim = dim, .num_products = dim * (dim + 1) / 2 };
    switch (law) {
    case PREFIX_SIGNS_POSITIVE:     /* a = 1, b = w */
        c.has_w = c.has_one = 1;
        break;
    case PREFIX_SIGNS_MIRRORED:     /* sums of a and b, and f, are exactly 0 */
        c.has_w = c.has_one = kernel == NTK_FULL;
        break;
    default:
        c.has_w = c.has_a = kernel == NTK_FULL;
        c.has_b = c.has_one = 1;
    }
    c.num_wide = c.num_products + (size_t)(c.has_w + c.has_b) * dim;
    c.first_single = round_up(c.num_wide, GRAM_ALIGN);
    c.num_singles = (size_t)(c.has_a + c.has_one);
    c.stride = round_up(c.first_single + c.num_singles, GRAM_ALIGN);
    return c;
}

/* A line of cache more keeps the threads' parts apart. */
static size_t scratch_of(const struct gram_columns *columns)
{
    return round_up(columns->dim, GRAM_ALIGN) + columns->first_single + 3 * GRAM_ALIGN;
}

static size_t groups_of(size_t num_samples)
{
    return (num_samples * (num_samples + 1) / 2 + GRAM_ROWS - 1) / GRAM_ROWS;
}

/* Blocks in a batch: fewer where their features would leave the caches. */
static size_t batch_of(const struct gram_columns *columns)
{
    const size_t fit = MAX_BATCH_FEATURES / (columns->first_single * GRAM_TOKENS);
    return fit < 1 ? 1 : fit > MAX_BATCH ? MAX_BATCH : fit;
}

size_t ntk_moments_bytes(size_t n, size_t dim, enum prefix_signs law, enum ntk_kernel kernel,
                         size_t prefix_len)
{
    const struct gram_columns columns = columns_of(dim, law, kernel);
    const double padded = (double)n + GRAM_ROWS;
    const double block = (double)batch_of(&columns) * GRAM_TOKENS * ((double)columns.first_single + 3.0 * (double)dim
                                                                     + padded + 8.0);
    const double node = (double)(groups_of(n) * GRAM_ROWS) * (double)columns.stride + padded * (double)(dim + 10);
    /* The leaf, the copy for assembly (or the next leaf), and as many levels as the counter ever holds at once. */
    double nodes = 2.0;
    for (size_t leaves = prefix_len / NTK_MOMENTS_LEAF + 1; leaves > 1; leaves /= 2) nodes += 1.0;
    const double bytes = 8.0 * (nodes * node + block) + 24.0 * (double)(groups_of(n) * GRAM_ROWS);
    return bytes < 0.5 * (double)SIZE_MAX ? (size_t)bytes : SIZE_MAX;
}

/* ---- nodes ------------------------------------------------------------------- */

static void node_free(struct node *node)
{
    free(node->moments);
    free(node->sums);
    free(node->shift);
    *node = (struct node){ 0 };
}

static int node_alloc(const struct ntk_moments *m, struct node *node)
{
    node->moments = doubles(m->num_groups * GRAM_ROWS * m->columns.stride);
    node->sums = doubles(m->padded_samples * m->sums_stride);
    node->shift = doubles(m->padded_samples);
    if (node->moments && node->sums && node->shift) return GSL_SUCCESS;
    node_free(node);
    return GSL_ENOMEM;
}

static void node_clear(const struct ntk_moments *m, struct node *node)
{
    memset(node->moments, 0, m->num_groups * GRAM_ROWS * m->columns.stride * sizeof(double));
    memset(node->sums, 0, m->padded_samples * m->sums_stride * sizeof(double));
}

static void node_copy(const struct ntk_moments *m, struct node *to, const struct node *from)
{
    memcpy(to->moments, from->moments, m->num_groups * GRAM_ROWS * m->columns.stride * sizeof(double));
    memcpy(to->sums, from->sums, m->padded_samples * m->sums_stride * sizeof(double));
    memcpy(to->shift, from->shift, m->padded_samples * sizeof(double));
}

/* A spare node, or a new one. */
static int node_take(struct ntk_moments *m, struct node *node)
{
    for (int s = 0; s < 2; s++)
        if (m->spare[s].moments) {
            *node = m->spare[s];
            m->spare[s] = (struct node){ 0 };
            return GSL_SUCCESS;
        }
    return node_alloc(m, node);
}

static void node_give(struct ntk_moments *m, struct node *node)
{
    for (int s = 0; s < 2; s++)
        if (!m->spare[s].moments) {
            m->spare[s] = *node;
            *node = (struct node){ 0 };
            return;
        }
    node_free(node);
}

/* Moves a node to other shifts: powers of two, so exact but for what underflows,
 * which is beyond the last bit of any sum it is added to. */
static void node_shift(const struct ntk_moments *m, struct node *node, const double *shift)
{
    const size_t n = m->num_samples, stride = m->columns.stride;
    int same = 1;
    for (size_t i = 0; i < n; i++) same &= node->shift[i] == shift[i];
    if (same) return;
#pragma omp parallel for num_threads(parallel_openmp_threads(m->num_threads)) schedule(static)
    for (size_t p = 0; p < m->num_groups * GRAM_ROWS; p++) {
        const unsigned i = m->left[p], j = m->right[p];
        const double change = node->shift[i] - shift[i] + node->shift[j] - shift[j];
        if (change == 0.0) continue;
        for (size_t c = 0; c < stride; c++)
            node->moments[p * stride + c] = scalbn(node->moments[p * stride + c], (int)change);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < m->num_sums; c++) {
            double *sum = node->sums + i * m->sums_stride + c;
            *sum = scalbn(*sum, (int)(node->shift[i] - shift[i]));
        }
        node->shift[i] = shift[i];
    }
}

/* later <- earlier + later, at the larger of their shifts; earlier stays as it is but
 * for its shifts. */
static void node_add(const struct ntk_moments *m, struct node *earlier, struct node *later)
{
    for (size_t i = 0; i < m->padded_samples; i++) m->shift[i] = fmax(earlier->shift[i], later->shift[i]);
    node_shift(m, earlier, m->shift);
    node_shift(m, later, m->shift);
    const size_t size = m->num_groups * GRAM_ROWS * m->columns.stride;
#pragma omp parallel for num_threads(parallel_openmp_threads(m->num_threads)) schedule(static)
    for (size_t u = 0; u < size; u++) later->moments[u] = earlier->moments[u] + later->moments[u];
    for (size_t u = 0; u < m->padded_samples * m->sums_stride; u++)
        later->sums[u] = earlier->sums[u] + later->sums[u];
}

/* Puts a node of 2^level leaves behind those the counter holds. */
static void counter_push(struct ntk_moments *m, struct node node, int level)
{
    for (; m->levels[level].moments; level++) {
        node_add(m, &m->levels[level], &node);
        node_give(m, &m->levels[level]);
    }
    m->levels[level] = node;
}

/* ---- alloc and free ------------------------------------------------------------ */

struct ntk_moments *ntk_moments_alloc(const gsl_matrix *X, enum prefix_signs law,
                                      enum ntk_kernel kernel, int num_threads)
{
    if (!X->size1 || !X->size2) return NULL;
    struct ntk_moments *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    const size_t n = X->size1, d = X->size2;
    m->num_samples = n;
    m->padded_samples = round_up(n, GRAM_ROWS);
    m->dim = d;
    m->num_pairs = n * (n + 1) / 2;
    m->num_groups = groups_of(n);
    m->law = law;
    m->kernel = kernel;
    m->num_threads = num_threads > 1 ? num_threads : 1;
    m->kernels = gram_kernels_current();
    m->columns = columns_of(d, law, kernel);
    m->kernels->cut(&m->columns);
    m->num_sums = law == PREFIX_SIGNS_MIRRORED ? 1 : 1 + d;
    m->sums_stride = round_up(m->num_sums, GRAM_ALIGN);

    const size_t rows = m->num_groups * GRAM_ROWS;
    m->X = doubles(m->padded_samples * d);
    m->left = malloc(rows * sizeof *m->left);
    m->right = malloc(rows * sizeof *m->right);
    m->pending_W = doubles(GRAM_TOKENS * d);
    m->pending_signs = doubles(GRAM_TOKENS);
    m->max_batch = batch_of(&m->columns);
    m->rho = doubles(m->max_batch * m->padded_samples * GRAM_TOKENS);
    m->tokens = doubles(m->max_batch * (1 + d) * GRAM_TOKENS);
    m->panels = doubles(m->max_batch * m->columns.first_single * GRAM_TOKENS);
    m->singles = doubles(m->max_batch * 2 * GRAM_TOKENS);
    m->tops = doubles(m->max_batch * ITEMS_PER_BLOCK * m->padded_samples);
    m->shift = doubles(m->padded_samples);
    m->scratch = doubles((size_t)m->num_threads * scratch_of(&m->columns));
    if (!m->X || !m->left || !m->right || !m->pending_W || !m->pending_signs || !m->rho || !m->tokens ||
        !m->panels || !m->singles || !m->tops || !m->shift || !m->scratch || node_alloc(m, &m->leaf)) {
        ntk_moments_free(m);
        return NULL;
    }
    memset(m->X, 0, m->padded_samples * d * sizeof *m->X);
    for (size_t i = 0; i < n; i++) memcpy(m->X + i * d, gsl_matrix_const_ptr(X, i, 0), d * sizeof *m->X);
    size_t p = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++, p++) {
            m->left[p] = (unsigned)i;
            m->right[p] = (unsigned)j;
        }
    for (; p < rows; p++) m->left[p] = m->right[p] = (unsigned)(n - 1);
    node_clear(m, &m->leaf);
    memset(m->leaf.shift, 0, m->padded_samples * sizeof *m->leaf.shift);
    return m;
}

void ntk_moments_free(struct ntk_moments *m)
{
    if (!m) return;
    for (int l = 0; l < MAX_LEVELS; l++) node_free(&m->levels[l]);
    node_free(&m->leaf);
    for (int s = 0; s < 2; s++) node_free(&m->spare[s]);
    free(m->X);
    free(m->left);
    free(m->right);
    free(m->pending_W);
    free(m->pending_signs);
    free(m->rho);
    free(m->tokens);
    free(m->panels);
    free(m->singles);
    free(m->tops);
    free(m->shift);
    free(m->scratch);
    free(m);
}

/* ---- a batch of blocks ------------------------------------------------------------ */

/* Whole blocks, or a single one that is not. */
struct batch {
    const double *W, *signs;
    size_t tda, sign_stride, num_blocks, len;   /* len: tokens of a block */
};

/* Features and scores of every block. GSL_SUCCESS, or why the scores are refused. */
static int batch_prepare(struct ntk_moments *m, const struct batch *b)
{
    const size_t padded = round_up(b->len, GRAM_ALIGN), scratch_size = scratch_of(&m->columns);
    const size_t per_block = (padded + GRAM_ITEM - 1) / GRAM_ITEM, rho_size = m->padded_samples * GRAM_TOKENS;
    int refused = 0;
#pragma omp parallel for num_threads(parallel_openmp_threads(m->num_threads)) schedule(static) reduction(| : refused)
    for (size_t item = 0; item < b->num_blocks * per_block; item++) {
        const size_t u = item / per_block, first = item % per_block * GRAM_ITEM, token = u * GRAM_TOKENS;
        const struct gram_scores tokens = {
            .padded_samples = m->padded_samples, .len = b->len, .first = first,
            .last = smaller(first + GRAM_ITEM, padded),
            .X = m->X, .W = b->W + token * b->tda, .tda = b->tda, .signs = b->signs + token * b->sign_stride,
            .sign_stride = b->sign_stride, .tokens = m->tokens + u * (1 + m->dim) * GRAM_TOKENS,
            .panels = m->panels + u * m->columns.first_single * GRAM_TOKENS,
            .singles = m->singles + u * 2 * GRAM_TOKENS,
            .rho = m->rho + u * rho_size,
            .top = m->tops + (u * ITEMS_PER_BLOCK + first / GRAM_ITEM) * m->padded_samples,
            .scratch = m->scratch + (size_t)omp_get_thread_num() * scratch_size,
        };
        refused |= m->kernels->scores(&m->columns, &tokens);
    }
    if (!refused) return GSL_SUCCESS;
    for (size_t u = 0; u < b->num_blocks; u++)
        for (size_t i = 0; i < m->num_samples; i++)
            for (size_t t = 0; t < b->len; t++)
                if (!isfinite(m->rho[u * rho_size + i * GRAM_TOKENS + t])) return GSL_EDOM;
    return GSL_ERANGE;
}

/* Sets m->shift to what block u wants, given the shifts before it: the first block
 * of all its own maxima, a later one higher ones only where it exceeds the old by
 * far. Returns whether that is a change. */
static int block_shift(struct ntk_moments *m, size_t u, size_t len, int fresh, const double *old)
{
    const double *tops = m->tops + u * ITEMS_PER_BLOCK * m->padded_samples;
    int change = 0;
    for (size_t i = 0; i < m->padded_samples; i++) {
        double top = -INFINITY;
        for (size_t item = 0; item * GRAM_ITEM < len; item++) top = fmax(top, tops[item * m->padded_samples + i]);
        const double exponent = rint(top * M_LOG2E);
        m->shift[i] = fresh || exponent > old[i] + MAX_EXPONENT ? exponent : old[i];
        change |= m->shift[i] != old[i];
    }
    return change;
}

/* Adds blocks of tokens to a node; *done: how many of them, at least one. Every sum
 * belongs to one item of work and is made in the order of the tokens, so the
 * threads do not show in it. */
static int batch_add(struct ntk_moments *m, const struct batch *b, int fresh, struct node *node, size_t *done)
{
    const int status = batch_prepare(m, b);
    if (status) return status;

    /* Shifts change between blocks as if there were no batches: a block that wants
     * other ones ends the batch, and is prepared again as the first of the next. */
    if (block_shift(m, 0, b->len, fresh, node->shift)) {
        if (fresh) memcpy(node->shift, m->shift, m->padded_samples * sizeof *m->shift);
        else node_shift(m, node, m->shift);
    }
    size_t blocks = 1;
    while (blocks < b->num_blocks && !block_shift(m, blocks, b->len, 0, node->shift)) blocks++;
    *done = blocks;

    const struct gram_columns *columns = &m->columns;
    const size_t padded = round_up(b->len, GRAM_ALIGN), rho_size = m->padded_samples * GRAM_TOKENS;
    const size_t num_chunks = (columns->num_wide + COLUMNS_PER_CHUNK - 1) / COLUMNS_PER_CHUNK;
    const size_t share = smaller(m->num_groups / MIN_ITEMS, MAX_GROUPS_PER_ITEM), per_item = share ? share : 1;
    const size_t per_chunk = (m->num_groups + per_item - 1) / per_item;
#pragma omp parallel num_threads(parallel_openmp_threads(m->num_threads))
    {
#pragma omp for schedule(static)
        for (size_t row = 0; row < blocks * m->padded_samples; row++)
            m->kernels->weights(m->rho + row * GRAM_TOKENS, node->shift[row % m->padded_samples], b->len, padded);
#pragma omp for schedule(static) nowait
        for (size_t i = 0; i < m->padded_samples; i += GRAM_ROWS)
            for (size_t u = 0; u < blocks; u++)
                m->kernels->sums(m->rho + u * rho_size + i * GRAM_TOKENS, m->tokens + u * (1 + m->dim) * GRAM_TOKENS,
                                 m->num_sums, padded, node->sums + i * m->sums_stride, m->sums_stride);
#pragma omp for schedule(dynamic, 1)
        for (size_t item = 0; item < num_chunks * per_chunk; item++) {
            const size_t chunk = item / per_chunk, first = item % per_chunk * per_item;
            const size_t last = smaller(first + per_item, m->num_groups);
            for (size_t u = 0; u < blocks; u++)
                for (size_t p = first * GRAM_ROWS; p < last * GRAM_ROWS; p += GRAM_ROWS)
                    m->kernels->pairs(columns, m->rho + u * rho_size, m->left + p, m->right + p, padded,
                                      m->panels + u * columns->first_single * GRAM_TOKENS,
                                      columns->num_panels * chunk / num_chunks,
                                      columns->num_panels * (chunk + 1) / num_chunks,
                                      chunk + 1 == num_chunks ? m->singles + u * 2 * GRAM_TOKENS : NULL,
                                      node->moments + p * columns->stride);
        }
    }
    return GSL_SUCCESS;
}

/* ---- adding and merging ------------------------------------------------------------ */

static int signs_allowed(const struct ntk_moments *m, const gsl_vector *signs)
{
    for (size_t r = 0; r < signs->size; r++) {
        const double a = gsl_vector_get(signs, r);
        if (a != 1.0 && (a != -1.0 || m->law == PREFIX_SIGNS_POSITIVE)) return 0;
    }
    return 1;
}

/* Whole blocks into the leaf, and the leaf into the counter when it is full. *done: the
 * number of blocks taken. */
static int leaf_add(struct ntk_moments *m, struct batch b, size_t *done)
{
    const size_t room = (NTK_MOMENTS_LEAF - m->count % NTK_MOMENTS_LEAF) / GRAM_TOKENS;
    b.num_blocks = smaller(smaller(b.num_blocks, room), m->max_batch);
    int status = batch_add(m, &b, !m->has_shift, &m->leaf, done);
    if (status) return status;
    m->has_shift = 1;
    m->count += *done * GRAM_TOKENS;
    if (m->count % NTK_MOMENTS_LEAF) return GSL_SUCCESS;
    struct node next;
    if ((status = node_take(m, &next))) return status;
    node_clear(m, &next);
    memcpy(next.shift, m->leaf.shift, m->padded_samples * sizeof *next.shift);
    counter_push(m, m->leaf, 0);
    m->leaf = next;
    return GSL_SUCCESS;
}

static struct batch pending_batch(const struct ntk_moments *m, size_t len)
{
    return (struct batch){ m->pending_W, m->pending_signs, m->dim, 1, 1, len };
}

int ntk_moments_add(struct ntk_moments *m, const gsl_matrix *W, const gsl_vector *signs)
{
    if (m->status) return m->status;
    if (W->size2 != m->dim || signs->size != W->size1) return GSL_EBADLEN;
    if (!signs_allowed(m, signs)) return GSL_EINVAL;
    size_t done = 0;
    for (size_t r = 0; r < W->size1 && !m->status;) {
        const double *w = gsl_matrix_const_ptr(W, r, 0), *a = gsl_vector_const_ptr(signs, r);
        const size_t whole = (W->size1 - r) / GRAM_TOKENS;
        if (!m->num_pending && whole) {
            m->status = leaf_add(m, (struct batch){ w, a, W->tda, signs->stride, whole, GRAM_TOKENS }, &done);
            r += done * GRAM_TOKENS;
            continue;
        }
        memcpy(m->pending_W + m->num_pending * m->dim, w, m->dim * sizeof *w);
        m->pending_signs[m->num_pending] = *a;
        r++;
        if (++m->num_pending == GRAM_TOKENS) {
            m->num_pending = 0;
            m->status = leaf_add(m, pending_batch(m, GRAM_TOKENS), &done);
        }
    }
    return m->status;
}

int ntk_moments_merge(struct ntk_moments *into, const struct ntk_moments *from)
{
    if (into->status) return into->status;
    if (from->status) return into->status = from->status;
    const size_t leaves = from->count / NTK_MOMENTS_LEAF;
    size_t unit = NTK_MOMENTS_LEAF;
    while (unit < leaves * NTK_MOMENTS_LEAF) unit *= 2;
    if (into->num_samples != from->num_samples || into->dim != from->dim || into->law != from->law ||
        into->kernel != from->kernel || into->kernels != from->kernels || into->num_pending ||
        into->count % unit ||
        memcmp(into->X, from->X, into->padded_samples * into->dim * sizeof *into->X))
        return GSL_EINVAL;
    if (!from->count && !from->num_pending) return GSL_SUCCESS;

    /* Earlier leaves are the higher levels. */
    for (int l = MAX_LEVELS - 1; l >= 0; l--) {
        if (!from->levels[l].moments) continue;
        struct node node;
        if ((into->status = node_take(into, &node))) return into->status;
        node_copy(into, &node, &from->levels[l]);
        counter_push(into, node, l);
        into->count += (size_t)NTK_MOMENTS_LEAF << l;
    }
    node_copy(into, &into->leaf, &from->leaf);
    into->count += from->count % NTK_MOMENTS_LEAF;
    into->has_shift = from->has_shift;
    memcpy(into->pending_W, from->pending_W, from->num_pending * from->dim * sizeof *into->pending_W);
    memcpy(into->pending_signs, from->pending_signs, from->num_pending * sizeof *into->pending_signs);
    into->num_pending = from->num_pending;
    return GSL_SUCCESS;
}

void ntk_moments_clear(struct ntk_moments *m)
{
    for (int l = 0; l < MAX_LEVELS; l++)
        if (m->levels[l].moments) node_give(m, &m->levels[l]);
    node_clear(m, &m->leaf);
    memset(m->leaf.shift, 0, m->padded_samples * sizeof *m->leaf.shift);
    m->count = m->num_pending = 0;
    m->has_shift = m->status = 0;
}

/* ---- as numbers -------------------------------------------------------------------- */

/* What a state begins with; the levels in use are the binary digits of the count of leaves. */
enum { HEAD_SAMPLES, HEAD_DIM, HEAD_LAW, HEAD_KERNEL, HEAD_STRIDE, HEAD_COUNT, HEAD_PENDING, HEAD_SHIFT, HEAD_STATUS,
       HEAD_SIZE };

static size_t node_size(const struct ntk_moments *m)
{
    return m->num_groups * GRAM_ROWS * m->columns.stride + m->padded_samples * (m->sums_stride + 1);
}

static double *node_save(const struct ntk_moments *m, const struct node *node, double *at)
{
    const size_t moments = m->num_groups * GRAM_ROWS * m->columns.stride, sums = m->padded_samples * m->sums_stride;
    memcpy(at, node->moments, moments * sizeof *at);
    memcpy(at + moments, node->sums, sums * sizeof *at);
    memcpy(at + moments + sums, node->shift, m->padded_samples * sizeof *at);
    return at + node_size(m);
}

static const double *node_load(const struct ntk_moments *m, struct node *node, const double *at)
{
    const size_t moments = m->num_groups * GRAM_ROWS * m->columns.stride, sums = m->padded_samples * m->sums_stride;
    memcpy(node->moments, at, moments * sizeof *at);
    memcpy(node->sums, at + moments, sums * sizeof *at);
    memcpy(node->shift, at + moments + sums, m->padded_samples * sizeof *at);
    return at + node_size(m);
}

/* Numbers behind the head; an empty leaf is its shift alone. */
static size_t state_rest(const struct ntk_moments *m, size_t count, size_t pending)
{
    size_t size = m->padded_samples + pending * (m->dim + 1);
    if (count % NTK_MOMENTS_LEAF) size += node_size(m) - m->padded_samples;
    for (size_t leaves = count / NTK_MOMENTS_LEAF; leaves; leaves /= 2) size += leaves % 2 * node_size(m);
    return size;
}

size_t ntk_moments_state_size(const struct ntk_moments *m)
{
    return HEAD_SIZE + (m->status ? 0 : state_rest(m, m->count, m->num_pending));
}

void ntk_moments_save(const struct ntk_moments *m, double *state)
{
    const double head[HEAD_SIZE] = {
        [HEAD_SAMPLES] = (double)m->num_samples, [HEAD_DIM] = (double)m->dim, [HEAD_LAW] = m->law,
            [HEAD_KERNEL] = m->kernel,
        [HEAD_STRIDE] = (double)m->columns.stride, [HEAD_COUNT] = (double)m->count,
            [HEAD_PENDING] = (double)m->num_pending,
        [HEAD_SHIFT] = m->has_shift, [HEAD_STATUS] = m->status
    };
    memcpy(state, head, sizeof head);
    if (m->status) return;                  /* the sums are incomplete */
    double *at = state + HEAD_SIZE;
    for (int l = 0; l < MAX_LEVELS; l++)
        if (m->levels[l].moments) at = node_save(m, &m->levels[l], at);
    if (m->count % NTK_MOMENTS_LEAF) {
        at = node_save(m, &m->leaf, at);
    } else {
        memcpy(at, m->leaf.shift, m->padded_samples * sizeof *at);
        at += m->padded_samples;
    }
    memcpy(at, m->pending_W, m->num_pending * m->dim * sizeof *at);
    memcpy(at + m->num_pending * m->dim, m->pending_signs, m->num_pending * sizeof *at);
}

int ntk_moments_load(struct ntk_moments *m, const double *state, size_t size)
{
    if (size < HEAD_SIZE || state[HEAD_SAMPLES] != (double)m->num_samples || state[HEAD_DIM] != (double)m->dim ||
        state[HEAD_LAW] != m->law || state[HEAD_KERNEL] != m->kernel
            || state[HEAD_STRIDE] != (double)m->columns.stride ||
        !(state[HEAD_COUNT] >= 0.0 && state[HEAD_COUNT] < 0x1p53)
            || !(state[HEAD_PENDING] >= 0.0 && state[HEAD_PENDING] < GRAM_TOKENS)
            || !(state[HEAD_STATUS] >= INT_MIN && state[HEAD_STATUS] <= INT_MAX))
        return GSL_EINVAL;
    ntk_moments_clear(m);
    if (state[HEAD_STATUS] != 0.0) {
        m->status = (int)state[HEAD_STATUS];
        return GSL_SUCCESS;
    }
    const size_t count = (size_t)state[HEAD_COUNT], pending = (size_t)state[HEAD_PENDING];
    if (size != HEAD_SIZE + state_rest(m, count, pending)) return GSL_EINVAL;
    const double *at = state + HEAD_SIZE;
    for (int l = 0; l < MAX_LEVELS && count / NTK_MOMENTS_LEAF >> l; l++) {
        if (!(count / NTK_MOMENTS_LEAF >> l & 1)) continue;
        if (node_take(m, &m->levels[l])) {
            ntk_moments_clear(m);
            return GSL_ENOMEM;
        }
        at = node_load(m, &m->levels[l], at);
    }
    if (count % NTK_MOMENTS_LEAF) {
        at = node_load(m, &m->leaf, at);
    } else {
        memcpy(m->leaf.shift, at, m->padded_samples * sizeof *at);
        at += m->padded_samples;
    }
    memcpy(m->pending_W, at, pending * m->dim * sizeof *at);
    memcpy(m->pending_signs, at + pending * m->dim, pending * sizeof *at);
    m->count = count;
    m->num_pending = pending;
    m->has_shift = state[HEAD_SHIFT] != 0.0;
    return GSL_SUCCESS;
}

/* ---- as bytes ---------------------------------------------------------------------- */

static uint64_t identity_of(const struct ntk_moments *m)
{
    return hash_bytes(HASH_START, m->X, m->num_samples * m->dim * sizeof *m->X);
}

static void sizes_of(const struct ntk_moments *m, size_t numbers, uint64_t sizes[SAVED_SIZES])
{
    uint64_t isa = 0;
    while (isa <= ISA_ID_AVX512 && gram_kernels_of((enum isa)isa) != m->kernels) isa++;
    const uint64_t all[SAVED_SIZES] = { m->num_samples, m->dim, (uint64_t)m->law, (uint64_t)m->kernel, isa, numbers };
    memcpy(sizes, all, sizeof all);
}

size_t ntk_moments_saved_size(const struct ntk_moments *m)
{
    return saved_size(ntk_moments_state_size(m));
}

int ntk_moments_save_bytes(const struct ntk_moments *m, void *bytes, size_t size)
{
    uint64_t sizes[SAVED_SIZES];
    if (!bytes || size != ntk_moments_saved_size(m) || (uintptr_t)bytes % sizeof(double)) return GSL_EINVAL;
    ntk_moments_save(m, saved_numbers(bytes));
    sizes_of(m, ntk_moments_state_size(m), sizes);
    saved_seal(bytes, size, "moments", identity_of(m), sizes);
    return GSL_SUCCESS;
}

int ntk_moments_load_bytes(struct ntk_moments *m, const void *bytes, size_t size)
{
    uint64_t sizes[SAVED_SIZES], own[SAVED_SIZES];
    if (!bytes || (uintptr_t)bytes % sizeof(double)) return GSL_EINVAL;
    const int status = saved_check(bytes, size, "moments", identity_of(m), sizes);
    if (status) return status;
    const size_t numbers = (size - SAVED_HEAD - 8) / sizeof(double);
    sizes_of(m, numbers, own);
    if (memcmp(sizes, own, sizeof own) || saved_size(numbers) != size) return GSL_EINVAL;
    return ntk_moments_load(m, (const double *)((const char *)bytes + SAVED_HEAD), numbers);
}

size_t ntk_moments_count(const struct ntk_moments *m)
{
    return m->count + m->num_pending;
}

/* ---- assembly ---------------------------------------------------------------------- */

/* The moments of one pair by name; each may be missing (then it is 0, or another one
 * stands for it). */
struct pair_moments {
    const double *ww, *w, *b;       /* sum q w w^T (upper), q w = q a b, q b */
    double a, one;                  /* sum q a, sum q */
};

static struct pair_moments pair_moments(const struct ntk_moments *m, const double *row)
{
    const struct gram_columns *c = &m->columns;
    struct pair_moments p = { .ww = row };
    const double *singles = row + c->first_single;
    row += c->num_products;
    if (c->has_w) {
        p.w = row;
        row += c->dim;
    }
    if (c->has_b) p.b = row;
    if (c->has_a) p.a = *singles++;
    if (c->has_one) p.one = *singles;
    if (m->law == PREFIX_SIGNS_POSITIVE) {
        p.b = p.w;
        p.a = p.one;
    }
    return p;
}

static double norm(const double *x, size_t n)
{
    double sum = 0.0;
    for (size_t k = 0; k < n; k++) sum += x[k] * x[k];
    return sqrt(sum);
}

/* Squares of Frobenius norms: of the kernel, and of the terms it is made of. */
struct squares { double kernel, terms; };

/* Fills blocks (i, j) and (j, i), and adds both to *squares.
 *
 *   K_ij = m / (Z_i Z_j) sum_r q_r [ a^2 I + x_j (a b - a f_j)^T + (a b - a f_i) x_i^T
 *                                    + <x_i, x_j> (b - f_i)(b - f_j)^T ],  q = rho_i rho_j */
static void assemble_pair(const struct ntk_moments *m, enum ntk_kernel kernel, size_t i, size_t j,
                          const double *row, double scale, const double *f, gsl_matrix *gram,
                          struct squares *squares)
{
    const size_t d = m->dim;
    const struct pair_moments p = pair_moments(m, row);
    const double *xi = m->X + i * d, *xj = m->X + j * d, *fi = f + i * d, *fj = f + j * d;
    double c = 0.0, ww = 0.0, square = 0.0;
    for (size_t k = 0; k < d; k++) c += xi[k] * xj[k];

    double *block = gsl_matrix_ptr(gram, i * d, j * d), *mirror = gsl_matrix_ptr(gram, j * d, i * d);
    const double *product = p.ww;
    for (size_t k = 0; k < d; k++)
        for (size_t l = k; l < d; l++, product++) {
            ww += (l > k ? 2.0 : 1.0) * *product * *product;
            /* Entry (k, l) of block (i, j), then (l, k). */
            for (int turn = 0; turn < (k == l ? 1 : 2); turn++) {
                const size_t u = turn ? l : k, v = turn ? k : l;
                double value = *product;
                if (p.b) value += p.one * fi[u] * fj[v] - (fi[u] * p.b[v] + p.b[u] * fj[v]);
                value *= c;
                if (kernel == NTK_FULL) {
                    value += xj[u] * (p.w[v] - p.a * fj[v]) + (p.w[u] - p.a * fi[u]) * xi[v];
                    if (u == v) value += p.one;
                }
                value *= scale;
                square += value * value;
                block[u * gram->tda + v] = value;
                mirror[v * gram->tda + u] = value;
            }
        }

    const double norm_fi = norm(fi, d), norm_fj = norm(fj, d);
    double terms = sqrt(ww);
    if (p.b) terms += norm(p.b, d) * (norm_fi + norm_fj) + fabs(p.one) * norm_fi * norm_fj;
    terms *= fabs(c);
    if (kernel == NTK_FULL)
        terms += sqrt((double)d) * p.one + norm(p.w, d) * (norm(xi, d) + norm(xj, d)) +
                 fabs(p.a) * (norm_fi * norm(xi, d) + norm_fj * norm(xj, d));
    terms *= scale;
    const double times = i == j ? 1.0 : 2.0;
    squares->kernel += times * square;
    squares->terms += times * terms * terms;
}

static int assemble(const struct ntk_moments *m, const struct node *node, enum ntk_kernel kernel,
                    gsl_matrix *gram, double *cancellation)
{
    const size_t n = m->num_samples, d = m->dim;
    const int mirrored = m->law == PREFIX_SIGNS_MIRRORED;
    double *f = calloc(n * d, sizeof *f);
    struct squares *squares = calloc(n, sizeof *squares), all = { 0.0, 0.0 };
    if (!f || !squares) {
        free(f);
        free(squares);
        return GSL_ENOMEM;
    }
    if (!mirrored)
        for (size_t i = 0; i < n; i++) {
            const double *sums = node->sums + i * m->sums_stride;
            for (size_t k = 0; k < d; k++) f[i * d + k] = sums[1 + k] / sums[0];
        }
    /* Twins double m, the moments and both masses: nothing in all. */
    const double prefix_len = (double)ntk_moments_count(m);
#pragma omp parallel for num_threads(parallel_openmp_threads(m->num_threads)) schedule(dynamic, 1)
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            const size_t p = i * n - i * (i + 1) / 2 + j;
            const double scale = prefix_len / (node->sums[i * m->sums_stride] * node->sums[j * m->sums_stride]);
            assemble_pair(m, kernel, i, j, node->moments + p * m->columns.stride, scale, f, gram, &squares[i]);
        }
    for (size_t i = 0; i < n; i++) {
        all.kernel += squares[i].kernel;
        all.terms += squares[i].terms;
    }
    free(f);
    free(squares);
    if (cancellation) *cancellation = all.terms > 0.0 ? sqrt(all.terms / all.kernel) : 1.0;
    return isfinite(all.kernel) && isfinite(all.terms) ? GSL_SUCCESS : GSL_EDOM;
}

int ntk_moments_gram(struct ntk_moments *m, enum ntk_kernel kernel, gsl_matrix *gram,
                     double *cancellation)
{
    if (m->status) return m->status;
    if (gram->size1 != m->num_samples * m->dim || gram->size2 != gram->size1) return GSL_EBADLEN;
    if (!ntk_moments_count(m) || (kernel == NTK_FULL && m->kernel != NTK_FULL)) return GSL_EINVAL;

    /* The latest first: the block in progress onto a copy of the leaf, then the levels
     * from the lowest. */
    struct node sum;
    int status = node_take(m, &sum);
    if (status) return status;
    node_copy(m, &sum, &m->leaf);
    if (m->num_pending) {
        const struct batch pending = pending_batch(m, m->num_pending);
        size_t done;
        status = batch_add(m, &pending, !m->has_shift, &sum, &done);
    }
    for (int l = 0; l < MAX_LEVELS && !status; l++)
        if (m->levels[l].moments) node_add(m, &m->levels[l], &sum);
    if (!status) status = assemble(m, &sum, kernel, gram, cancellation);
    node_give(m, &sum);
    return status;
}
