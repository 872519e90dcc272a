/* Attention over a user's own tensors: exact with a prefix, NTK-Attention, linear. */
#include "cli/cli.h"

#include <errno.h>
#include <float.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/array_file.h"
#include "prefix_ntk/attention.h"
#include "prefix_ntk/attention_f64.h"
#include "prefix_ntk/feature.h"
#include "prefix_ntk/linear.h"
#include "prefix_ntk/summary.h"
#include "processes/processes.h"

static const char doc[] =
    "Attention of queries over keys and values, each (L, d), (H, L, d) or (B, H, L, d) in NPY (or CSV) files, with a "
    "prefix or its summary. exact: softmax over prefix and input keys. ntk: the prefix folded into a summary (Z, k) by "
    "a "
    "feature map, exact for the input keys. linear: the feature map for both. The output is float32, of the shape of "
    "q. "
    "--precision f64 sums in double and rounds once, f32 runs the kernels that models are trained with.\v"
    "Feature maps: elu1, taylor:G, cheb:G, minimax:G, split:G (G even), favor:R, favor-orth:R. A prefix under a "
    "polynomial "
    "map of more than 4096 features is evaluated on the scores, unless a summary is given or asked for.";

enum method { EXACT, NTK, LINEAR };
static const char *const methods[] = { "exact", "ntk", "linear", NULL };
enum precision { F32, F64 };
static const char *const precisions[] = { "f32", "f64", NULL };

/* Features are listed up to this many; beyond, polynomials are taken of the scores. */
static const size_t MAX_LISTED = 4096;

struct config {
    struct cli_common c;
    int method, precision;
    const char *q, *k, *v, *prefix_k, *prefix_v, *z, *kvec, *feature, *omega, *z_out, *kvec_out, *grad_out, *grads;
    struct feature_spec spec;
    double bound;                        /* < 0: not given */
    bool causal;
    size_t *lengths, num_lengths;
};

enum { KEY_Q = 1, KEY_K, KEY_V, KEY_METHOD, KEY_PREFIX_K, KEY_PREFIX_V, KEY_Z, KEY_KVEC, KEY_FEATURE, KEY_BOUND,
       KEY_OMEGA, KEY_CAUSAL, KEY_LENGTHS, KEY_Z_OUT, KEY_KVEC_OUT, KEY_GRAD_OUT, KEY_GRADS, KEY_PRECISION };

