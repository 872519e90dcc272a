/* What attention with a prefix costs: time and memory against the lengths, exact,
 * summarised (NTK-Attention) and linear (M4, M5, F40). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <gsl/gsl_errno.h>

#include "common/atomic_file.h"
#include "common/calibrate.h"
#include "common/random.h"
#include "cli/kernels.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "prefix_ntk/attention.h"
#include "prefix_ntk/feature.h"
#include "prefix_ntk/linear.h"
#include "prefix_ntk/summary.h"

static const char doc[] =
    "Times attention with a prefix, forward and backward: exact over the prefix's tokens, NTK-Attention with the "
    "prefix "
    "folded into a summary, and the linear form. Every combination of the lists is a row; all take turns in each "
    "round, "
    "with the peaks of the machine measured in the same rounds.";

static const char columns[] = "method,feature,pass,batch,heads,seq_len,prefix_len,head_dim,causal,threads,time_s,flops,"
                              "share_fma,share_gemm,scratch_bytes";
static const char roof_columns[] = "method,feature,pass,seq_len,prefix_len,head_dim,threads,intensity,gflop_per_s,"
                                   "peak_gflop_per_s,roof_gflop_per_s";
static const char memory_columns[] = "method,seq_len,prefix_len,head_dim,peak_bytes";

enum method { EXACT, NTK, LINEAR };
static const char *const method_names[] = { "exact", "ntk", "linear", NULL };
static const char *const pass_names[] = { "forward", "backward" };

struct config {
    struct cli_common c;
    int *methods;
    size_t num_methods;
    size_t *batches, num_batches, *heads, num_heads, *seq_lens, num_seq_lens;
    size_t *prefix_lens, num_prefix_lens, *dims, num_dims;
    size_t *threads, num_threads, num_rounds;
    char **features;
    size_t num_features;
    bool causal;
};

static int parse_features(struct argp_state *state, int key, char *arg, void *config)
{
    struct config *cfg = config;
    (void)key;
    char *rest = strdup(arg), *from = rest;
    if (!rest) return ENOMEM;
    cfg->num_features = 0;
    for (char *name; (name = strsep(&from, ","));) {
        struct feature_spec spec;
        const int status = feature_spec_parse(name, &spec);
        if (status) argp_error(state, "--features: %s: %s", name, feature_strerror(status));
        char **grown = realloc(cfg->features, (cfg->num_features + 1) * sizeof *grown);
        if (!grown) return ENOMEM;
        cfg->features = grown;
        cfg->features[cfg->num_features++] = name;
    }
    return 0;
}

static const struct cli_option options[] = {
    { "method", CLI_CHOICES(struct config, methods, num_methods), .names = method_names, .value = "exact,ntk,linear",
      .group = 1, .doc = "exact, ntk, linear" },
    { "batch", CLI_SIZES(struct config, batches, num_batches), .min = 1, .max = 4096, .value = "1", .group = 1,
      .doc = "batch entries" },
    { "heads", CLI_SIZES(struct config, heads, num_heads), .min = 1, .max = 4096, .value = "2", .group = 1,
      .doc = "heads" },
    { "seq-len", CLI_SIZES(struct config, seq_lens, num_seq_lens), .min = 1, .max = (size_t)1 << 26,
      .value = "256", .group = 1, .doc = "input lengths L" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_prefix_lens), .max = (size_t)1 << 26,
      .value = "256,1024,4096", .group = 1, .doc = "prefix lengths m, 0 allowed" },
    { "dim", CLI_SIZES(struct config, dims, num_dims), .min = 1, .max = 4096, .value = "64", .group = 1,
      .doc = "head dimensions d" },
    { "features", CLI_CUSTOM(parse_features), .arg = "LIST", .group = 1,
      .doc = "feature maps of ntk and linear (default elu1)" },
    { "causal", CLI_FLAG(struct config, causal), .group = 1,
      .doc = "a query sees no later input token (default all)" },
    { "thread-list", CLI_SIZES(struct config, threads, num_threads), .min = 1, .max = 1024, .group = 1,
      .doc = "thread counts to time (default the one of --threads)" },
    { "num-rounds", CLI_SIZE(struct config, num_rounds), .min = 1, .max = 999, .value = "7", .group = 1,
      .doc = "rounds; times are medians over them" },
    { .name = NULL }
};

/* ---- one combination ---------------------------------------------------------------------- */

/* Tensors all cases share, as long as the longest needs. */
struct tensors {
    float *q, *k, *v, *g, *out, *dq, *dk, *dv;
    float *pk, *pv, *dpk, *dpv;
    attn_row *rows;
    void *work;
    size_t work_bytes;
};

