/* A user's prefix to a summary (Z, k), by the map that serves the user's own queries
 * best, and what that costs them. */
#include "cli/adapter_convert.h"
#include "cli/cli.h"

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "approximation/approx.h"
#include "common/array_file.h"
#include "prefix_ntk/feature.h"
#include "prefix_ntk/summary.h"
#include "processes/processes.h"

static const char doc[] =
    "The summary (Z, k) of a prefix under the feature map that errs least on the queries given, among those listed. "
    "Writes Z and k for attend --method ntk, and a table of the errors of every map on these queries.\v"
    "Errors are those of attention with the summary against attention with the prefix: err_max the largest difference, "
    "the "
    "others relative to what the prefix changes (1: as good as no prefix at all). With --k and --v, the tokens of the "
    "input beside the prefix; without them attention is over the prefix alone. Rows none and taylor:0 (a constant) are "
    "there "
    "to compare with. A map whose normaliser D is not positive on some query is not chosen.";

static const char columns[] = "feature,feat_dim,bound,err_max,err_rel,err_mass,err_mean,d_nonpositive,chosen";

/* In order of preference at equal error. Measured rather than decreed: which of them
 * serves depends on the spread of the scores. */
static const char candidates[] =
    "taylor:1,split:0,elu1,taylor:2,split:2,minimax:2,minimax:1,favor-orth:256,taylor:3,minimax:3,taylor:4,minimax:4,"
    "split:4";

enum { MAX_MAPS = 64 };

struct config {
    struct cli_common c;
    const char *prefix_k, *prefix_v, *q, *k, *v, *z_out, *kvec_out;
    struct adapter_convert adapter;      /* adapter NULL: tensors */
    char *features;
    struct feature_spec spec[MAX_MAPS];
    char *name[MAX_MAPS];
    size_t num_maps, max_features;
    double bound;                        /* < 0: not given */
};

enum { KEY_PREFIX_K = 1, KEY_PREFIX_V, KEY_Q, KEY_K, KEY_V, KEY_FEATURES, KEY_BOUND, KEY_MAX_FEATURES, KEY_Z_OUT,
       KEY_KVEC_OUT, KEY_ADAPTER, KEY_BACKBONE, KEY_TASK, KEY_ADAPTER_OUT };