static const struct argp_option options[] = {
    { "q", KEY_Q, "FILE", 0, "queries (required)", 1 },
    { "k", KEY_K, "FILE", 0, "keys (required); heads may be fewer than those of q", 1 },
    { "v", KEY_V, "FILE", 0, "values (required), of the shape of k", 1 },
    { "method", KEY_METHOD, "NAME", 0, "exact, ntk, linear (default exact)", 1 },
    { "precision", KEY_PRECISION, "NAME", 0, "f32, f64 (default f64)", 1 },
    { "causal", KEY_CAUSAL, NULL, 0, "query i sees keys j <= i + L_k - L_q, and all of the prefix", 1 },
    { "lengths", KEY_LENGTHS, "LIST", 0, "keys per batch entry (default all)", 1 },
    { "prefix-k", KEY_PREFIX_K, "FILE", 0, "prefix keys: (m, d), (H_kv, m, d) or (B, H_kv, m, d)", 2 },
    { "prefix-v", KEY_PREFIX_V, "FILE", 0, "prefix values, of the same shape", 2 },
    { "z", KEY_Z, "FILE", 0, "summary Z: (r, d), or one per head or key/value head; adds to that of a prefix", 2 },
    { "kvec", KEY_KVEC, "FILE", 0, "summary k: (r), likewise", 2 },
    { "feature", KEY_FEATURE, "MAP", 0, "feature map (default elu1)", 2 },
    { "bound", KEY_BOUND, "B", 0, "scores cheb and minimax are made for (default max||q|| max||k_P|| / sqrt d)", 2 },
    { "omega", KEY_OMEGA, "FILE", 0, "directions of favor, (R, d), instead of drawn ones", 2 },
    { "z-out", KEY_Z_OUT, "FILE", 0, "write the summary used, Z", 3 },
    { "kvec-out", KEY_KVEC_OUT, "FILE", 0, "write the summary used, k", 3 },
    { "grad-out", KEY_GRAD_OUT, "FILE", CLI_INPUT, "G, of the shape of q: also the gradients of sum(G * output)", 3 },
    { "grads", KEY_GRADS, "DIR", 0, "where they go: dq, dk, dv, dprefix_k, dprefix_v, dz, dkvec (.npy)", 3 },
    { "out", CLI_COMMON, "FILE", 0, "where the result goes, .npy or .csv (default -: standard output)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_Q: cfg->q = arg; return 0;
    case KEY_K: cfg->k = arg; return 0;
    case KEY_V: cfg->v = arg; return 0;
    case KEY_METHOD: return cli_parse_choice(state, key, arg, methods, &cfg->method);
    case KEY_PRECISION: return cli_parse_choice(state, key, arg, precisions, &cfg->precision);
    case KEY_CAUSAL: cfg->causal = true; return 0;
    case KEY_LENGTHS: return cli_parse_size_list(state, key, arg, 0, SIZE_MAX, &cfg->lengths, &cfg->num_lengths);
    case KEY_PREFIX_K: cfg->prefix_k = arg; return 0;
    case KEY_PREFIX_V: cfg->prefix_v = arg; return 0;
    case KEY_Z: cfg->z = arg; return 0;
    case KEY_KVEC: cfg->kvec = arg; return 0;
    case KEY_FEATURE: cfg->feature = arg; return 0;
    case KEY_BOUND: return cli_parse_double(state, key, arg, 0.0, &cfg->bound);
    case KEY_OMEGA: cfg->omega = arg; return 0;
    case KEY_Z_OUT: cfg->z_out = arg; return 0;
    case KEY_KVEC_OUT: cfg->kvec_out = arg; return 0;
    case KEY_GRAD_OUT: cfg->grad_out = arg; return 0;
    case KEY_GRADS: cfg->grads = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    struct config *cfg = config;
    static char wrong[192];
    if (!cfg->q || !cfg->k || !cfg->v) return "--q, --k, --v: all three are required";
    if (!cfg->prefix_k != !cfg->prefix_v) return "--prefix-k, --prefix-v: one needs the other";
    if (!cfg->z != !cfg->kvec) return "--z, --kvec: one needs the other";
    if (!cfg->grad_out != !cfg->grads) return "--grad-out, --grads: one needs the other";
    if (cfg->method == EXACT && cfg->z) return "--z, --kvec: exact attention takes no summary";
    if (cfg->method == EXACT && (cfg->z_out || cfg->kvec_out))
        return "--z-out, --kvec-out: exact attention makes no summary";
    if ((cfg->z_out || cfg->kvec_out) && !cfg->z && !cfg->prefix_k)
        return "--z-out, --kvec-out: neither a prefix nor a summary is given";
    const int status = feature_spec_parse(cfg->feature, &cfg->spec);
    if (status) {
        snprintf(wrong, sizeof wrong, "--feature: \"%s\": %s", cfg->feature, feature_strerror(status));
        return wrong;
    }
    if (cfg->method != EXACT && cfg->omega && !feature_takes_omega(&cfg->spec))
        return "--omega: only favor and favor-orth have directions";
    if (cfg->method != EXACT && cfg->z && cfg->bound < 0.0 && feature_needs_bound(&cfg->spec))
        return "--bound: required for this feature map when --z is given";
    return NULL;
}

/* ---- tensors ------------------------------------------------------------------------ */

/* A file as (batch, heads, len, dim); leading extents it does not have are 1. */
struct tensor {
    const char *path;
    struct npy a;
    size_t batch, heads, len, dim;
};

static const char *shape_text(const struct npy *a, char text[128])
{
    size_t at = 0;
    at += (size_t)snprintf(text, 128, "(");
    for (size_t i = 0; i < a->rank && at < 100; i++)
        at += (size_t)snprintf(text + at, 128 - at, i ? ", %zu" : "%zu", a->shape[i]);
    snprintf(text + at, 128 - at, a->rank == 1 ? ",)" : ")");
    return text;
}

static int bad_shape(const struct config *cfg, const struct tensor *t, const char *wanted)
{
    char text[128];
    return cli_fail(&cfg->c, EXIT_DATA, "%s: shape %s where %s is wanted", t->path, shape_text(&t->a, text), wanted);
}

/* Reads `path` (nothing when NULL); float32 for tensors, float64 for summaries. */
static int read_tensor(const struct config *cfg, const char *path, bool narrow, struct tensor *t)
{
    char why[256];
    t->path = path;
    if (!path) return EXIT_DONE;
    const int status = array_file_read(path, narrow, &t->a, why, sizeof why);
    if (status) return cli_bad_input(&cfg->c, status, path, why);
    const size_t rank = t->a.rank, *shape = t->a.shape;
    t->dim = rank > 0 ? shape[rank - 1] : 1;
    t->len = rank > 1 ? shape[rank - 2] : 1;
    t->heads = rank > 2 ? shape[rank - 3] : 1;
    t->batch = rank > 3 ? shape[rank - 4] : 1;
    return EXIT_DONE;
}

static bool same_shape(const struct npy *a, const struct npy *b)
{
    return a->rank == b->rank && !memcmp(a->shape, b->shape, a->rank * sizeof *a->shape);
}

enum { Q, K, V, PREFIX_K, PREFIX_V, Z, KVEC, GRAD, OMEGA, NUM_TENSORS };

struct inputs {
    struct tensor t[NUM_TENSORS];
    struct attn_shape shape;
    struct attn_prefix prefix;          /* len 0: none */
};

static struct attn_in view(const struct tensor *t)
{
    const ptrdiff_t head = (ptrdiff_t)(t->len * t->dim);
    return (struct attn_in){ t->a.f32, t->batch > 1 ? head * (ptrdiff_t)t->heads : 0, t->heads > 1 ? head : 0,
                             (ptrdiff_t)t->dim };
}

static int check_shapes(const struct config *cfg, struct inputs *in)
{
    const struct tensor *q = &in->t[Q], *k = &in->t[K], *v = &in->t[V], *pk = &in->t[PREFIX_K], *pv = &in->t[PREFIX_V];
    const struct tensor *g = &in->t[GRAD];
    char wanted[160];
    if (q->a.rank < 2 || q->a.rank > 4) return bad_shape(cfg, q, "(L, d), (H, L, d) or (B, H, L, d)");
    if (!q->a.size) return bad_shape(cfg, q, "at least one query");
    snprintf(wanted, sizeof wanted, "%zu dimensions like q, the last %zu", q->a.rank, q->dim);
    if (k->a.rank != q->a.rank || k->dim != q->dim) return bad_shape(cfg, k, wanted);
    snprintf(wanted, sizeof wanted, "a batch of %zu like q", q->batch);
    if (k->batch != q->batch) return bad_shape(cfg, k, wanted);
    snprintf(wanted, sizeof wanted, "a number of heads that divides the %zu of q", q->heads);
    if (!k->heads || q->heads % k->heads) return bad_shape(cfg, k, wanted);
    if (!same_shape(&v->a, &k->a)) return bad_shape(cfg, v, "the shape of k");
    if (g->path && !same_shape(&g->a, &q->a)) return bad_shape(cfg, g, "the shape of q");
    in->shape = (struct attn_shape){ q->batch, q->heads, k->heads, q->len, k->len, q->dim, cfg->causal, NULL };
    if (pk->path) {
        snprintf(wanted, sizeof wanted, "(m, %zu), (%zu, m, %zu) or (%zu, %zu, m, %zu)", q->dim, k->heads, q->dim,
                 q->batch, k->heads, q->dim);
        if (pk->a.rank < 2 || pk->a.rank > 4 || pk->dim != q->dim || (pk->a.rank > 2 && pk->heads != k->heads) ||
            (pk->a.rank > 3 && pk->batch != q->batch))
            return bad_shape(cfg, pk, wanted);
        if (!same_shape(&pv->a, &pk->a)) return bad_shape(cfg, pv, "the shape of the prefix keys");
        in->prefix = (struct attn_prefix){ pk->len, view(pk), view(pv), NULL };
    }
    if (cfg->lengths) {
        if (cfg->num_lengths != q->batch)
            return cli_fail(&cfg->c, EXIT_USAGE, "--lengths: %zu numbers for a batch of %zu", cfg->num_lengths,
                            q->batch);
        for (size_t b = 0; b < q->batch; b++)
            if (cfg->lengths[b] > k->len)
                return cli_fail(&cfg->c, EXIT_USAGE, "--lengths: %zu exceeds the %zu keys", cfg->lengths[b], k->len);
        in->shape.key_lengths = cfg->lengths;
    }
    return EXIT_DONE;
}

static int read_inputs(const struct config *cfg, struct inputs *in)
{
    const bool summary = cfg->method != EXACT;
    const char *const paths[NUM_TENSORS] = { cfg->q, cfg->k, cfg->v, cfg->prefix_k, cfg->prefix_v, cfg->z, cfg->kvec,
                                             cfg->grad_out, summary ? cfg->omega : NULL };
    for (int i = 0; i < NUM_TENSORS; i++) {
        const int code = read_tensor(cfg, paths[i], i != Z && i != KVEC && i != OMEGA, &in->t[i]);
        if (code) return code;
    }
    return check_shapes(cfg, in);
}

/* ---- feature map and summary ----------------------------------------------------------- */

static double largest_norm(const struct tensor *t)
{
    double most = 0.0;
    for (size_t i = 0; i < t->a.size; i += t->dim) {
        double square = 0.0;
        for (size_t c = 0; c < t->dim; c++) square += (double)t->a.f32[i + c] * (double)t->a.f32[i + c];
        most = fmax(most, square);
    }
    return sqrt(most);
}

static int make_map(const struct config *cfg, const struct inputs *in, feature_map **map)
{
    const struct tensor *omega = &in->t[OMEGA];
    const size_t d = in->shape.head_dim;
    double bound = cfg->bound;
    if (bound < 0.0 && feature_needs_bound(&cfg->spec)) {
        const struct tensor *keys = in->t[PREFIX_K].path ? &in->t[PREFIX_K] : &in->t[K];
        bound = largest_norm(&in->t[Q]) * largest_norm(keys) / sqrt((double)d);
    }
    if (omega->path && (omega->a.rank != 2 || omega->len != cfg->spec.order || omega->dim != d)) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "(%zu, %zu)", cfg->spec.order, d);
        return bad_shape(cfg, omega, wanted);
    }
    const int status = feature_map_alloc(&cfg->spec, d, bound < 0.0 ? 0.0 : bound, cfg->c.seed, omega->a.f64, map);
    if (!status) return EXIT_DONE;
    if (feature_needs_bound(&cfg->spec))
        return cli_fail(&cfg->c, EXIT_FAILED, "%s with bound %g: %s", cfg->feature, bound, feature_strerror(status));
    return cli_fail(&cfg->c, EXIT_FAILED, "%s for dimension %zu: %s", cfg->feature, d, feature_strerror(status));
}