struct cost {
    enum method method;
    const char *feature;            /* "none" for exact */
    size_t batch, heads, seq_len, prefix_len, dim;
    int threads;
    struct attn_shape shape;
    feature_map *map;
    struct attn_summary summary;
    float *Z, *dZ;                  /* Z and k, one after the other; their gradients */
    size_t scratch[2];
    double *seconds[2], *fma, *gemm; /* by round */
};

static size_t head_count(const struct cost *c) { return c->batch * c->heads; }
static size_t feat_dim(const struct cost *c) { return c->map ? feature_dim(c->map) : 0; }

static struct attn_out out_view(const struct cost *c, float *x)
{
    return attn_dense_out(x, c->heads, c->seq_len, c->dim);
}
static struct attn_in in_view(const struct cost *c, const float *x)
{
    return attn_dense_in(x, c->heads, c->seq_len, c->dim);
}

static struct attn_prefix prefix_of(const struct cost *c, const struct tensors *t)
{
    return (struct attn_prefix){ c->prefix_len, attn_dense_in(t->pk, c->heads, c->prefix_len, c->dim),
                                 attn_dense_in(t->pv, c->heads, c->prefix_len, c->dim), NULL };
}

static struct attn_exact_grads exact_grads(const struct cost *c, const struct tensors *t)
{
    return (struct attn_exact_grads){ out_view(c, t->dq), out_view(c, t->dk), out_view(c, t->dv),
                                      attn_dense_out(t->dpk, c->heads, c->prefix_len, c->dim),
                                      attn_dense_out(t->dpv, c->heads, c->prefix_len, c->dim) };
}

static struct attn_ntk_grads ntk_grads(const struct cost *c, const struct tensors *t)
{
    const size_t r = feat_dim(c);
    float *dk = c->dZ + head_count(c) * r * c->dim;
    return (struct attn_ntk_grads){ out_view(c, t->dq), out_view(c, t->dk), out_view(c, t->dv),
                                    attn_dense_out(c->dZ, c->heads, r, c->dim), attn_dense_out(dk, c->heads, 1, r) };
}

static int run_forward(const struct cost *c, const struct tensors *t)
{
    const float scale = 1.0f / sqrtf((float)c->dim);
    const struct attn_in q = in_view(c, t->q), k = in_view(c, t->k), v = in_view(c, t->v);
    const struct attn_out out = out_view(c, t->out);
    if (c->method == LINEAR)
        return attn_linear_forward(&c->shape, q, k, v, &c->summary, out, t->work, t->work_bytes, c->threads, NULL);
    if (c->method == NTK)
        return attn_ntk_forward(&c->shape, scale, q, k, v, &c->summary, out, t->rows, t->work, t->work_bytes,
                                c->threads, NULL);
    const struct attn_prefix prefix = prefix_of(c, t);
    return attn_exact_forward(&c->shape, scale, q, k, v, &prefix, out, t->rows, t->work, t->work_bytes, c->threads,
                              NULL);
}

static int run_backward(const struct cost *c, const struct tensors *t)
{
    const float scale = 1.0f / sqrtf((float)c->dim);
    const struct attn_in q = in_view(c, t->q), k = in_view(c, t->k), v = in_view(c, t->v), g = in_view(c, t->g);
    const attn_row *rows = (const attn_row *)t->rows;
    if (c->method == EXACT) {
        const struct attn_prefix prefix = prefix_of(c, t);
        const struct attn_exact_grads grads = exact_grads(c, t);
        return attn_exact_backward(&c->shape, scale, q, k, v, &prefix, in_view(c, t->out), rows, g, &grads, t->work,
                                   t->work_bytes, c->threads);
    }
    const struct attn_ntk_grads grads = ntk_grads(c, t);
    if (c->method == LINEAR)
        return attn_linear_backward(&c->shape, q, k, v, &c->summary, g, &grads, t->work, t->work_bytes, c->threads);
    return attn_ntk_backward(&c->shape, scale, q, k, v, &c->summary, in_view(c, t->out), rows, g, &grads, t->work,
                             t->work_bytes, c->threads);
}

static void scratch_sizes(struct cost *c, const struct tensors *t)
{
    if (c->method == EXACT) {
        const struct attn_exact_grads grads = exact_grads(c, t);
        c->scratch[0] = attn_exact_forward_workspace(&c->shape, c->prefix_len, c->threads);
        c->scratch[1] = attn_exact_backward_workspace(&c->shape, c->prefix_len, &grads, c->threads);
    } else if (c->method == NTK) {
        const struct attn_ntk_grads grads = ntk_grads(c, t);
        c->scratch[0] = attn_ntk_forward_workspace(&c->shape, &c->summary, c->threads);
        c->scratch[1] = attn_ntk_backward_workspace(&c->shape, &c->summary, &grads, c->threads);
    } else {
        c->scratch[0] = attn_linear_forward_workspace(&c->shape, &c->summary, c->threads);
        c->scratch[1] = attn_linear_backward_workspace(&c->shape, &c->summary, c->threads);
    }
}