static const struct argp_option options[] = {
    { "prefix-k", KEY_PREFIX_K, "FILE", 0, "prefix keys, (m, d) or (H_kv, m, d) (required)", 1 },
    { "prefix-v", KEY_PREFIX_V, "FILE", 0, "prefix values, of the same shape (required)", 1 },
    { "q", KEY_Q, "FILE", 0, "queries the summary is judged by, (L, d) or (H, L, d) (required)", 1 },
    { "k", KEY_K, "FILE", 0, "keys of the input tokens, (L_k, d) or (H_kv, L_k, d)", 1 },
    { "v", KEY_V, "FILE", 0, "their values", 1 },
    { "features", KEY_FEATURES, "LIST", 0,
      "maps to choose from (default elu1, taylor and split and minimax up to degree 4, favor-orth:256)", 2 },
    { "max-features", KEY_MAX_FEATURES, "R", 0, "leave out maps with more features (default 4096)", 2 },
    { "bound", KEY_BOUND, "B", 0, "scores cheb and minimax are made for (default the largest |score| of these queries)",
      2 },
    { "z-out", KEY_Z_OUT, "FILE", 0, "write Z, (r, d) or (H_kv, r, d)", 3 },
    { "kvec-out", KEY_KVEC_OUT, "FILE", 0, "write k, (r) or (H_kv, r)", 3 },
    { "adapter", KEY_ADAPTER, "DIR", 0,
      "in place of tensors: a trained prefix adapter (ptuning of finetune, or PEFT's)", 4 },
    { "backbone", KEY_BACKBONE, "NAME|DIR", 0, "its backbone (default vit-fashion)", 4 },
    { "task", KEY_TASK, "NAME", 0, "its task: the map is chosen on validation data (default shapes)", 4 },
    { "adapter-out", KEY_ADAPTER_OUT, "DIR", CLI_INPUT, "write the adapter of NTK-Attention it becomes", 4 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_PREFIX_K: cfg->prefix_k = arg; return 0;
    case KEY_PREFIX_V: cfg->prefix_v = arg; return 0;
    case KEY_Q: cfg->q = arg; return 0;
    case KEY_K: cfg->k = arg; return 0;
    case KEY_V: cfg->v = arg; return 0;
    case KEY_FEATURES:
        free(cfg->features);
        return (cfg->features = strdup(arg)) ? 0 : ENOMEM;
    case KEY_BOUND: return cli_parse_double(state, key, arg, 0.0, &cfg->bound);
    case KEY_MAX_FEATURES: return cli_parse_size(state, key, arg, 1, FEATURE_MAX_EXPLICIT, &cfg->max_features);
    case KEY_Z_OUT: cfg->z_out = arg; return 0;
    case KEY_KVEC_OUT: cfg->kvec_out = arg; return 0;
    case KEY_ADAPTER: cfg->adapter.adapter = arg; return 0;
    case KEY_BACKBONE: cfg->adapter.backbone = arg; return 0;
    case KEY_TASK: cfg->adapter.task = arg; return 0;
    case KEY_ADAPTER_OUT: cfg->adapter.out = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    struct config *cfg = config;
    static char wrong[192];
    const struct adapter_convert *a = &cfg->adapter;
    if (a->adapter && (cfg->prefix_k || cfg->prefix_v || cfg->q || cfg->k || cfg->v || cfg->z_out || cfg->kvec_out
                       || cfg->bound >= 0.0))
        return "--adapter: takes no tensors and no bound";
    if (!a->adapter && (a->backbone || a->task || a->out))
        return "--backbone, --task, --adapter-out: have no effect without --adapter";
    if (a->adapter && !cfg->features) cfg->features = cli_need(strdup("elu1,taylor:1,taylor:2"));
    if (!a->adapter && (!cfg->prefix_k || !cfg->prefix_v || !cfg->q))
        return "--prefix-k, --prefix-v, --q: all three are required";
    if (!cfg->k != !cfg->v) return "--k, --v: one needs the other";
    if (!cfg->z_out != !cfg->kvec_out) return "--z-out, --kvec-out: one needs the other";
    if (!cfg->features) cfg->features = cli_need(strdup(candidates));
    for (char *at = cfg->features; at; cfg->num_maps++) {
        char *name = strsep(&at, ",");
        const int status = cfg->num_maps < MAX_MAPS ? feature_spec_parse(name, &cfg->spec[cfg->num_maps]) : GSL_EINVAL;
        if (status) {
            snprintf(wrong, sizeof wrong, "--features: \"%s\": %s", name, feature_strerror(status));
            return wrong;
        }
        cfg->name[cfg->num_maps] = name;
    }
    bool bounded = cfg->bound < 0.0;
    for (size_t m = 0; m < cfg->num_maps; m++) bounded = bounded || feature_needs_bound(&cfg->spec[m]);
    if (!bounded) return "--bound: no map of --features has a use for one";
    return NULL;
}

/* ---- tensors ------------------------------------------------------------------------- */

struct tensor {
    const char *path;
    struct npy a;
    size_t heads, len, dim;
};

enum { PK, PV, Q, K, V, NUM_TENSORS };

static int read_tensors(const struct config *cfg, struct tensor t[NUM_TENSORS])
{
    const char *const paths[NUM_TENSORS] = { cfg->prefix_k, cfg->prefix_v, cfg->q, cfg->k, cfg->v };
    char why[256];
    for (int i = 0; i < NUM_TENSORS; i++) {
        t[i].path = paths[i];
        if (!paths[i]) continue;
        const int status = array_file_read(paths[i], 0, &t[i].a, why, sizeof why);
        if (status) return cli_bad_input(&cfg->c, status, paths[i], why);
        const size_t rank = t[i].a.rank;
        if (rank < 2 || rank > 3 || !t[i].a.size)
            return cli_fail(&cfg->c, EXIT_DATA,
                            "%s: not a (length, dimension) or (heads, length, dimension) array of numbers", paths[i]);
        t[i].dim = t[i].a.shape[rank - 1];
        t[i].len = t[i].a.shape[rank - 2];
        t[i].heads = rank > 2 ? t[i].a.shape[0] : 1;
    }
    const struct tensor *pk = &t[PK];
    for (int i = 0; i < NUM_TENSORS; i++) {
        if (!t[i].path) continue;
        if (t[i].dim != pk->dim)
            return cli_fail(&cfg->c, EXIT_DATA, "%s: dimension %zu, the prefix keys have %zu", t[i].path, t[i].dim,
                            pk->dim);
        const struct tensor *like = i == PV ? pk : i == V ? &t[K] : &t[i];
        if (t[i].heads != like->heads || t[i].len != like->len)
            return cli_fail(&cfg->c, EXIT_DATA, "%s: not of the shape of its keys", t[i].path);
        if ((i == K || i == V) && t[i].heads != pk->heads)
            return cli_fail(&cfg->c, EXIT_DATA, "%s: %zu heads, the prefix has %zu", t[i].path, t[i].heads, pk->heads);
        if (t[i].heads % pk->heads)
            return cli_fail(&cfg->c, EXIT_DATA, "%s: %zu heads, not a multiple of the prefix's %zu", t[i].path,
                            t[i].heads, pk->heads);
    }
    return EXIT_DONE;
}

static const double *head(const struct tensor *t, size_t h)
{
    return t->a.f64 + h * t->len * t->dim;
}

/* ---- errors of every map --------------------------------------------------------------- */

struct study {
    const struct config *cfg;
    const struct tensor *t;
    double scale, bound;
    size_t degree;                       /* of the highest polynomial */
    feature_map *map[MAX_MAPS];          /* NULL: left out */
    struct approx_errors none, flat, error[MAX_MAPS];
    struct attn_fold *fold[MAX_MAPS];    /* of maps that are no polynomials */
};

/* shift[i] = max_r t_ir of one query head; the largest |t| seen so far in *most. */
static int score_range(const struct study *s, size_t h, double *shift, double *most)
{
    enum { BLOCK = 512 };
    const struct tensor *q = &s->t[Q], *pk = &s->t[PK];
    const size_t d = q->dim, kv = h / (q->heads / pk->heads);
    double *score = malloc(q->len * BLOCK * sizeof *score);
    if (!score) return GSL_ENOMEM;
    for (size_t i = 0; shift && i < q->len; i++) shift[i] = -HUGE_VAL;
    for (size_t j = 0; j < pk->len; j += BLOCK) {
        const size_t count = pk->len - j < BLOCK ? pk->len - j : BLOCK;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)q->len, (int)count, (int)d, s->scale,
                    head(q, h), (int)d, head(pk, kv) + j * d, (int)d, 0.0, score, (int)count);
        for (size_t i = 0; i < q->len; i++)
            for (size_t c = 0; c < count; c++) {
                if (shift) shift[i] = fmax(shift[i], score[i * count + c]);
                *most = fmax(*most, fabs(score[i * count + c]));
            }
    }
    free(score);
    return GSL_SUCCESS;
}