/* Whether the processes of the run share the heads. Gradients of keys and prefixes are sums over heads and batch. */
static bool is_shared(const struct config *cfg)
{
    return processes_count() > 1 && !cfg->grads;
}

/* The summaries in use: one per (batch, head) of a grid that is as fine as the finer
 * of prefix and given summary. */
struct summaries {
    size_t rank;                        /* of Z as written */
    size_t batch, heads, feat_dim, cols;
    double *Zk, *scale;
    struct attn_summary_f64 wide;
};

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static bool has_summary(const struct inputs *in)
{
    return in->t[PREFIX_K].path || in->t[Z].path;
}

/* Which head of a coarser or equal grid covers head h of `heads`. */
static size_t covering(size_t h, size_t heads, size_t coarse)
{
    return h / (heads / coarse);
}

static int check_summary(const struct config *cfg, const struct inputs *in, size_t feat_dim)
{
    const struct tensor *z = &in->t[Z], *kvec = &in->t[KVEC];
    const struct attn_shape *s = &in->shape;
    char wanted[192];
    if (!z->path) return EXIT_DONE;
    snprintf(wanted, sizeof wanted, "(%zu, %zu) for %s, or one for each of %zu or %zu heads", feat_dim, s->head_dim,
             cfg->feature, s->heads, s->kv_heads);
    if (z->a.rank < 2 || z->a.rank > 4 || z->dim != s->head_dim || z->len != feat_dim ||
        (z->a.rank > 2 && z->heads != s->heads && z->heads != s->kv_heads) || (z->a.rank > 3 && z->batch != s->batch))
        return bad_shape(cfg, z, wanted);
    if (kvec->a.rank + 1 != z->a.rank || memcmp(kvec->a.shape, z->a.shape, kvec->a.rank * sizeof *kvec->a.shape))
        return bad_shape(cfg, kvec, "that of z without its last dimension");
    return EXIT_DONE;
}

static void lay_out_summaries(const struct inputs *in, const feature_map *map, struct summaries *s)
{
    const struct tensor *pk = &in->t[PREFIX_K], *z = &in->t[Z];
    s->feat_dim = feature_dim(map);
    s->cols = in->shape.head_dim + 1;
    s->batch = larger(pk->path ? pk->batch : 1, z->path ? z->batch : 1);
    s->heads = larger(pk->path ? pk->heads : 1, z->path ? z->heads : 1);
    s->rank = larger(pk->path ? pk->a.rank : 2, z->path ? z->a.rank : 2);
    /* A single head on the grid serves all of them. */
    s->wide = (struct attn_summary_f64){ .map = map, .heads = s->heads > 1 ? s->heads : in->shape.kv_heads,
                                          .batch = s->batch > 1 ? s->heads : 0, .head = s->heads > 1 ? 1 : 0 };
}

/* Adds the prefix of (b, h) and the given summary of (b, h) to the state number `at`. */
static int fill_summary(const struct config *cfg, const struct inputs *in, struct attn_fold *fold, size_t b, size_t h,
                        struct summaries *s, double *Z_of, double *k_of)
{
    const size_t r = s->feat_dim, cols = s->cols, d = cols - 1, at = b * s->heads + h;
    const struct tensor *pk = &in->t[PREFIX_K], *pv = &in->t[PREFIX_V], *z = &in->t[Z], *kvec = &in->t[KVEC];
    double *Zk = s->Zk + at * r * cols;
    s->scale[at] = 0.0;
    memset(Zk, 0, r * cols * sizeof *Zk);
    if (pk->path) {
        const size_t from = ((pk->batch > 1 ? b : 0) * pk->heads + covering(h, s->heads, pk->heads)) * pk->len * d;
        attn_fold_reset(fold);
        int status = attn_fold_add_f32(fold, pk->len, pk->a.f32 + from, d, pv->a.f32 + from, d, cfg->c.threads, NULL);
        if (!status) status = attn_fold_read_f64(fold, Z_of, k_of, &s->scale[at]);
        if (status) return cli_status(&cfg->c, status, "the summary of the prefix");
        for (size_t a = 0; a < r; a++) {
            memcpy(Zk + a * cols, Z_of + a * d, d * sizeof *Zk);
            Zk[a * cols + d] = k_of[a];
        }
    }
    if (z->path) {
        const size_t from = ((z->batch > 1 ? b : 0) * z->heads + covering(h, s->heads, z->heads)) * r;
        /* The given numbers have scale 0: the larger of both scales holds the sum. */
        const double scale = fmax(s->scale[at], 0.0), keep = exp(s->scale[at] - scale), factor = exp(-scale);
        for (size_t a = 0; a < r; a++) {
            double *row = Zk + a * cols;
            for (size_t c = 0; c < d; c++) row[c] = keep * row[c] + factor * z->a.f64[(from + a) * d + c];
            row[d] = keep * row[d] + factor * kvec->a.f64[from + a];
        }
        s->scale[at] = scale;
    }
    return EXIT_DONE;
}