/* Pairs of a query and a token it sees. */
static double visible_pairs(const struct cost *c)
{
    const double L = (double)c->seq_len, inputs = c->shape.causal ? L * (L + 1.0) / 2.0 : L * L;
    return (double)head_count(c) * (inputs + (c->method == EXACT ? L * (double)c->prefix_len : 0.0));
}

/* Operations counted: 4 d (forward) and 10 d (backward) per visible pair; with r features
 * 2 r (d + 1) per query for the summary, twice that backward; the linear form 2 r (d + 1) for
 * each key and query, and five products of that size per token backward. */
static double operations(const struct cost *c, int pass)
{
    const double d = (double)c->dim, r = (double)feat_dim(c), rows = (double)(head_count(c) * c->seq_len);
    const double product = 2.0 * r * (d + 1.0) * rows;
    if (c->method == LINEAR) return (pass ? 5.0 : 2.0) * product;
    return (pass ? 10.0 : 4.0) * d * visible_pairs(c) + (c->method == NTK ? (pass ? 2.0 : 1.0) * product : 0.0);
}

/* Bytes that must travel once: inputs in, outputs out. */
static double traffic(const struct cost *c, int pass)
{
    const double rows = (double)(head_count(c) * c->seq_len * c->dim), r = (double)feat_dim(c);
    const double prefix = c->method == EXACT ? 2.0 * (double)(head_count(c) * c->prefix_len * c->dim)
                                             : (double)head_count(c) * r * ((double)c->dim + 1.0);
    return 4.0 * (pass ? 8.0 * rows + 2.0 * prefix : 4.0 * rows + prefix);
}

static int make_case(struct cost *c, const struct config *cfg, const struct cli_common *common)
{
    c->shape = (struct attn_shape){ c->batch, c->heads, c->heads, c->seq_len, c->seq_len, c->dim, cfg->causal, NULL };
    if (c->method == EXACT) return GSL_SUCCESS;
    int status = feature_parse(c->feature, c->dim, 4.0, common->seed, NULL, &c->map);
    if (!status && !feature_is_explicit(c->map)) status = GSL_EUNSUP;
    if (status) return status;
    const size_t r = feat_dim(c), n = head_count(c) * r * (c->dim + 1);
    c->Z = calloc(2 * n, sizeof *c->Z);
    if (!c->Z) return GSL_ENOMEM;
    c->dZ = c->Z + n;
    c->summary = (struct attn_summary){ c->map, c->heads, attn_dense_in(c->Z, c->heads, r, c->dim),
                                        attn_dense_in(c->Z + head_count(c) * r * c->dim, c->heads, 1, r) };
    return GSL_SUCCESS;
}

/* The summary of prefix_len tokens per head, streamed in blocks: from K, V (all heads), or,
 * where they are NULL, drawn as they pass. */
static int fold_prefix(struct cost *c, const float *K, const float *V, uint64_t seed)
{
    enum { BLOCK = 1024 };
    const size_t r = feat_dim(c), d = c->dim, m = c->prefix_len;
    struct attn_fold *fold = NULL;
    double *row = malloc(2 * d * sizeof *row);
    float *block = malloc(2 * BLOCK * d * sizeof *block);
    int status = row && block ? attn_fold_alloc(c->map, d, &fold) : GSL_ENOMEM;
    for (size_t h = 0; h < head_count(c) && !status; h++) {
        attn_fold_reset(fold);
        for (size_t j = 0; j < m && !status; j += BLOCK) {
            const size_t n = m - j < BLOCK ? m - j : BLOCK;
            if (K) {
                status = attn_fold_add_f32(fold, n, K + (h * m + j) * d, d, V + (h * m + j) * d, d, c->threads, NULL);
                continue;
            }
            for (size_t i = 0; i < n; i++) {
                random_normal(seed, RANDOM_PREFIX, h, j + i, row, 2 * d);
                for (size_t e = 0; e < d; e++) {
                    block[i * d + e] = (float)row[e];
                    block[(BLOCK + i) * d + e] = (float)row[d + e];
                }
            }
            status = attn_fold_add_f32(fold, n, block, d, block + BLOCK * d, d, c->threads, NULL);
        }
        if (!status)
            status = attn_fold_read_f32(fold, c->Z + h * r * d, c->Z + head_count(c) * r * d + h * r, NULL);
    }
    attn_fold_free(fold);
    free(row);
    free(block);
    return status;
}

static void free_case(struct cost *c)
{
    feature_map_free(c->map);
    free(c->Z);
    free(c->seconds[0]);
    free(c->seconds[1]);
    free(c->fma);
}

/* ---- tensors ---------------------------------------------------------------------------------- */

