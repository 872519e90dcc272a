/* NTK-Attention by two routes: the sums that the approximation claims are measured with, and the public calls. Ledger
 * M1. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_errno.h>

#include "approximation/approx.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "prefix_ntk/attention.h"
#include "prefix_ntk/attention_f64.h"
#include "prefix_ntk/summary.h"

static const char columns[] = "summary,map,feat_dim,route,difference_max,err_rel_mean,num_trials";

struct config { struct cli_common c; size_t num_trials, prefix_len; };

static const struct cli_option options[] = {
    { "prefix-len", CLI_SIZE(struct config, prefix_len), .min = 1, .max = 1 << 16, .value = "4096", .arg = "M",
      .doc = "prefix length" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "4", .doc = "trials",
      .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

enum { DIM = 64, LEN = 128, NUM_FIT = 512, ALL = LEN + NUM_FIT };

/* Summaries as M1, M6 and E1 have them: of the prefix, or fitted by least squares to other queries. */
static const struct summary { const char *name, *map; bool fitted; } summaries[] = {
    { "plug-in", "elu1", false },     { "plug-in", "taylor:1", false },          { "plug-in", "taylor:2", false },
    { "plug-in", "favor:64", false }, { "least squares", "elu1", true }, { "least squares", "taylor:1", true },
};
enum { NUM_SUMMARIES = sizeof summaries / sizeof *summaries };
enum route { DOUBLE, SINGLE, NUM_ROUTES };
static const char *const route_names[NUM_ROUTES] = { "attn_ntk_f64", "attn_ntk_forward" };

/* Of a trial, by summary: the differences of the routes, then the error. */
enum { ERROR = NUM_ROUTES, PER_SUMMARY };

/* One layer and prefix, every number a float32 one, so that both routes see the same. Sequence 0 is judged, the others
 * are fitted; each attends to its own tokens. */
struct layer {
    /* Q (ALL, DIM); K, V (LEN, DIM), of sequence 0; Kp, Vp (prefix_len, DIM) */
    double *Q, *K, *V, *Kp, *Vp;
    struct attn_sums input, prefix;           /* of all queries */
};

static void round_all(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (double)(float)x[i];
}

static void layer_free(struct layer *x)
{
    free(x->Q);
    attn_sums_free(&x->input);
    attn_sums_free(&x->prefix);
}

static int layer_fill(const struct config *cfg, size_t trial, struct layer *x)
{
    const size_t m = cfg->prefix_len, block = LEN * DIM;
    const double scale = 1.0 / sqrt((double)DIM);
    struct source source = { 0 };
    double *own = malloc(2 * block * sizeof *own);
    *x = (struct layer){ .Q = malloc((ALL + 2 * LEN + 2 * m) * DIM * sizeof(double)) };
    int status = x->Q && own ? source_init(&source, cfg->c.seed, trial, DIM, SOURCE_TIED, NULL, 0.0) : GSL_ENOMEM;
    if (!status) status = attn_sums_alloc(&x->input, ALL, DIM);
    if (!status) status = attn_sums_alloc(&x->prefix, ALL, DIM);
    if (status) goto done;
    x->K = x->Q + ALL * DIM;
    x->V = x->K + block;
    x->Kp = x->V + block;
    x->Vp = x->Kp + m * DIM;
    for (size_t first = 0; first < m && !status; first += SOURCE_BLOCK) {
        const size_t count = m - first < SOURCE_BLOCK ? m - first : SOURCE_BLOCK;
        status = source_prefix(&source, first, count, x->Kp + first * DIM, x->Vp + first * DIM);
    }
    round_all(x->Kp, 2 * m * DIM);
    for (size_t at = 0; at < ALL && !status; at += LEN) {
        double *K = at ? own : x->K, *V = at ? own + block : x->V, *Q = x->Q + at * DIM;
        struct attn_sums input = { LEN, DIM, x->input.shift + at, x->input.mass + at, x->input.num + at * DIM };
        struct attn_sums prefix = { LEN, DIM, x->prefix.shift + at, x->prefix.mass + at, x->prefix.num + at * DIM };
        status = source_inputs(&source, at, LEN, Q, K, V);
        round_all(Q, block);
        round_all(K, block);
        round_all(V, block);
        if (!status) status = attn_sums_exact(Q, K, V, LEN, scale, &input);
        if (!status) status = attn_sums_exact(Q, x->Kp, x->Vp, m, scale, &prefix);
    }
done:
    source_free(&source);
    free(own);
    return status;
}

/* ---- by sums ------------------------------------------------------------------------------ */

static int plug_in_sums(const struct config *cfg, const struct layer *x, const struct study_map *map,
                        struct attn_sums *sums)
{
    struct study study = { 0 };
    int exists, status = study_alloc(&study, map, 1, x->Q, LEN, DIM, NULL, cfg->c.seed);
    for (size_t first = 0, end; first < cfg->prefix_len && !status; first = end) {
        end = prefix_sums_block_end(first);
        if (end > cfg->prefix_len) end = cfg->prefix_len;
        status = study_add(&study, x->Kp + first * DIM, x->Vp + first * DIM, end - first);
    }
    if (!status) status = study_sums(&study, 0, 0.0, sums, &exists);
    study_free(&study);
    return status;
}