static int make_summaries(const struct config *cfg, const struct inputs *in, const feature_map *map,
                          struct summaries *s)
{
    const size_t grid = s->batch * s->heads, r = s->feat_dim;
    struct attn_fold *fold = NULL;
    double *Z_of = malloc(r * s->cols * sizeof *Z_of), *k_of = malloc(r * sizeof *k_of);
    s->Zk = malloc(grid * r * s->cols * sizeof *s->Zk);
    s->scale = malloc(grid * sizeof *s->scale);
    int code = EXIT_DONE;
    if (!Z_of || !k_of || !s->Zk || !s->scale) code = cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    if (!code) code = cli_status(&cfg->c, attn_fold_alloc(map, in->shape.head_dim, &fold), "the summary of the prefix");
    size_t first = 0, last = grid;
    if (is_shared(cfg)) processes_range(grid, processes_rank(), &first, &last);
    for (size_t at = first; at < last && !code; at++) {
        code = fill_summary(cfg, in, fold, at / s->heads, at % s->heads, s, Z_of, k_of);
        if (!code) code = cli_interrupted();
    }
    if (is_shared(cfg)) {
        code = cli_agree(&cfg->c, code);
        if (!code) code = cli_collect(&cfg->c, s->Zk, grid, r * s->cols * sizeof *s->Zk, true);
        if (!code) code = cli_collect(&cfg->c, s->scale, grid, sizeof *s->scale, true);
    }
    attn_fold_free(fold);
    free(Z_of);
    free(k_of);
    s->wide.Zk = s->Zk;
    s->wide.log_scale = s->scale;
    return code;
}

/* ---- outputs ---------------------------------------------------------------------------- */

enum { MAX_OUTPUTS = 10 };

struct outputs {
    float *result, *grads[PREFIX_V + 1];        /* like the tensors Q .. PREFIX_V */
    double *dZk;                                /* like the summaries */
    float *dz, *dkvec;
    double *z_out, *kvec_out;
    struct { char *path; const float *f32; const double *f64; size_t rank, shape[4]; } file[MAX_OUTPUTS];
    size_t count;
};

static struct attn_out out_like(const struct tensor *t, float *data)
{
    const struct attn_in in = view(t);
    return (struct attn_out){ data, in.batch, in.head, in.row };
}

static struct attn_in as_input(struct attn_out x)
{
    return (struct attn_in){ x.data, x.batch, x.head, x.row };
}

static int add_file(const struct config *cfg, struct outputs *o, const char *folder, const char *name, const float *f32,
                    const double *f64, size_t rank, const size_t *shape)
{
    char *path = NULL;
    if (asprintf(&path, folder ? "%s/%s.npy" : "%s%s", folder ? folder : "", name) < 0)
        return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    o->file[o->count].path = path;
    o->file[o->count].f32 = f32;
    o->file[o->count].f64 = f64;
    o->file[o->count].rank = rank;
    memcpy(o->file[o->count].shape, shape, rank * sizeof *shape);
    o->count++;
    return EXIT_DONE;
}

static int write_files(const struct config *cfg, const struct outputs *o)
{
    int code = EXIT_DONE;
    for (size_t i = 0; i < o->count && !code; i++)
        code = cli_write_array(&cfg->c, o->file[i].path, o->file[i].f32, o->file[i].f64, o->file[i].rank,
                               o->file[i].shape);
    return code;
}

static const char *const grad_names[] = { "dq", "dk", "dv", "dprefix_k", "dprefix_v", "dz", "dkvec" };

/* Before the work: a CSV file has to hold the shape, the folder of the gradients (made when it
 * is not there: *made) every file. */
static int check_outputs(const struct config *cfg, const struct inputs *in, bool *made)
{
    if (array_file_format(cfg->c.out) == ARRAY_CSV && in->t[Q].a.rank > 2)
        return cli_fail(&cfg->c, EXIT_USAGE, "--out: a CSV file has rows and columns, the output has %zu dimensions",
                        in->t[Q].a.rank);
    int code = cli_outputs_add(&cfg->c, "out", cfg->c.out);
    if (code || !cfg->grads) return code;
    *made = !mkdir(cfg->grads, 0777);
    if (!*made && errno != EEXIST) return cli_fail(&cfg->c, EXIT_FAILED, "%s: %s", cfg->grads, strerror(errno));
    for (int i = Q; i <= KVEC && !code; i++) {
        if (!in->t[i].path) continue;
        char *path = NULL;
        if (asprintf(&path, "%s/%s.npy", cfg->grads, grad_names[i]) < 0)
            return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
        code = cli_outputs_add(&cfg->c, grad_names[i], path);
        free(path);
    }
    return code;
}

static void outputs_free(struct outputs *o)
{
    free(o->result);
    for (int i = 0; i <= PREFIX_V; i++) free(o->grads[i]);
    free(o->dZk);
    free(o->dz);
    free(o->dkvec);
    free(o->z_out);
    free(o->kvec_out);
    for (size_t i = 0; i < o->count; i++) free(o->file[i].path);
}

static int alloc_outputs(const struct config *cfg, const struct inputs *in, const struct summaries *s,
                         struct outputs *o)
{
    bool failed = !(o->result = malloc(in->t[Q].a.size * sizeof(float)));
    for (int i = Q; cfg->grads && i <= PREFIX_V; i++)
        if (in->t[i].path) failed |= !(o->grads[i] = calloc(in->t[i].a.size + 1, sizeof(float)));
    const size_t states = s->batch * s->heads * s->feat_dim;
    if (cfg->grads && states) failed |= !(o->dZk = calloc(states * s->cols, sizeof(double)));
    if (cfg->grads && in->t[Z].path)
        failed |= !(o->dz = malloc(in->t[Z].a.size * sizeof(float)))
            || !(o->dkvec = malloc(in->t[KVEC].a.size * sizeof(float)));
    if (cfg->z_out) failed |= !(o->z_out = malloc(states * s->cols * sizeof(double)));
    if (cfg->kvec_out) failed |= !(o->kvec_out = malloc(states * sizeof(double)));
    return failed ? cli_fail(&cfg->c, EXIT_FAILED, "out of memory") : EXIT_DONE;
}