static void free_tensors(struct tensors *t)
{
    float *all[] = { t->q, t->k, t->v, t->g, t->out, t->dq, t->dk, t->dv, t->pk, t->pv, t->dpk, t->dpv };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(t->rows);
    free(t->work);
    memset(t, 0, sizeof *t);
}

static float *aligned(size_t n)
{
    void *p;
    if (posix_memalign(&p, 64, (n ? n : 1) * sizeof(float))) return NULL;
    return memset(p, 0, (n ? n : 1) * sizeof(float));
}

/* input: floats of q, k, ...; prefix: of K_P, V_P. */
static int alloc_tensors(struct tensors *t, size_t input, size_t rows, size_t prefix)
{
    float **all[] = { &t->q, &t->k, &t->v, &t->g, &t->out, &t->dq, &t->dk, &t->dv };
    float **of_prefix[] = { &t->pk, &t->pv, &t->dpk, &t->dpv };
    bool good = true;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) good = (*all[i] = aligned(input)) && good;
    for (size_t i = 0; i < sizeof of_prefix / sizeof *of_prefix; i++) good = (*of_prefix[i] = aligned(prefix)) && good;
    t->rows = malloc(rows * sizeof *t->rows);
    return good && t->rows ? GSL_SUCCESS : GSL_ENOMEM;
}

static void fill(float *x, size_t n, uint64_t seed, uint64_t stream, int num_threads)
{
    enum { RUN = 1024 };
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (size_t at = 0; at < n; at += RUN) {
        double z[RUN];
        const size_t some = n - at < RUN ? n - at : RUN;
        random_normal(seed, RANDOM_INPUTS, stream, at / RUN, z, some);
        for (size_t i = 0; i < some; i++) x[at + i] = (float)z[i];
    }
}

/* ---- memory: a process of its own -------------------------------------------------------------------- */

/* Peak resident bytes of making the tensors of a case and running both passes once; 0
 * when the process failed. Called before this process has made threads or tensors. */
static double peak_memory(const struct config *cfg, struct cost c)
{
    int ends[2];
    double bytes = 0.0;
    if (pipe(ends)) return 0.0;
    const pid_t child = fork();
    if (child == 0) {
        struct tensors t = { 0 };
        const size_t input = head_count(&c) * c.seq_len * c.dim;
        int status = make_case(&c, cfg, &cfg->c);
        if (!status && c.map) status = fold_prefix(&c, NULL, NULL, cfg->c.seed);
        const size_t prefix = c.method == EXACT ? head_count(&c) * c.prefix_len * c.dim : 0;
        if (!status) status = alloc_tensors(&t, input, head_count(&c) * c.seq_len, prefix);
        if (!status) status = run_forward(&c, &t);
        if (!status) status = run_backward(&c, &t);
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        bytes = status ? 0.0 : 1024.0 * (double)usage.ru_maxrss;
        const bool written = write(ends[1], &bytes, sizeof bytes) == sizeof bytes;
        _exit(written ? 0 : 1);
    }
    close(ends[1]);
    if (child < 0 || read(ends[0], &bytes, sizeof bytes) != sizeof bytes) bytes = 0.0;
    close(ends[0]);
    if (child > 0) waitpid(child, NULL, 0);
    return bytes;
}

/* Processes that do the same often peak at the same page, and their spread is then zero; but a peak is known to a page
 * only. The interval is widened by what a page at every length could do to the slope: sum_j |l_j - mean l| / S_ll *
 * page / bytes_j, l = ln len. */
static struct interval memory_exponent(const double *lens, const double *bytes, size_t n, size_t processes)
{
    struct interval slope = cli_exponent(lens, bytes, n, processes, 0.999);
    const double page = (double)sysconf(_SC_PAGESIZE);
    double mean = 0.0, squares = 0.0, most = 0.0;
    for (size_t j = 0; j < n; j++) mean += log(lens[j]) / (double)n;
    for (size_t j = 0; j < n; j++) squares += (log(lens[j]) - mean) * (log(lens[j]) - mean);
    for (size_t j = 0; j < n; j++) most += fabs(log(lens[j]) - mean) / squares * page / bytes[j];
    slope.lo -= most;
    slope.hi += most;
    return slope;
}