/* What the summary of `map` makes of the prefix for one query head. */
static int feature_sums(const struct study *s, size_t map, size_t h, struct attn_sums *out)
{
    const struct tensor *q = &s->t[Q];
    const size_t d = q->dim, n = q->len, r = feature_dim(s->map[map]);
    double *Z = malloc(r * d * sizeof *Z), *k = malloc(r * sizeof *k), *phi = malloc(n * r * sizeof *phi),
        log_scale = 0.0;
    int status = Z && k && phi ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = attn_fold_read_f64(s->fold[map], Z, k, &log_scale);
    if (!status)
        status = feature_forward_f64(s->map[map], FEATURE_QUERY, n, head(q, h), d, phi, r, out->shift,
                                     s->cfg->c.threads, NULL);
    if (!status) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)d, (int)r, 1.0, phi, (int)r, Z,
                    (int)d, 0.0, out->num, (int)d);
        cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)r, 1.0, phi, (int)r, k, 1, 0.0, out->mass, 1);
        for (size_t i = 0; i < n; i++) out->shift[i] += log_scale;
    }
    free(Z);
    free(k);
    free(phi);
    return status;
}

static int fold_prefix(const struct study *s, size_t kv, struct attn_fold *fold)
{
    const struct tensor *pk = &s->t[PK], *pv = &s->t[PV];
    attn_fold_reset(fold);
    return attn_fold_add_f64(fold, pk->len, head(pk, kv), pk->dim, head(pv, kv), pv->dim, s->cfg->c.threads, NULL);
}

/* Errors of one query head: without the prefix, with its mean, by map. */
enum { NONE, FLAT, FIRST_MAP };