/* ---- work ------------------------------------------------------------------------------- */

static struct attn_exact_grads exact_grads(const struct inputs *in, const struct outputs *o)
{
    return (struct attn_exact_grads){ out_like(&in->t[Q], o->grads[Q]), out_like(&in->t[K], o->grads[K]),
                                      out_like(&in->t[V], o->grads[V]), out_like(&in->t[PREFIX_K], o->grads[PREFIX_K]),
                                      out_like(&in->t[PREFIX_V], o->grads[PREFIX_V]) };
}

/* What the float32 backward pass needs of the forward pass; NULL also where there are no gradients. */
static attn_row *rows_alloc(const struct config *cfg, const struct inputs *in)
{
    const struct attn_shape *s = &in->shape;
    return cfg->grads ? malloc(s->batch * s->heads * s->len_q * sizeof(attn_row)) : NULL;
}

static int run_exact_f32(const struct config *cfg, const struct inputs *in, struct outputs *o,
                         struct attn_failure *failure)
{
    const struct attn_exact_grads grads = exact_grads(in, o);
    const struct attn_in q = view(&in->t[Q]), k = view(&in->t[K]), v = view(&in->t[V]);
    const float scale = (float)(1.0 / sqrt((double)in->shape.head_dim));
    const struct attn_out out = out_like(&in->t[Q], o->result);
    attn_row *rows = rows_alloc(cfg, in);
    int status = cfg->grads && !rows ? GSL_ENOMEM : GSL_SUCCESS;
    if (!status)
        status = attn_exact_forward(&in->shape, scale, q, k, v, &in->prefix, out, rows, NULL, 0, cfg->c.threads,
                                    failure);
    if (!status && cfg->grads)
        status = attn_exact_backward(&in->shape, scale, q, k, v, &in->prefix, as_input(out), (const attn_row *)rows,
                                     view(&in->t[GRAD]), &grads, NULL, 0, cfg->c.threads);
    free(rows);
    return status;
}

static int run_exact(const struct config *cfg, const struct inputs *in, struct outputs *o, struct attn_failure *failure)
{
    if (cfg->precision == F32) return run_exact_f32(cfg, in, o, failure);
    const struct attn_exact_grads grads = exact_grads(in, o);
    return attn_exact_f64(&in->shape, view(&in->t[Q]), view(&in->t[K]), view(&in->t[V]), &in->prefix,
                          out_like(&in->t[Q], o->result), view(&in->t[GRAD]), cfg->grads ? &grads : NULL,
                              cfg->c.threads,
                          failure);
}

static int run_scores(const struct config *cfg, const struct inputs *in, const feature_map *map, struct outputs *o,
                      struct attn_failure *failure)
{
    const struct attn_exact_grads grads = exact_grads(in, o);
    return attn_scores_f64(&in->shape, view(&in->t[Q]), view(&in->t[K]), view(&in->t[V]), &in->prefix, map,
                            cfg->method == LINEAR, out_like(&in->t[Q], o->result), view(&in->t[GRAD]),
                            cfg->grads ? &grads : NULL, cfg->c.threads, failure);
}

/* dZ and dk of the states that the prefix (or given summary) of (b, h) enters, each
 * times `factor` of its scale, summed. */
static void gather(const struct summaries *s, const double *dZk, size_t batch, size_t heads, size_t b, size_t h,
                   bool true_numbers, double *dZ, double *dk, double *scale)
{
    const size_t r = s->feat_dim, cols = s->cols, d = cols - 1;
    memset(dZ, 0, r * d * sizeof *dZ);
    memset(dk, 0, r * sizeof *dk);
    for (size_t sb = 0; sb < s->batch; sb++)
        for (size_t sh = 0; sh < s->heads; sh++) {
            if ((batch > 1 && sb != b) || covering(sh, s->heads, heads) != h) continue;
            const size_t at = sb * s->heads + sh;
            const double *from = dZk + at * r * cols, factor = true_numbers ? exp(-s->scale[at]) : 1.0;
            *scale = s->scale[at];
            for (size_t a = 0; a < r; a++) {
                for (size_t c = 0; c < d; c++) dZ[a * d + c] += factor * from[a * cols + c];
                dk[a] += factor * from[a * cols + d];
            }
        }
}

/* From the gradients in the summaries to those in the prefix and the given summary. */
static int spread_gradients(const struct config *cfg, const struct inputs *in, const feature_map *map,
                            const struct summaries *s, struct outputs *o)
{
    const size_t r = s->feat_dim, d = s->cols - 1;
    const struct tensor *pk = &in->t[PREFIX_K], *pv = &in->t[PREFIX_V], *z = &in->t[Z];
    double *dZ = malloc(r * d * sizeof *dZ), *dk = malloc(r * sizeof *dk), scale = 0.0;
    int status = dZ && dk ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t at = 0; pk->path && at < pk->batch * pk->heads && !status; at++) {
        /* All states a prefix enters have one scale, so stored numbers may be summed. */
        gather(s, o->dZk, pk->batch, pk->heads, at / pk->heads, at % pk->heads, false, dZ, dk, &scale);
        const size_t from = at * pk->len * d;
        status = attn_fold_backward_f32(map, d, pk->len, pk->a.f32 + from, d, pv->a.f32 + from, d, dZ, dk, scale,
                                        o->grads[PREFIX_K] + from, d, o->grads[PREFIX_V] + from, d, 0, cfg->c.threads,
                                            NULL);
    }
    for (size_t at = 0; z->path && at < z->batch * z->heads && !status; at++) {
        gather(s, o->dZk, z->batch, z->heads, at / z->heads, at % z->heads, true, dZ, dk, &scale);
        for (size_t i = 0; i < r * d; i++) o->dz[at * r * d + i] = (float)dZ[i];
        for (size_t i = 0; i < r; i++) o->dkvec[at * r + i] = (float)dk[i];
    }
    free(dZ);
    free(dk);
    return status;
}

/* Summaries as the float32 kernels take them, without scales; with room for their gradients. */
struct narrow {
    size_t states;
    float *Z, *kvec, *dZ, *dkvec;
    struct attn_summary summary;
};

static struct attn_out as_output(struct attn_in x, float *data)
{
    return (struct attn_out){ data, x.batch, x.head, x.row };
}