/* The memory table and its verdicts: each number from NUM_PROCESSES processes. */
static int measure_memory(const struct config *cfg, struct verdicts *v)
{
    enum { NUM_PROCESSES = 4 };
    char *path = cli_side_path(&cfg->c, "memory");
    struct table *table = table_open(&cfg->c, path, memory_columns);
    const size_t most = cfg->num_prefix_lens;
    double *lens = cli_need(malloc(most * sizeof *lens)),
        *bytes = cli_need(malloc(NUM_PROCESSES * most * sizeof *bytes));
    int code = table ? 0 : EXIT_FAILED;
    for (size_t i = 0; i < cfg->num_methods && !code; i++) {
        struct cost c = { .method = (enum method)cfg->methods[i], .feature = cfg->features[0], .batch = cfg->batches[0],
                          .heads = cfg->heads[0], .seq_len = cfg->seq_lens[0], .dim = cfg->dims[0], .threads = (int)cfg->threads[0] };
        const double none = peak_memory(cfg, c);
        /* Of exact attention's, short prefixes vanish in pages and arenas: the longer half decides. */
        const size_t from = c.method == EXACT ? most / 2 : 0;
        size_t n = 0;
        for (size_t j = from; j < most; j++)
            if (cfg->prefix_lens[j]) lens[n++] = (double)cfg->prefix_lens[j];
        size_t at = 0;
        for (size_t j = 0; j < most && !code; j++) {
            double largest = 0.0;
            c.prefix_len = cfg->prefix_lens[j];
            for (int process = 0; process < NUM_PROCESSES && !code; process++) {
                const double peak = peak_memory(cfg, c);
                if (!(peak > 0.0) || !(none > 0.0))
                    code = cli_fail(&cfg->c, EXIT_FAILED, "memory measurement: the process failed");
                else code = cli_interrupted();
                largest = fmax(largest, peak);
                if (c.prefix_len && j >= from) bytes[(size_t)process * n + at] = c.method == EXACT ? peak - none : peak;
            }
            at += c.prefix_len && j >= from;
            table_text(table, method_names[c.method]);
            table_int(table, c.seq_len);
            table_int(table, c.prefix_len);
            table_int(table, c.dim);
            table_num(table, largest);
            table_end_row(table);
        }
        if (code || n < 2 || c.method == LINEAR) continue;
        verdicts_add(v, "M4", c.method == EXACT ? "memory-exact" : "memory-ntk",
                     memory_exponent(lens, bytes, n, NUM_PROCESSES));
    }
    free(lens);
    free(bytes);
    code = table ? table_close(table, code) : code;
    free(path);
    return code;
}

/* ---- timing ------------------------------------------------------------------------------------------- */

/* Seconds of a call: the least of several, since whatever else the machine does only adds. */
static int time_pass(const struct cost *c, const struct tensors *t, int pass, double *seconds)
{
    enum { FEWEST = 2, MOST = 50 };
    const double enough = 4e-3, start = calibrate_now_s();
    double before = start;
    *seconds = INFINITY;
    for (int calls = 0; calls < FEWEST || (calls < MOST && before - start < enough); calls++) {
        const int status = pass ? run_backward(c, t) : run_forward(c, t);
        if (status) return status;
        const double now = calibrate_now_s();
        *seconds = fmin(*seconds, now - before);
        before = now;
    }
    return GSL_SUCCESS;
}

/* Bytes per second at which memory is read, all threads of the count together. */
static double read_bandwidth(const float *x, size_t n, int num_threads)
{
    double best = INFINITY;
    for (int round = 0; round < 3; round++) {
        const double start = calibrate_now_s();
        float sum = 0.0f;
#pragma omp parallel for num_threads(num_threads) schedule(static) reduction(+ : sum)
        for (size_t block = 0; block < n / 64; block++) {
            /* One number per cache line moves the line. */
            for (size_t i = 0; i < 64; i += 16) sum += x[block * 64 + i];
        }
        const double seconds = calibrate_now_s() - start;
        if (seconds < best && sum < INFINITY) best = seconds;
    }
    return (double)n * sizeof *x / best;
}

static int run_rounds(const struct config *cfg, struct cost *cases, size_t num_cases, const struct tensors *t)
{
    struct progress *progress = progress_start(&cfg->c, "rounds", (double)(cfg->num_rounds + 1) * (double)num_cases);
    int code = 0;
    double *fma = calloc(2 * cfg->num_threads, sizeof *fma), *gemm = fma ? fma + cfg->num_threads : NULL;
    if (!fma) code = cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    /* The first pass touches every page and warms the clocks; it does not count. */
    for (size_t pass = 0; pass <= cfg->num_rounds && !code; pass++) {
        for (size_t i = 0; i < cfg->num_threads; i++) {
            fma[i] = calibrate_fma_f32((int)cfg->threads[i], 0.02);
            gemm[i] = calibrate_sgemm((int)cfg->threads[i], 0.03);
        }
        for (size_t i = 0; i < num_cases && !code; i++) {
            struct cost *c = &cases[i];
            const size_t round = pass ? pass - 1 : 0;
            for (size_t j = 0; j < cfg->num_threads; j++)
                if ((int)cfg->threads[j] == c->threads) {
                    c->fma[round] = fma[j];
                    c->gemm[round] = gemm[j];
                }
            for (int p = 0; p < 2 && !code; p++) {
                const int status = time_pass(c, t, p, &c->seconds[p][round]);
                if (status)
                    code = cli_fail(&cfg->c, EXIT_FAILED, "%s %s, L = %zu, m = %zu: %s", method_names[c->method],
                                    pass_names[p], c->seq_len, c->prefix_len,
                                    status == GSL_EDOM ? "a normaliser D is not positive" : gsl_strerror(status));
            }
            progress_to(progress, (double)(pass * num_cases + i + 1));
            if (!code) code = cli_interrupted();
        }
    }
    progress_end(progress);
    free(fma);
    return code;
}