static int judge_head(const struct study *s, size_t h, struct approx_errors *out)
{
    const struct tensor *q = &s->t[Q], *pk = &s->t[PK], *pv = &s->t[PV], *k = &s->t[K], *v = &s->t[V];
    const size_t d = q->dim, n = q->len, kv = h / (q->heads / pk->heads);
    struct prefix_sums sums = { 0 };
    struct attn_sums exact = { 0 }, input = { 0 }, approx = { 0 };
    double *shift = malloc(n * sizeof *shift), ignored = 0.0;
    int status = shift ? score_range(s, h, shift, &ignored) : GSL_ENOMEM;
    if (!status) status = prefix_sums_alloc(&sums, n, d, s->scale, s->degree, NULL, 0, shift, 0);
    for (size_t j = 0; j < pk->len && !status; j += PREFIX_SUMS_BLOCK) {
        const size_t count = pk->len - j < PREFIX_SUMS_BLOCK ? pk->len - j : PREFIX_SUMS_BLOCK;
        status = prefix_sums_add(&sums, head(q, h), head(pk, kv) + j * d, head(pv, kv) + j * d, count);
    }
    if (!status) status = attn_sums_alloc(&exact, n, d);
    if (!status) status = attn_sums_alloc(&approx, n, d);
    if (!status) status = prefix_sums_exact(&sums, 0, &exact);
    if (!status && k->path) {
        status = attn_sums_alloc(&input, n, d);
        if (!status) status = attn_sums_exact(head(q, h), head(k, kv), head(v, kv), k->len, s->scale, &input);
    }
    const struct attn_sums *tokens = k->path ? &input : NULL;
    const double one = 1.0;
    if (!status) status = approx_compare(tokens, &exact, NULL, &out[NONE], NULL);
    if (!status) status = prefix_sums_polynomial(&sums, 1.0, 0, &one, 0, &one, 0, &approx);
    if (!status) status = approx_compare(tokens, &exact, &approx, &out[FLAT], NULL);
    for (size_t m = 0; m < s->cfg->num_maps && !status; m++) {
        if (!s->map[m]) continue;
        if (feature_is_polynomial(s->map[m])) {
            double value[FEATURE_MAX_DEGREE + 1], mass[FEATURE_MAX_DEGREE + 1];
            const struct feature_spec *spec = &s->cfg->spec[m];
            size_t degree, mass_degree;
            status = feature_degrees(spec, &degree, &mass_degree);
            if (!status) status = feature_polynomial(spec, s->bound, value, mass, NULL);
            if (!status) status = prefix_sums_polynomial(&sums, 1.0, 0, value, degree, mass, degree, &approx);
        } else {
            if (h % (q->heads / pk->heads) == 0) status = fold_prefix(s, kv, s->fold[m]);
            if (!status) status = feature_sums(s, m, h, &approx);
        }
        if (!status) status = approx_compare(tokens, &exact, &approx, &out[FIRST_MAP + m], NULL);
    }
    free(shift);
    prefix_sums_free(&sums);
    attn_sums_free(&exact);
    attn_sums_free(&input);
    attn_sums_free(&approx);
    return status;
}

/* Every query head, those of a prefix head by one process of the run; the errors are merged in the order of the
 * heads. Exit code. */
static int judge(struct study *s)
{
    const struct config *cfg = s->cfg;
    const struct tensor *q = &s->t[Q];
    const size_t kv_heads = s->t[PK].heads, group = q->heads / kv_heads, width = FIRST_MAP + cfg->num_maps;
    struct approx_errors *errors = calloc(q->heads * width, sizeof *errors);
    int code = errors ? EXIT_DONE : cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    size_t first, last;
    processes_range(kv_heads, processes_rank(), &first, &last);
    struct progress *progress = code ? NULL : progress_start(&cfg->c, "heads", (double)((last - first) * group));
    for (size_t h = first * group; h < last * group && !code; h++) {
        code = cli_status(&cfg->c, judge_head(s, h, errors + h * width), "judging the maps");
        if (!code) code = cli_interrupted();
        progress_to(progress, (double)(h + 1 - first * group));
    }
    progress_end(progress);
    code = cli_agree(&cfg->c, code);
    if (!code) code = cli_collect(&cfg->c, errors, kv_heads, group * width * sizeof *errors, false);
    for (size_t h = 0; h < q->heads && !code && !processes_rank(); h++) {
        const struct approx_errors *one = errors + h * width;
        approx_errors_merge(&s->none, &one[NONE]);
        approx_errors_merge(&s->flat, &one[FLAT]);
        for (size_t m = 0; m < cfg->num_maps; m++)
            if (s->map[m]) approx_errors_merge(&s->error[m], &one[FIRST_MAP + m]);
    }
    free(errors);
    return code;
}