/* The same of a summary fitted to the other queries, which is left in Z (r, DIM) and k (r). */
static int fitted_sums(const struct config *cfg, const struct layer *x, const struct study_map *map, double *Z,
                       double *k, struct attn_sums *sums)
{
    double *phi = NULL;
    size_t r;
    const struct attn_sums input = { NUM_FIT, DIM, x->input.shift + LEN, x->input.mass + LEN,
                                     x->input.num + LEN * DIM };
    const struct attn_sums prefix = { NUM_FIT, DIM, x->prefix.shift + LEN, x->prefix.mass + LEN,
                                      x->prefix.num + LEN * DIM };
    int status = study_query_features(map, x->Q, ALL, DIM, 0.0, cfg->c.seed, &phi, &r);
    const struct summary_problem problem = { r, phi + LEN * r, &input, &prefix };
    if (!status) status = summary_fit_lstsq(&problem, !feature_spec_is_polynomial(&map->spec), Z, k);
    if (!status) summary_apply(phi, r, Z, k, sums);
    free(phi);
    return status;
}

/* ---- by the public calls ------------------------------------------------------------------- */

static int plug_in_summary(const struct config *cfg, const struct layer *x, const feature_map *map, double *Z,
                           double *k, double *log_scale)
{
    struct attn_fold *fold = NULL;
    int status = attn_fold_alloc(map, DIM, &fold);
    if (!status) status = attn_fold_add_f64(fold, cfg->prefix_len, x->Kp, DIM, x->Vp, DIM, 1, NULL);
    if (!status) status = attn_fold_read_f64(fold, Z, k, log_scale);
    attn_fold_free(fold);
    return status;
}

/* Outputs (LEN, DIM) of attn_ntk_f64 for (Z, k) e^{log_scale}. */
static int route_double(const feature_map *map, struct attn_in q, struct attn_in k, struct attn_in v, const double *Z,
                        const double *mass, double log_scale, float *out)
{
    const size_t r = feature_dim(map);
    const struct attn_shape shape = { 1, 1, 1, LEN, LEN, DIM, 0, NULL };
    double *Zk = malloc(r * (DIM + 1) * sizeof *Zk);
    if (!Zk) return GSL_ENOMEM;
    for (size_t a = 0; a < r; a++) {
        memcpy(Zk + a * (DIM + 1), Z + a * DIM, DIM * sizeof *Zk);
        Zk[a * (DIM + 1) + DIM] = mass[a];
    }
    const struct attn_summary_f64 summary = { .map = map, .heads = 1, .Zk = Zk, .log_scale = &log_scale };
    const int status = attn_ntk_f64(&shape, q, k, v, &summary, attn_dense_out(out, 1, LEN, DIM), (struct attn_in){ 0 },
                                    NULL, 1, NULL);
    free(Zk);
    return status;
}

/* The same of attn_ntk_forward, all in float32. */
static int route_single(const feature_map *map, struct attn_in q, struct attn_in k, struct attn_in v, const double *Z,
                        const double *mass, double log_scale, float *out)
{
    const size_t r = feature_dim(map);
    const struct attn_shape shape = { 1, 1, 1, LEN, LEN, DIM, 0, NULL };
    float *narrow = malloc(r * (DIM + 1) * sizeof *narrow), *kvec = narrow ? narrow + r * DIM : NULL;
    if (!narrow) return GSL_ENOMEM;
    for (size_t i = 0; i < r * DIM; i++) narrow[i] = (float)(exp(log_scale) * Z[i]);
    for (size_t a = 0; a < r; a++) kvec[a] = (float)(exp(log_scale) * mass[a]);
    const struct attn_summary summary = { map, 1, attn_dense_in(narrow, 1, r, DIM), attn_dense_in(kvec, 1, r, 1) };
    const int status = attn_ntk_forward(&shape, 1.0f / sqrtf((float)DIM), q, k, v, &summary,
                                        attn_dense_out(out, 1, LEN, DIM), NULL, NULL, 0, 1, NULL);
    free(narrow);
    return status;
}

/* ||T - got||_F over the prefix effect. A row without a normaliser is 0 in `got`, which shows. */
static double difference(const double *T, const float *got, const struct approx_errors *e)
{
    double square = 0.0;
    for (size_t i = 0; i < LEN * DIM; i++) square += (T[i] - (double)got[i]) * (T[i] - (double)got[i]);
    return sqrt(square / LEN) / e->effect_rms;
}