static double median_of(const double *x, size_t n, double *scratch)
{
    memcpy(scratch, x, n * sizeof *x);
    return calibrate_median(scratch, (int)n);
}

/* flops / (seconds x peak), by round, into share. */
static void shares(const struct cost *c, int pass, const double *peak, size_t n, double *share)
{
    for (size_t i = 0; i < n; i++) share[i] = operations(c, pass) / (c->seconds[pass][i] * peak[i]);
}

static int write_tables(const struct config *cfg, const struct cost *cases, size_t num_cases, const double *bandwidth)
{
    const size_t n = cfg->num_rounds;
    double *x = cli_need(malloc(2 * n * sizeof *x));
    char *path = cli_side_path(&cfg->c, "roofline");
    struct table *table = table_open(&cfg->c, NULL, columns);
    struct table *roof = path && table ? table_open(&cfg->c, path, roof_columns) : NULL;
    int code = table && (roof || !path) ? 0 : EXIT_FAILED;
    if (!code) {
        table_note(table, "time_s: median over %zu rounds of the least of several calls; flops: 4 d (forward), 10 d "
                          "(backward) per visible pair, and what the "
                   "features take; share: of the peaks of the same rounds", n);
        for (size_t i = 0; i < cfg->num_threads; i++)
            table_note(table, "threads=%zu read_bandwidth_gb_per_s=%.4g", cfg->threads[i], bandwidth[i] / 1e9);
        if (roof)
            table_note(roof, "intensity: flops per byte that must travel once; roof: min(peak, intensity x read "
                             "bandwidth)");
    }
    for (size_t i = 0; i < num_cases && !code; i++)
        for (int pass = 0; pass < 2; pass++) {
            const struct cost *c = &cases[i];
            const double flops = operations(c, pass), seconds = median_of(c->seconds[pass], n, x);
            table_text(table, method_names[c->method]);
            table_text(table, c->feature);
            table_text(table, pass_names[pass]);
            table_int(table, c->batch);
            table_int(table, c->heads);
            table_int(table, c->seq_len);
            table_int(table, c->prefix_len);
            table_int(table, c->dim);
            table_int(table, cfg->causal);
            table_int(table, (uint64_t)c->threads);
            table_num(table, seconds);
            table_num(table, flops);
            shares(c, pass, c->fma, n, x + n);
            table_num(table, median_of(x + n, n, x));
            shares(c, pass, c->gemm, n, x + n);
            table_num(table, median_of(x + n, n, x));
            table_int(table, c->scratch[pass]);
            table_end_row(table);
            if (!roof) continue;
            size_t which = 0;
            while ((int)cfg->threads[which] != c->threads) which++;
            const double intensity = flops / traffic(c, pass), peak = median_of(c->fma, n, x);
            table_text(roof, method_names[c->method]);
            table_text(roof, c->feature);
            table_text(roof, pass_names[pass]);
            table_int(roof, c->seq_len);
            table_int(roof, c->prefix_len);
            table_int(roof, c->dim);
            table_int(roof, (uint64_t)c->threads);
            table_num(roof, intensity);
            table_num(roof, flops / seconds / 1e9);
            table_num(roof, peak / 1e9);
            table_num(roof, fmin(peak, intensity * bandwidth[which]) / 1e9);
            table_end_row(roof);
        }
    if (roof) code = table_close(roof, code);
    if (table) code = table_close(table, code);
    free(path);
    free(x);
    return code;
}

/* ---- verdicts -------------------------------------------------------------------------------------------- */

/* Slope of log time against log `length` over the cases of one method and pass. */
static void add_slope(const struct config *cfg, const struct cost *cases, size_t num_cases, enum method method,
                      int pass, size_t (*length)(const struct cost *), struct verdicts *v, const char *claim,
                          const char *row)
{
    double *x = cli_need(malloc(num_cases * sizeof *x)), *y = cli_need(malloc(num_cases * cfg->num_rounds * sizeof *y));
    size_t n = 0, points = 0;
    for (size_t i = 0; i < num_cases; i++) points += cases[i].method == method && length(&cases[i]) > 0;
    for (size_t i = 0; i < num_cases && x && y; i++) {
        if (cases[i].method != method || !length(&cases[i])) continue;
        x[n] = (double)length(&cases[i]);
        for (size_t round = 0; round < cfg->num_rounds; round++) y[round * points + n] = cases[i].seconds[pass][round];
        n++;
    }
    if (n > 1) verdicts_add(v, claim, row, cli_exponent(x, y, n, cfg->num_rounds, 0.999));
    free(x);
    free(y);
}