/* Makes the maps that are small enough and exist at this bound. */
static int make_maps(struct study *s)
{
    const struct config *cfg = s->cfg;
    const size_t d = s->t[Q].dim;
    size_t made = 0;
    for (size_t m = 0; m < cfg->num_maps; m++) {
        const int status = feature_map_alloc(&cfg->spec[m], d, s->bound, cfg->c.seed, NULL, &s->map[m]);
        if (status == GSL_ENOMEM) return cli_status(&cfg->c, status, cfg->name[m]);
        if (status == GSL_SUCCESS && feature_dim(s->map[m]) > cfg->max_features) {
            feature_map_free(s->map[m]);
            s->map[m] = NULL;
        }
        if (!s->map[m]) continue;
        made++;
        if (feature_is_polynomial(s->map[m])) {
            size_t degree, mass_degree;
            const int failed = feature_degrees(&cfg->spec[m], &degree, &mass_degree);
            if (failed) return cli_status(&cfg->c, failed, cfg->name[m]);
            if (degree > s->degree) s->degree = degree;
        } else {
            const int failed = attn_fold_alloc(s->map[m], d, &s->fold[m]);
            if (failed) return cli_status(&cfg->c, failed, cfg->name[m]);
        }
    }
    if (!made)
        return cli_fail(&cfg->c, EXIT_FAILED, "no map of --features has at most %zu features at bound %g",
                        cfg->max_features, s->bound);
    return EXIT_DONE;
}

/* ---- results ------------------------------------------------------------------------------ */

static void add_row(struct table *t, const char *name, double feat_dim, double bound, const struct approx_errors *e,
                    bool chosen)
{
    table_text(t, name);
    table_num(t, feat_dim);
    table_num(t, bound);
    table_num(t, e->err_max);
    table_num(t, e->err_rel);
    table_num(t, e->err_mass);
    table_num(t, e->err_mean);
    table_int(t, e->num_nonpositive);
    table_int(t, chosen);
    table_end_row(t);
}

static int write_table(const struct study *s, size_t chosen)
{
    const struct config *cfg = s->cfg;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "err_rel, err_mass, err_mean: relative to what the prefix changes in the output (Frobenius norms)");
    add_row(t, "none", NAN, NAN, &s->none, false);
    add_row(t, "taylor:0", 1.0, NAN, &s->flat, false);
    for (size_t m = 0; m < cfg->num_maps; m++)
        if (s->map[m])
            add_row(t, cfg->name[m], (double)feature_dim(s->map[m]), feature_needs_bound(&cfg->spec[m]) ? s->bound
                    : NAN, &s->error[m], m == chosen);
    return table_close(t, EXIT_DONE);
}

static int write_summary(const struct study *s, size_t m)
{
    const struct config *cfg = s->cfg;
    const struct tensor *pk = &s->t[PK];
    const size_t r = feature_dim(s->map[m]), d = pk->dim, rank = pk->a.rank, shape[3] = { pk->heads, r, d };
    double *Z = malloc(pk->heads * r * d * sizeof *Z), *k = malloc(pk->heads * r * sizeof *k);
    struct attn_fold *fold = NULL;
    int code = EXIT_DONE, status = Z && k ? attn_fold_alloc(s->map[m], d, &fold) : GSL_ENOMEM;
    for (size_t kv = 0; kv < pk->heads && !status; kv++) {
        status = fold_prefix(s, kv, fold);
        if (!status) status = attn_fold_read_f64(fold, Z + kv * r * d, k + kv * r, NULL);
    }
    if (status) code = cli_status(&cfg->c, status, "the summary");
    if (!code) code = cli_write_array(&cfg->c, cfg->z_out, NULL, Z, rank, shape + (3 - rank));
    if (!code) code = cli_write_array(&cfg->c, cfg->kvec_out, NULL, k, rank - 1, shape + (3 - rank));
    attn_fold_free(fold);
    free(Z);
    free(k);
    return code;
}