/* GSL_EOVRFLW where float32 does not hold a number, or all of k falls below its range. */
static int narrow_summaries(const struct config *cfg, const struct inputs *in, const struct summaries *s,
                            struct narrow *n)
{
    const size_t r = s->feat_dim, cols = s->cols, d = cols - 1;
    const struct attn_summary_f64 *wide = &s->wide;
    *n = (struct narrow){ .summary = { .map = wide->map, .heads = wide->heads } };
    if (!has_summary(in)) return GSL_SUCCESS;
    n->states = (in->shape.batch - 1) * wide->batch + (wide->heads - 1) * wide->head + 1;
    n->Z = malloc(n->states * r * d * sizeof(float));
    n->kvec = malloc(n->states * r * sizeof(float));
    if (cfg->grads) n->dZ = malloc(n->states * r * d * sizeof(float));
    if (cfg->grads) n->dkvec = malloc(n->states * r * sizeof(float));
    if (!n->Z || !n->kvec || (cfg->grads && (!n->dZ || !n->dkvec))) return GSL_ENOMEM;
    for (size_t at = 0; at < n->states; at++) {
        const double factor = exp(wide->log_scale[at]), *Zk = wide->Zk + at * r * cols;
        double mass = 0.0, kept = 0.0, check = 0.0;
        for (size_t a = 0; a < r; a++) {
            float *row = n->Z + (at * r + a) * d, *kvec = n->kvec + at * r + a;
            for (size_t c = 0; c < d; c++) check += (double)(row[c] = (float)(factor * Zk[a * cols + c])) * 0.0;
            check += (double)(*kvec = (float)(factor * Zk[a * cols + d])) * 0.0;
            mass = fmax(mass, fabs(Zk[a * cols + d]));
            kept = fmax(kept, fabs((double)*kvec));
        }
        if (check != 0.0 || (mass > 0.0 && kept < FLT_MIN)) return GSL_EOVRFLW;
    }
    const ptrdiff_t batch = (ptrdiff_t)(wide->batch * r), head = (ptrdiff_t)(wide->head * r), width = (ptrdiff_t)d;
    n->summary.Z = (struct attn_in){ n->Z, batch * width, head * width, width };
    n->summary.kvec = (struct attn_in){ n->kvec, batch, head, 1 };
    return GSL_SUCCESS;
}

static void narrow_free(struct narrow *n)
{
    free(n->Z);
    free(n->kvec);
    free(n->dZ);
    free(n->dkvec);
}

/* Gradients in the summaries as stored, e^{-scale} times the true ones. */
static void widen_gradients(const struct summaries *s, const struct narrow *n, double *dZk)
{
    const size_t r = s->feat_dim, cols = s->cols, d = cols - 1;
    for (size_t at = 0; at < n->states; at++) {
        const double factor = exp(s->wide.log_scale[at]);
        for (size_t a = at * r; a < (at + 1) * r; a++) {
            for (size_t c = 0; c < d; c++) dZk[a * cols + c] = factor * (double)n->dZ[a * d + c];
            dZk[a * cols + d] = factor * (double)n->dkvec[a];
        }
    }
}

static int run_features_f32(const struct config *cfg, const struct inputs *in, const struct summaries *s,
                            struct outputs *o, struct attn_failure *failure)
{
    const struct attn_in q = view(&in->t[Q]), k = view(&in->t[K]), v = view(&in->t[V]), g = view(&in->t[GRAD]);
    const struct attn_out out = out_like(&in->t[Q], o->result);
    const float scale = (float)(1.0 / sqrt((double)in->shape.head_dim));
    const int threads = cfg->c.threads;
    struct narrow n;
    attn_row *rows = cfg->method == NTK ? rows_alloc(cfg, in) : NULL;
    int status = narrow_summaries(cfg, in, s, &n);
    if (!status && cfg->method == NTK && cfg->grads && !rows) status = GSL_ENOMEM;
    const struct attn_ntk_grads grads = { out_like(&in->t[Q], o->grads[Q]), out_like(&in->t[K], o->grads[K]),
                                          out_like(&in->t[V], o->grads[V]), as_output(n.summary.Z, n.dZ),
                                          as_output(n.summary.kvec, n.dkvec) };
    if (!status && cfg->method == LINEAR)
        status = attn_linear_forward(&in->shape, q, k, v, &n.summary, out, NULL, 0, threads, failure);
    else if (!status)
        status = attn_ntk_forward(&in->shape, scale, q, k, v, &n.summary, out, rows, NULL, 0, threads, failure);
    if (!status && cfg->grads && cfg->method == LINEAR)
        status = attn_linear_backward(&in->shape, q, k, v, &n.summary, g, &grads, NULL, 0, threads);
    else if (!status && cfg->grads)
        status = attn_ntk_backward(&in->shape, scale, q, k, v, &n.summary, as_input(out), (const attn_row *)rows, g,
                                   &grads, NULL, 0, threads);
    if (!status && cfg->grads && n.states) widen_gradients(s, &n, o->dZk);
    narrow_free(&n);
    free(rows);
    return status;
}

static int run_features(const struct config *cfg, const struct inputs *in, const feature_map *map,
                        const struct summaries *s, struct outputs *o, struct attn_failure *failure)
{
    if (cfg->precision == F32) {
        const int narrow = run_features_f32(cfg, in, s, o, failure);
        return narrow || !cfg->grads || !has_summary(in) ? narrow : spread_gradients(cfg, in, map, s, o);
    }
    const struct attn_grads_f64 grads = { out_like(&in->t[Q], o->grads[Q]), out_like(&in->t[K], o->grads[K]),
                                           out_like(&in->t[V], o->grads[V]), o->dZk };
    int status = (cfg->method == LINEAR ? attn_linear_f64 : attn_ntk_f64)(
        &in->shape, view(&in->t[Q]), view(&in->t[K]), view(&in->t[V]), &s->wide, out_like(&in->t[Q], o->result),
        view(&in->t[GRAD]), cfg->grads ? &grads : NULL, cfg->c.threads, failure);
    if (!status && cfg->grads && has_summary(in)) status = spread_gradients(cfg, in, map, s, o);
    return status;
}

static int run_all(const struct config *cfg, const struct inputs *in, const feature_map *map, const struct summaries *s,
                   bool listed, struct outputs *o, struct attn_failure *failure)
{
    if (cfg->method == EXACT) return run_exact(cfg, in, o, failure);
    return listed ? run_features(cfg, in, map, s, o, failure) : run_scores(cfg, in, map, o, failure);
}