static size_t prefix_length(const struct cost *c) { return c->prefix_len; }
static size_t total_length(const struct cost *c) { return c->prefix_len + c->seq_len; }
static size_t input_length(const struct cost *c) { return c->seq_len; }

/* Exact attention of the most queries. */
static const struct cost *find(const struct cost *cases, size_t n, size_t dim, int threads)
{
    const struct cost *found = NULL;
    for (size_t i = 0; i < n; i++)
        if (cases[i].method == EXACT && cases[i].dim == dim && cases[i].threads == threads &&
            (!found || cases[i].seq_len > found->seq_len))
            found = &cases[i];
    return found;
}

static void add_shares(const struct config *cfg, const struct cost *cases, size_t n, struct verdicts *v)
{
    double *x = cli_need(malloc(cfg->num_rounds * sizeof *x));
    for (size_t d = 32; d <= 64 && x; d += 32) {
        const struct cost *one = find(cases, n, d, 1), *two = find(cases, n, d, 2);
        for (int pass = 0; pass < 2 && one; pass++) {
            char row[32];
            snprintf(row, sizeof row, "%s-%zu", pass_names[pass], d);
            shares(one, pass, one->fma, cfg->num_rounds, x);
            verdicts_add(v, "F40", row, cli_mean(x, cfg->num_rounds, 0.999));
            if (d != 64) continue;
            snprintf(row, sizeof row, "two-threads-%s", pass_names[pass]);
            for (size_t i = 0; i < cfg->num_rounds && two; i++) x[i] = one->seconds[pass][i] / two->seconds[pass][i];
            if (two) verdicts_add(v, "F40", row, cli_mean(x, cfg->num_rounds, 0.999));
            else verdicts_not_tested(v, "F40", row);
        }
    }
    free(x);
}

static bool has_method(const struct config *cfg, enum method method)
{
    for (size_t i = 0; i < cfg->num_methods; i++)
        if (cfg->methods[i] == (int)method) return true;
    return false;
}

/* Which claims a run decides follows from what it sweeps: prefix lengths (M4), threads
 * (F40), input lengths of the linear form, too (M5). */
static void add_verdicts(const struct config *cfg, const struct cost *cases, size_t n, struct verdicts *v)
{
    if (cfg->num_prefix_lens > 1) {
        for (int pass = 0; pass < 2; pass++) {
            if (has_method(cfg, EXACT))
                add_slope(cfg, cases, n, EXACT, pass, total_length, v, "M4", pass ? "time-exact-backward"
                          : "time-exact-forward");
            if (has_method(cfg, NTK))
                add_slope(cfg, cases, n, NTK, pass, prefix_length, v, "M4", pass ? "time-ntk-backward"
                          : "time-ntk-forward");
        }
    } else if (cfg->num_threads > 1) {
        add_shares(cfg, cases, n, v);
    } else if (cfg->num_seq_lens > 1 && has_method(cfg, LINEAR)) {
        add_slope(cfg, cases, n, NTK, 0, input_length, v, "M5", "a-as-defined");
        add_slope(cfg, cases, n, NTK, 0, input_length, v, "M5", "b-forward");
        add_slope(cfg, cases, n, NTK, 1, input_length, v, "M5", "b-backward");
        add_slope(cfg, cases, n, LINEAR, 0, input_length, v, "M5", "a-linear-form");
        add_slope(cfg, cases, n, LINEAR, 1, input_length, v, "M5", "a-linear-form-backward");
    }
}

/* ---- the run ------------------------------------------------------------------------------------------------ */

/* Element number *rest mod count of list; *rest becomes what is left. */
static size_t digit(size_t *rest, const size_t *list, size_t count)
{
    const size_t at = *rest % count;
    *rest /= count;
    return list[at];
}

/* All combinations, the number of threads the fastest, exact once however many features there are. */
static struct cost *list_cases(const struct config *cfg, size_t *count)
{
    const size_t lens = cfg->num_batches * cfg->num_heads * cfg->num_seq_lens * cfg->num_prefix_lens;
    const size_t each = lens * cfg->num_dims * cfg->num_threads;
    struct cost *cases = calloc(cfg->num_methods * cfg->num_features * each, sizeof *cases);
    size_t n = 0;
    for (size_t m = 0; m < cfg->num_methods && cases; m++) {
        const bool exact = cfg->methods[m] == EXACT;
        for (size_t i = 0; i < (exact ? 1 : cfg->num_features) * each; i++) {
            size_t rest = i;
            struct cost *c = &cases[n++];
            c->method = (enum method)cfg->methods[m];
            c->threads = (int)digit(&rest, cfg->threads, cfg->num_threads);
            c->dim = digit(&rest, cfg->dims, cfg->num_dims);
            c->prefix_len = digit(&rest, cfg->prefix_lens, cfg->num_prefix_lens);
            c->seq_len = digit(&rest, cfg->seq_lens, cfg->num_seq_lens);
            c->heads = digit(&rest, cfg->heads, cfg->num_heads);
            c->batch = digit(&rest, cfg->batches, cfg->num_batches);
            c->feature = exact ? "none" : cfg->features[rest];
        }
    }
    *count = n;
    return cases;
}