static int compare_routes(const struct config *cfg, const struct layer *x, const struct attn_in view[3],
                          const struct summary *summary, double *out)
{
    const struct attn_sums input = { LEN, DIM, x->input.shift, x->input.mass, x->input.num };
    const struct attn_sums prefix = { LEN, DIM, x->prefix.shift, x->prefix.mass, x->prefix.num };
    struct study_map map;
    struct approx_errors e;
    struct attn_sums sums = { 0 };
    feature_map *features = NULL;
    double log_scale = 0.0, *Z = NULL;
    int status = study_map_parse(summary->map, &map) ? GSL_ESANITY : attn_sums_alloc(&sums, LEN, DIM);
    if (!status) status = feature_map_alloc(&map.spec, DIM, 0.0, cfg->c.seed, NULL, &features);
    const size_t r = status ? 0 : feature_dim(features);
    double *T = malloc(LEN * DIM * sizeof *T);
    float *got = malloc(LEN * DIM * sizeof *got);
    if (!status && (!T || !got || !(Z = malloc(r * (DIM + 1) * sizeof *Z)))) status = GSL_ENOMEM;
    if (status) goto done;
    double *k = Z + r * DIM;
    status = summary->fitted ? fitted_sums(cfg, x, &map, Z, k, &sums) : plug_in_sums(cfg, x, &map, &sums);
    if (!status) status = approx_compare(&input, &prefix, &sums, &e, T);
    if (!status && !summary->fitted) status = plug_in_summary(cfg, x, features, Z, k, &log_scale);
    for (enum route route = DOUBLE; route < NUM_ROUTES && !status; route++) {
        status = (route == DOUBLE ? route_double : route_single)(features, view[0], view[1], view[2], Z, k, log_scale,
                                                                 got);
        if (status == GSL_EDOM) status = GSL_SUCCESS;
        if (!status) out[route] = difference(T, got, &e);
    }
    if (!status) out[ERROR] = e.err_rel;
done:
    feature_map_free(features);
    attn_sums_free(&sums);
    free(Z);
    free(T);
    free(got);
    return status;
}

static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    struct layer x;
    float *inputs = malloc(3 * LEN * DIM * sizeof *inputs);
    int status = layer_fill(cfg, trial, &x);
    if (!inputs) status = GSL_ENOMEM;
    struct attn_in view[3];
    for (size_t a = 0; a < 3 && !status; a++) {
        const double *from = a == 0 ? x.Q : a == 1 ? x.K : x.V;
        float *to = inputs + a * LEN * DIM;
        for (size_t i = 0; i < LEN * DIM; i++) to[i] = (float)from[i];
        view[a] = attn_dense_in(to, 1, LEN, DIM);
    }
    for (size_t s = 0; s < NUM_SUMMARIES && !status; s++)
        status = compare_routes(cfg, &x, view, &summaries[s], out + s * PER_SUMMARY);
    layer_free(&x);
    free(inputs);
    return status;
}

static double largest(const struct config *cfg, const struct units *work, size_t summary, enum route route)
{
    double most = 0.0;
    for (size_t t = 0; t < cfg->num_trials; t++) {
        const double x = units_row(work, t)[summary * PER_SUMMARY + route];
        if (!(x <= most)) most = x;                           /* NaN stays */
    }
    return most;
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    table_note(t, "difference: of the outputs from those by sums over scores, over the prefix effect, largest of the "
                  "trials; "
                  "err_rel: of the sums, mean; prefix_len=%zu, L = 128, d = 64, Gaussian tokens", cfg->prefix_len);
    for (size_t s = 0; s < NUM_SUMMARIES; s++)
        for (enum route route = DOUBLE; route < NUM_ROUTES; route++) {
            struct feature_spec spec;
            size_t r = 0;
            double error = 0.0;
            for (size_t u = 0; u < cfg->num_trials; u++)
                error += units_row(work, u)[s * PER_SUMMARY + ERROR] / (double)cfg->num_trials;
            table_text(t, summaries[s].name);
            table_text(t, summaries[s].map);
            if (!feature_spec_parse(summaries[s].map, &spec)) feature_spec_dim(&spec, DIM, &r);
            table_int(t, r);
            table_text(t, route_names[route]);
            table_num(t, largest(cfg, work, s, route));
            table_num(t, error);
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    static const char *const rows[NUM_ROUTES] = { "routes", "routes-float32" };
    for (enum route route = DOUBLE; route < NUM_ROUTES; route++) {
        double most = 0.0;
        for (size_t s = 0; s < NUM_SUMMARIES; s++) {
            const double x = largest(cfg, work, s, route);
            if (!(x <= most)) most = x;
        }
        if (cfg->prefix_len < 4096) verdicts_not_tested(v, "M1", rows[route]);
        else verdicts_add(v, "M1", rows[route], (struct interval){ most, most, most, cfg->num_trials });
    }
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "NTK-Attention by sums over scores and by the public calls.", options, shard, NULL,
                    &cfg.c);
    const double numbers = (double)(ALL + 2 * LEN + 2 * cfg.prefix_len) * DIM + 4.0 * 2145.0 * (DIM + 1.0);
    const struct units_study study = {
        .stem = "kernel_routes", .what = "trials", .columns = columns, .count = cfg.num_trials,
        .width = NUM_SUMMARIES * PER_SUMMARY,
        .unit_bytes = sizeof(double) * numbers + 4.0 * (double)attn_sums_bytes(ALL, DIM),
        .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