/* Batch entry b and key/value head kv alone, with the query heads it serves. */
static int run_unit(const struct config *cfg, const struct inputs *in, const feature_map *map,
                    const struct summaries *s, bool listed, struct outputs *o, size_t unit,
                        struct attn_failure *failure)
{
    const struct attn_shape *whole = &in->shape;
    const size_t b = unit / whole->kv_heads, kv = unit % whole->kv_heads, group = whole->heads / whole->kv_heads;
    struct inputs one = *in;
    struct summaries its = *s;
    struct outputs part = *o;
    for (int i = Q; i <= PREFIX_V; i++) {
        struct tensor *t = &one.t[i];
        if (!t->path) continue;
        const size_t head = i == Q ? kv * group : t->heads > 1 ? kv : 0,
            at = ((t->batch > 1 ? b : 0) * t->heads + head) * t->len * t->dim;
        t->a.f32 += at;
        if (i == Q) part.result += at;
        t->batch = 1;
        t->heads = i == Q ? group : 1;
    }
    one.shape = (struct attn_shape){ 1, group, 1, whole->len_q, whole->len_k, whole->head_dim, whole->causal,
                                     whole->key_lengths ? whole->key_lengths + b : NULL };
    if (in->prefix.len)
        one.prefix = (struct attn_prefix){ in->prefix.len, view(&one.t[PREFIX_K]), view(&one.t[PREFIX_V]), NULL };
    if (s->Zk) {
        const bool by_query = s->heads > 1 && s->wide.heads == whole->heads;
        const size_t state = b * s->wide.batch + (by_query ? kv * group : kv) * s->wide.head;
        its.wide.heads = by_query ? group : 1;
        its.wide.Zk += state * s->feat_dim * s->cols;
        its.wide.log_scale += state;
        its.wide.batch = 0;
    }
    const int status = run_all(cfg, &one, map, &its, listed, &part, failure);
    failure->batch += b;
    failure->head += kv * group;
    return status;
}

/* The units of this process, and those of all on process 0; a GSL code there, *code when a message failed. */
static int run_shared(const struct config *cfg, const struct inputs *in, const feature_map *map,
                      const struct summaries *s, bool listed, struct outputs *o, struct attn_failure *failure,
                          int *code)
{
    struct unit { int status; struct attn_failure failure; };
    const size_t units = in->shape.batch * in->shape.kv_heads,
        rows = in->shape.heads / in->shape.kv_heads * in->shape.len_q;
    struct unit *made = calloc(units, sizeof *made);
    int status = GSL_SUCCESS;
    size_t first, last;
    processes_range(units, processes_rank(), &first, &last);
    if ((*code = cli_agree(&cfg->c, made ? EXIT_DONE : cli_fail(&cfg->c, EXIT_FAILED, "out of memory")))) goto done;
    for (size_t u = first; u < last && !cli_interrupted(); u++) {
        made[u].status = run_unit(cfg, in, map, s, listed, o, u, &made[u].failure);
        if (made[u].status) break;
    }
    if ((*code = cli_agree(&cfg->c, cli_interrupted()))) goto done;
    *code = cli_collect(&cfg->c, made, units, sizeof *made, true);
    for (size_t u = 0; u < units && !status && !*code; u++) {
        status = made[u].status;
        *failure = made[u].failure;
    }
    if (!*code && !status)
        *code = cli_collect(&cfg->c, o->result, units, rows * in->shape.head_dim * sizeof(float), false);
done:
    free(made);
    return status;
}

/* The summary number `at` as it is written, without a scale of its own; refused where doubles cannot
 * hold it. */
static int true_summary(const struct config *cfg, const struct summaries *s, size_t at, struct outputs *o)
{
    const size_t r = s->feat_dim, d = s->cols - 1;
    const double scale = exp(s->scale[at]);
    double mass = 0.0, kept = 0.0, check = 0.0;
    for (size_t a = at * r; a < (at + 1) * r; a++) {
        const double *row = s->Zk + a * s->cols;
        for (size_t c = 0; c <= d; c++) check += scale * row[c] * 0.0;
        for (size_t c = 0; o->z_out && c < d; c++) o->z_out[a * d + c] = scale * row[c];
        if (o->kvec_out) o->kvec_out[a] = scale * row[d];
        mass = fmax(mass, fabs(row[d]));
        kept = fmax(kept, fabs(scale * row[d]));
    }
    if (check == 0.0 && (mass == 0.0 || kept >= DBL_MIN)) return EXIT_DONE;
    return cli_fail(&cfg->c, EXIT_FAILED, "%s: the summary is of the order e^%.0f, which %s the range of doubles",
                    cfg->z_out ? "--z-out" : "--kvec-out", s->scale[at], check == 0.0 ? "falls below" : "exceeds");
}

static int list_files(const struct config *cfg, const struct inputs *in, const struct summaries *s, struct outputs *o)
{
    const size_t r = s->feat_dim, d = s->cols ? s->cols - 1 : 0, states = s->batch * s->heads;
    const size_t lead = s->rank > 3 ? 0 : s->rank > 2 ? 1 : 2, grid[4] = { s->batch, s->heads, r, d };
    int code = EXIT_DONE;
    for (size_t at = 0; at < states && !code && (o->z_out || o->kvec_out); at++) code = true_summary(cfg, s, at, o);
    if (o->z_out) code = add_file(cfg, o, NULL, cfg->z_out, NULL, o->z_out, 4 - lead, grid + lead);
    if (!code && o->kvec_out) code = add_file(cfg, o, NULL, cfg->kvec_out, NULL, o->kvec_out, 3 - lead, grid + lead);
    for (int i = Q; i <= PREFIX_V && !code; i++)
        if (o->grads[i])
            code = add_file(cfg, o, cfg->grads, grad_names[i], o->grads[i], NULL, in->t[i].a.rank, in->t[i].a.shape);
    if (!code && o->dz) code = add_file(cfg, o, cfg->grads, "dz", o->dz, NULL, in->t[Z].a.rank, in->t[Z].a.shape);
    if (!code && o->dkvec)
        code = add_file(cfg, o, cfg->grads, "dkvec", o->dkvec, NULL, in->t[KVEC].a.rank, in->t[KVEC].a.shape);
    if (!code) code = add_file(cfg, o, NULL, cfg->c.out, o->result, NULL, in->t[Q].a.rank, in->t[Q].a.shape);
    return code;
}