/* The least error among maps whose normaliser stayed positive; num_maps when none did. */
static size_t choose(const struct study *s)
{
    size_t best = s->cfg->num_maps;
    for (size_t m = 0; m < s->cfg->num_maps; m++) {
        if (!s->map[m] || s->error[m].num_nonpositive || !isfinite(s->error[m].err_rel)) continue;
        if (best == s->cfg->num_maps || s->error[m].err_rel < s->error[best].err_rel) best = m;
    }
    return best;
}

static int work(const struct config *cfg, struct study *s, struct tensor *t)
{
    int code = processes_rank() ? EXIT_DONE : cli_outputs_add(&cfg->c, "out", cfg->c.out);
    if (!code) code = read_tensors(cfg, t);
    if ((code = cli_agree(&cfg->c, code))) return code;
    if (cfg->z_out && array_file_format(cfg->z_out) == ARRAY_CSV && t[PK].a.rank > 2)
        return cli_fail(&cfg->c, EXIT_USAGE, "--z-out: a CSV file has rows and columns, the summary %zu dimensions",
                        t[PK].a.rank);
    const struct tensor *q = &t[Q];
    s->scale = 1.0 / sqrt((double)q->dim);
    s->bound = cfg->bound;
    double most = 0.0;
    for (size_t h = 0; h < q->heads && s->bound < 0.0 && !code; h++)
        if (score_range(s, h, NULL, &most)) code = cli_status(&cfg->c, GSL_ENOMEM, "scores");
    if (s->bound < 0.0) s->bound = most;
    if (!code) code = make_maps(s);
    const double rows = (double)q->len;
    if (!code) code = cli_memory(&cfg->c,
                                 rows * ((double)(s->degree + 4) * (double)(q->dim + 1) + 1024.0
                                         + (double)cfg->max_features) * 8.0,
                      "judging the maps");
    if ((code = cli_agree(&cfg->c, code)) || (code = judge(s)) || processes_rank()) return code;
    const size_t best = choose(s);
    if (best == cfg->num_maps) {
        code = write_table(s, best);
        return code ? code : cli_fail(&cfg->c, EXIT_FAILED, "D <= 0 on some query under every map");
    }
    cli_outputs_begin(&cfg->c);
    if (cfg->z_out) code = write_summary(s, best);
    if (!code) code = write_table(s, best);
    if ((code = cli_outputs_end(&cfg->c, code))) return code;
    const struct approx_errors *e = &s->error[best];
    if (!(e->err_rel < 1.0))
        cli_warn(&cfg->c, "no map does better than dropping the prefix (%s: %.3g of its effect): keep the prefix "
                          "itself",
                 cfg->name[best], e->err_rel);
    else if (!cfg->c.quiet)
        cli_warn(&cfg->c, "%s, %zu features per head: off by %.3g of the prefix's effect, at most %.3g in one output%s",
                 cfg->name[best], feature_dim(s->map[best]), e->err_rel, e->err_max,
                 feature_needs_bound(&cfg->spec[best]) ? "; give attend the bound in the table" : "");
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct config cfg = { .max_features = 4096, .bound = -1.0 };
    struct tensor t[NUM_TENSORS] = { { 0 } };
    struct study s = { .cfg = &cfg, .t = t };
    if (processes_start(&argc, &argv, cli_interrupted)) return EXIT_FAILED;
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    if (cfg.adapter.adapter) {
        cfg.adapter.features = cfg.name;
        cfg.adapter.num_features = cfg.num_maps;
        if (!cfg.adapter.backbone) cfg.adapter.backbone = "vit-fashion";
        if (!cfg.adapter.task) cfg.adapter.task = "shapes";
        const int converted = processes_rank() ? EXIT_DONE : adapter_convert_run(&cfg.c, &cfg.adapter);
        free(cfg.features);
        return processes_end(cli_agree(&cfg.c, converted));
    }
    const int code = work(&cfg, &s, t);
    for (size_t m = 0; m < cfg.num_maps; m++) {
        attn_fold_free(s.fold[m]);
        feature_map_free(s.map[m]);
    }
    for (int i = 0; i < NUM_TENSORS; i++) npy_free(&t[i].a);
    free(cfg.features);
    return processes_end(code);
}