static int run(struct config *cfg)
{
    size_t num_cases = 0, input = 0, rows = 0, prefix = 0, work = 0;
    struct tensors t = { 0 };
    char stem[256];
    cli_outputs_begin(&cfg->c);
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    double *bandwidth = calloc(cfg->num_threads, sizeof *bandwidth);
    struct cost *cases = list_cases(cfg, &num_cases);
    int code = cases && bandwidth ? 0 : cli_fail(&cfg->c, EXIT_FAILED, "out of memory"), status = 0;
    for (size_t i = 0; i < num_cases && !code; i++) {
        const size_t heads = head_count(&cases[i]), d = cases[i].dim;
        if (heads * cases[i].seq_len * d > input) input = heads * cases[i].seq_len * d;
        if (heads * cases[i].seq_len > rows) rows = heads * cases[i].seq_len;
        if (heads * cases[i].prefix_len * d > prefix) prefix = heads * cases[i].prefix_len * d;
    }
    if (!code) code = cli_memory(&cfg->c, 4.0 * (8.0 * (double)input + 4.0 * (double)prefix) * 2.0, "the tensors");
    if (!code && atomic_file_descriptor(cfg->c.out) < 0 && cfg->num_prefix_lens > 1) code = measure_memory(cfg, v);
    if (!code) status = alloc_tensors(&t, input, rows, prefix);
    if (!code && !status) {
        const int threads = cfg->c.threads;
        float *drawn[] = { t.q, t.k, t.v, t.g, t.pk, t.pv };
        for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
            fill(drawn[i], i < 4 ? input : prefix, cfg->c.seed, i, threads);
    }
    for (size_t i = 0; i < num_cases && !code && !status; i++) {
        struct cost *c = &cases[i];
        status = make_case(c, cfg, &cfg->c);
        if (!status && c->map && c->prefix_len) status = fold_prefix(c, t.pk, t.pv, 0);
        if (status) break;
        scratch_sizes(c, &t);
        for (int pass = 0; pass < 2; pass++) {
            if (c->scratch[pass] > work) work = c->scratch[pass];
            c->seconds[pass] = calloc(cfg->num_rounds, sizeof *c->seconds[pass]);
        }
        c->fma = calloc(2 * cfg->num_rounds, sizeof *c->fma);
        if (!c->seconds[0] || !c->seconds[1] || !c->fma) status = GSL_ENOMEM;
        else c->gemm = c->fma + cfg->num_rounds;
    }
    if (!code && status) code = cli_status(&cfg->c, status, "attention cost");
    if (!code) code = cli_memory(&cfg->c, (double)work, "the workspace");
    if (!code) {
        t.work = aligned(work / sizeof(float) + 1);
        t.work_bytes = work;
        if (!t.work) code = cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    }
    if (!code) {
        const size_t n = (size_t)1 << 25;
        float *x = aligned(n);
        for (size_t i = 0; i < cfg->num_threads && x; i++) bandwidth[i] = read_bandwidth(x, n, (int)cfg->threads[i]);
        free(x);
        code = run_rounds(cfg, cases, num_cases, &t);
    }
    if (!code) code = write_tables(cfg, cases, num_cases, bandwidth);
    if (!code) add_verdicts(cfg, cases, num_cases, v);
    if (!code) code = cli_interrupted();
    code = cli_outputs_end(&cfg->c, verdicts_close(v, code));
    for (size_t i = 0; i < num_cases; i++) free_case(&cases[i]);
    free(cases);
    free(bandwidth);
    free_tensors(&t);
    return code;
}

int main(int argc, char **argv)
{
    static size_t threads[1];
    static char elu1[] = "elu1", *features[] = { elu1 };
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, NULL, NULL, &cfg.c);
    if (!cfg.features) {
        cfg.features = features;
        cfg.num_features = 1;
    }
    if (!cfg.threads) {
        threads[0] = (size_t)cfg.c.threads;
        cfg.threads = threads;
        cfg.num_threads = 1;
    }
    const int code = run(&cfg);
    const int interrupted = cli_interrupted();
    return interrupted ? interrupted : code;
}