static int memory_needed(const struct config *cfg, const struct inputs *in, const feature_map *map,
                         const struct summaries *s, bool listed)
{
    const size_t m = in->prefix.len;
    double bytes = (double)in->t[Q].a.size * 4.0;
    for (int i = Q; cfg->grads && i <= PREFIX_V; i++) bytes += (double)in->t[i].a.size * 4.0;
    if (cfg->method == EXACT) {
        bytes += (double)attn_exact_f64_bytes(&in->shape, cfg->grads != NULL);
    } else if (!listed) {
        bytes += (double)attn_scores_f64_bytes(&in->shape, m, cfg->grads != NULL, cfg->c.threads);
    } else {
        bytes += (double)attn_summary_f64_bytes(&in->shape, &s->wide, cfg->grads != NULL, cfg->c.threads);
        bytes += (double)(s->batch * s->heads * (cfg->grads ? 2 : 1) + 1) * (double)s->feat_dim * (double)s->cols * 8.0;
        if (has_summary(in))
            bytes += (double)attn_fold_bytes(s->feat_dim, s->cols) + (double)attn_fold_workspace(map, s->cols,
                cfg->c.threads);
    }
    return cli_memory(&cfg->c, bytes, cfg->method == EXACT ? "attention" : cfg->feature);
}

/* Map and layout of the summaries of a method that has features; exit code. */
static int prepare(const struct config *cfg, const struct inputs *in, feature_map **map, struct summaries *s,
                   bool *listed)
{
    int code = make_map(cfg, in, map);
    if (code) return code;
    const bool wanted = cfg->z || cfg->z_out || cfg->kvec_out || cfg->precision == F32;
    *listed = wanted || !feature_is_polynomial(*map) || feature_dim(*map) <= MAX_LISTED;
    if (*listed && !feature_is_explicit(*map))
        return cli_fail(&cfg->c, EXIT_FAILED, "%s has %zu features for dimension %zu: a summary of them does not fit",
                        cfg->feature, feature_dim(*map), in->shape.head_dim);
    code = check_summary(cfg, in, feature_dim(*map));
    if (!code && *listed) lay_out_summaries(in, *map, s);
    const bool csv_z = cfg->z_out && array_file_format(cfg->z_out) == ARRAY_CSV && s->rank > 2;
    if (!code && (csv_z || (cfg->kvec_out && array_file_format(cfg->kvec_out) == ARRAY_CSV && s->rank > 3)))
        code = cli_fail(&cfg->c, EXIT_USAGE, "--%s: a CSV file has rows and columns, the summary has more dimensions",
                        csv_z ? "z-out" : "kvec-out");
    return code;
}

/* Why the row that failed has no normaliser. */
static int bad_row(const struct config *cfg, const struct inputs *in, const struct attn_failure *at)
{
    const struct attn_shape *s = &in->shape;
    const size_t keys = s->key_lengths ? s->key_lengths[at->batch] : s->len_k, ahead = at->row + 1 + s->len_k;
    const bool sees = keys && (!s->causal || ahead > s->len_q);
    if (!sees && !in->prefix.len && !in->t[Z].path)
        return cli_fail(&cfg->c, EXIT_FAILED,
                        "D = 0 at batch %zu, head %zu, row %zu: the row sees no key (%s), and there is no prefix",
                        at->batch, at->head, at->row, !s->len_k ? "there is none" : !keys
                        ? "--lengths hides all of them"
                        : "--causal hides all of them, as there are fewer keys than queries");
    return cli_fail(&cfg->c, EXIT_FAILED,
                    "D <= 0 at batch %zu, head %zu, row %zu: the normaliser is not positive and finite", at->batch,
                    at->head, at->row);
}

static int work(const struct config *cfg, struct inputs *in, struct outputs *o)
{
    feature_map *map = NULL;
    struct summaries s = { 0 };
    struct attn_failure failure = { 0, 0, 0 };
    bool listed = true, made_folder = false;
    int status = GSL_SUCCESS, code = read_inputs(cfg, in);
    cli_outputs_begin(&cfg->c);
    if (!code && !processes_rank()) code = check_outputs(cfg, in, &made_folder);
    code = cli_agree(&cfg->c, code);
    /* Without heads to share process 0 does it all. */
    if (processes_rank() && !is_shared(cfg)) goto done;
    if (!code && cfg->method != EXACT) code = prepare(cfg, in, &map, &s, &listed);
    if (!code) code = memory_needed(cfg, in, map, &s, listed);
    if (is_shared(cfg)) code = cli_agree(&cfg->c, code);
    if (!code && listed && cfg->method != EXACT && has_summary(in)) code = make_summaries(cfg, in, map, &s);
    if (!code) code = alloc_outputs(cfg, in, &s, o);
    if (is_shared(cfg)) code = cli_agree(&cfg->c, code);
    if (code) goto done;
    if (is_shared(cfg)) status = run_shared(cfg, in, map, &s, listed, o, &failure, &code);
    else status = run_all(cfg, in, map, &s, listed, o, &failure);
    if (code) goto done;
    if (status == GSL_EDOM) code = bad_row(cfg, in, &failure);
    else if (status == GSL_EOVRFLW && cfg->precision == F32)
        code = cli_fail(&cfg->c, EXIT_FAILED,
                        "a summary or a gradient is out of float32's range; --precision f64 has more");
    else code = cli_status(&cfg->c, status, "attention");
    if (!code) code = cli_interrupted();
    if (processes_rank()) goto done;
    if (!code) code = list_files(cfg, in, &s, o);
    if (!code) code = write_files(cfg, o);
done:
    code = cli_outputs_end(&cfg->c, code);
    if (code && made_folder) rmdir(cfg->grads);
    free(s.Zk);
    free(s.scale);
    feature_map_free(map);
    return code;
}

int main(int argc, char **argv)
{
    struct config cfg = { .method = EXACT, .precision = F64, .feature = "elu1", .bound = -1.0 };
    struct inputs in = { 0 };
    struct outputs o = { 0 };
    if (processes_start(&argc, &argv, cli_interrupted)) return EXIT_FAILED;
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    if (cfg.method == EXACT)
        cli_warn_unused(&cfg.c, "on exact attention (--method ntk or linear)",
                        (const char *const[]){ "feature", "bound", "omega", NULL });
    else if (cfg.bound >= 0.0 && !feature_needs_bound(&cfg.spec))
        cli_warn(&cfg.c, "warning: --bound: %s has no use for one", cfg.feature);
    const int code = work(&cfg, &in, &o);
    outputs_free(&o);
    for (int i = 0; i < NUM_TENSORS; i++) npy_free(&in.t[i].a);
    return processes_end(code);
}
