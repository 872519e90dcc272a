/* Error of NTK-Attention against attention with the prefix itself, per feature map, prefix
 * length and way of obtaining (Z, k). Ledger M1, M6, E1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "approximation/approx.h"
#include "common/array_file.h"
#include "cli/option_table.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"

static const char columns[] =
    "prefix_len,feature,feat_dim,train,err_max,err_rel,err_mass,err_mean,d_nonpositive";
static const char interval_columns[] =
    "prefix_len,feature,train,err_rel_mean,err_rel_ci_lo,err_rel_ci_hi,err_max_mean,err_max_ci_lo,err_max_ci_hi,"
    "effect_rms,rho_mean,mass_mean,num_trials";

enum train { TRAIN_NONE, TRAIN_LSTSQ, TRAIN_ADAM, TRAIN_ADAM_LOG, TRAIN_ADAM_WARM, NUM_TRAIN };
static const char *const train_names[] = { "none", "lstsq", "adam", "adam-log", "adam-warm", NULL };

static const char *const token_names[] = { "synthetic", "mnist", NULL };
static const char *const value_names[] = { "tied", "independent", NULL };

/* A fit is of the cube of the number of features: maps with more of them have no fitted rows. */
enum { MAX_FIT_DIM = 512 };

struct config {
    struct cli_common c;
    const char *q, *k, *v, *prefix_k, *prefix_v, *features;
    size_t dim, seq_len, num_trials, fit_queries, adam_steps;
    size_t *lens, num_lens;
    double score_std, score_mean, bound;
    double *rates;             /* of Adam */
    size_t num_rates;
    int tokens, values, *trains;
    size_t num_trains;
    bool intervals;
    struct study_map *maps;
    size_t num_maps, max_len;
};

static const struct cli_option options[] = {
    { "q", CLI_TEXT(struct config, q),
      .doc = "queries (L,d), (H,L,d) or (B,H,L,d), .npy or .csv (default: synthetic)", .same_units = true },
    { "k", CLI_TEXT(struct config, k), .doc = "keys of the input; H_kv divides H (default: no input tokens)",
      .same_units = true },
    { "v", CLI_TEXT(struct config, v), .doc = "values of the input (default: no input tokens)", .same_units = true },
    { "prefix-k", CLI_TEXT(struct config, prefix_k),
      .doc = "keys of the prefix (m,d), (H_kv,m,d) or (B,H_kv,m,d) (default: synthetic)", .same_units = true },
    { "prefix-v", CLI_TEXT(struct config, prefix_v), .doc = "values of the prefix (default: synthetic)",
      .same_units = true },
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1024, .value = "64", .arg = "D",
      .doc = "synthetic: head dimension" },
    { "seq-len", CLI_SIZE(struct config, seq_len), .min = 1, .max = 65536, .value = "128", .arg = "L",
      .doc = "synthetic: input tokens" },
    { "prefix-len", CLI_SIZES(struct config, lens, num_lens), .min = 1, .max = (size_t)1 << 32, .arg = "M,..",
      .doc = "prefix lengths (default: 2,4,..,262144, or all of the tensors)" },
    { "score-std", CLI_DOUBLE(struct config, score_std), .value = "1", .arg = "S",
      .doc = "synthetic: standard deviation of the scores" },
    { "score-mean", CLI_DOUBLE(struct config, score_mean), .above = -1e3, .value = "0", .arg = "C",
      .doc = "synthetic: root mean square over queries of the scores' mean" },
    { "features", CLI_TEXT(struct config, features),
      .value = "none,taylor:0,elu1,taylor:1,taylor:2,taylor:3,taylor:4,split:2,favor:64,oracle:64,cumulant,clusters:32",
      .arg = "A,..",
      .doc = "maps: none, elu1, taylor:G, cheb:G, minimax:G, split:G, each also @centred; favor:R, favor-orth:R, "
        "oracle:R, cumulant, clusters:R" },
    { "train", CLI_CHOICES(struct config, trains, num_trains), .names = train_names, .value = "none",
      .arg = "T,..",
      .doc = "none (plug-in), lstsq, adam (k linear from 0), adam-log (k = exp theta from mass 1e-2), adam-warm "
        "(from the plug-in); maps of more than 512 features are not fitted" },
    { "bound", CLI_DOUBLE(struct config, bound), .arg = "B",
      .doc = "B of cheb and minimax (default: max||q|| max||k_P||/sqrt d)" },
    { "dataset", CLI_CHOICE(struct config, tokens), .names = token_names, .value = "synthetic",
      .doc = "tokens: synthetic (Gaussian) or mnist (patches of its images)" },
    { "values", CLI_CHOICE(struct config, values), .names = value_names, .value = "tied", .arg = "KIND",
      .doc = "synthetic: tied, K_P and V_P of one prefix, or independent" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1 << 20, .value = "4",
      .doc = "synthetic: trials; the table has their means, sums of d_nonpositive", .same_units = true },
    { "fit-queries", CLI_SIZE(struct config, fit_queries), .min = 1, .max = 1 << 20, .value = "1024",
      .doc = "synthetic: queries to fit on, a multiple of the input length; errors are judged on others" },
    { "adam-steps", CLI_SIZE(struct config, adam_steps), .min = 1, .max = 1 << 24, .value = "2000",
      .doc = "steps of Adam" },
    { "lr", CLI_DOUBLES(struct config, rates, num_rates), .value = "0.001", .arg = "LR,..",
      .doc = "its rates; with several, rows are named adam@LR" },
    { "intervals", CLI_FLAG(struct config, intervals),
      .doc = "also write OUT_intervals.csv beside OUT.csv, 99.9 % intervals over trials", .same_units = true },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static bool trains_anything(const struct config *cfg)
{
    for (size_t t = 0; t < cfg->num_trains; t++)
        if (cfg->trains[t] != TRAIN_NONE) return true;
    return false;
}

static const char *check(void *arg)
{
    struct config *cfg = arg;
    static char why[128];
    const bool tensors = cfg->q || cfg->k || cfg->v || cfg->prefix_k || cfg->prefix_v;
    if (tensors && !(cfg->q && cfg->prefix_k && cfg->prefix_v))
        return "--q: needs --prefix-k and --prefix-v, and they need it";
    if (tensors && cfg->c.num_shards) return "--shard: only with synthetic tokens, which come in trials";
    if (!cfg->k != !cfg->v) return cfg->k ? "--k: needs --v" : "--v: needs --k";
    const char *wrong = study_maps_parse(cfg->features, &cfg->maps, &cfg->num_maps);
    if (wrong) {
        snprintf(why, sizeof why, "--features: %s", wrong);
        return why;
    }
    if (trains_anything(cfg)) {
        if (!tensors && cfg->fit_queries % cfg->seq_len) return "--fit-queries: must be a multiple of --seq-len";
        if (tensors && !cfg->k) return "--train: needs input tokens, --k and --v";
    }
    if (cfg->tokens && cfg->score_mean != 0.0) return "--score-mean: only with synthetic tokens";
    if (cfg->tokens && cfg->dim != SOURCE_PATCH_DIM) return "--dim: patches of images have 64 numbers";
    return NULL;
}

/* ---- what is computed --------------------------------------------------------------- */

/* Rows of the table in order: length, map, way of training, rate; ways a map has not are left out. */
struct row { size_t len, map; enum train train; size_t rate; };

static bool has_rate(enum train train)
{
    return train != TRAIN_NONE && train != TRAIN_LSTSQ;
}

/* The cell `train` of a row. */
static void put_train(struct table *t, const struct config *cfg, const struct row *row)
{
    char text[64];
    if (cfg->num_rates > 1 && has_rate(row->train))
        snprintf(text, sizeof text, "%s@%g", train_names[row->train], cfg->rates[row->rate]);
    else snprintf(text, sizeof text, "%s", train_names[row->train]);
    table_text(t, text);
}

static size_t list_rows(const struct config *cfg, size_t dim, struct row *rows)
{
    size_t count = 0;
    for (size_t l = 0; l < cfg->num_lens; l++)
        for (size_t m = 0; m < cfg->num_maps; m++)
            for (size_t t = 0; t < cfg->num_trains; t++) {
                const enum train train = (enum train)cfg->trains[t];
                size_t r;
                if (train != TRAIN_NONE &&
                    (!study_map_fits(&cfg->maps[m]) || study_map_dim(&cfg->maps[m], dim, &r) || r > MAX_FIT_DIM))
                    continue;
                if (train == TRAIN_ADAM_WARM && feature_needs_bound(&cfg->maps[m].spec)) continue;
                for (size_t rate = 0; rate < (has_rate(train) ? cfg->num_rates : 1); rate++) {
                    if (rows) rows[count] = (struct row){ l, m, train, rate };
                    count++;
                }
            }
    return count;
}

/* A result as stored: every field of approx_errors; num_rows = 0 says there is none. */
enum { NUM_FIELDS = 11 };

static void pack(const struct approx_errors *e, double *x)
{
    const double all[NUM_FIELDS] = { e->err_max, e->err_rel, e->err_mass, e->err_mean, e->abs_rms, e->effect_rms,
                                     e->out_rms, e->mass_mean, e->rho_mean, (double)e->num_nonpositive,
                                         (double)e->num_rows };
    memcpy(x, all, sizeof all);
}

static struct approx_errors unpack(const double *x)
{
    return (struct approx_errors){ x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], (size_t)x[9], (size_t)x[10] };
}

/* Queries with what the input and the prefix exactly are for them. */
struct panel {
    size_t n;
    double *Q;
    struct attn_sums input, prefix;
};

static int panel_alloc(struct panel *p, size_t n, size_t dim)
{
    *p = (struct panel){ .n = n };
    p->Q = calloc(n * dim + 1, sizeof *p->Q);
    if (!p->Q) return GSL_ENOMEM;
    const int status = attn_sums_alloc(&p->input, n, dim);
    return status ? status : attn_sums_alloc(&p->prefix, n, dim);
}

static void panel_free(struct panel *p)
{
    free(p->Q);
    attn_sums_free(&p->input);
    attn_sums_free(&p->prefix);
}

/* Rows first, first + step, ... of `from`. */
static int panel_take(struct panel *to, const struct panel *from, size_t dim, size_t first, size_t step)
{
    const size_t n = from->n > first ? (from->n - first + step - 1) / step : 0;
    const int status = panel_alloc(to, n, dim);
    if (status) return status;
    for (size_t i = 0; i < n; i++) {
        const size_t j = first + i * step;
        memcpy(to->Q + i * dim, from->Q + j * dim, dim * sizeof *to->Q);
        for (int which = 0; which < 2; which++) {
            struct attn_sums *t = which ? &to->prefix : &to->input;
            const struct attn_sums *f = which ? &from->prefix : &from->input;
            t->shift[i] = f->shift[j];
            t->mass[i] = f->mass[j];
            memcpy(t->num + i * dim, f->num + j * dim, dim * sizeof *t->num);
        }
    }
    return GSL_SUCCESS;
}

/* Fits (Z, k) on `fit` and judges on `judge`. Plug-in start from Zp, kp. */
static int fit_and_judge(const struct config *cfg, const struct study_map *map, enum train train, double lr, size_t dim,
                         double bound, const struct panel *fit, const struct panel *judge,
                         const double *Zp, const double *kp, struct approx_errors *out)
{
    double *phi = NULL, *phi_judge = NULL, *Z = NULL, *k = NULL;
    struct attn_sums sums = { 0 };
    size_t r;
    int status = study_query_features(map, fit->Q, fit->n, dim, bound, cfg->c.seed, &phi, &r);
    if (!status) status = study_query_features(map, judge->Q, judge->n, dim, bound, cfg->c.seed, &phi_judge, &r);
    if (status) goto done;
    Z = calloc(r * dim, sizeof *Z);
    k = calloc(r, sizeof *k);
    status = Z && k ? attn_sums_alloc(&sums, judge->n, dim) : GSL_ENOMEM;
    if (status) goto done;
    const struct summary_problem problem = { r, phi, &fit->input, &fit->prefix };
    const size_t batch = fit->n < cfg->seq_len ? fit->n : cfg->seq_len;
    int nonnegative = 1;
    for (size_t i = 0; i < fit->n * r; i++) nonnegative &= phi[i] >= 0.0;
    const enum summary_param linear = nonnegative ? SUMMARY_LINEAR : SUMMARY_FREE;
    switch (train) {
    case TRAIN_LSTSQ:
        status = summary_fit_lstsq(&problem, nonnegative, Z, k);
        break;
    case TRAIN_ADAM_LOG: {
        /* Equal entries of k that give, on average, a hundredth of the input's mass. */
        double share = 0.0;
        for (size_t i = 0; i < fit->n; i++) {
            double sum = 0.0;
            for (size_t j = 0; j < r; j++) sum += fabs(phi[i * r + j]);
            share += sum * exp(-attn_sums_log_mass(&fit->input, i)) / (double)fit->n;
        }
        for (size_t j = 0; j < r; j++) k[j] = 1e-2 / share;
        status = summary_fit_adam(&problem, SUMMARY_LOG, lr, cfg->adam_steps, batch, Z, k, NULL);
        break;
    }
    case TRAIN_ADAM_WARM:
        if (!Zp) { status = GSL_EINVAL; break; }
        memcpy(Z, Zp, r * dim * sizeof *Z);
        memcpy(k, kp, r * sizeof *k);
        status = summary_fit_adam(&problem, linear, lr, cfg->adam_steps, batch, Z, k, NULL);
        break;
    default:
        status = summary_fit_adam(&problem, linear, lr, cfg->adam_steps, batch, Z, k, NULL);
        break;
    }
    if (status) goto done;
    summary_apply(phi_judge, r, Z, k, &sums);
    status = approx_compare(&judge->input, &judge->prefix, &sums, out, NULL);
done:
    free(phi);
    free(phi_judge);
    free(Z);
    free(k);
    attn_sums_free(&sums);
    return status;
}

/* The plug-in summary in features, kept beside the sums for the warm start. Maps that are
 * polynomials are only accumulated as power sums, so theirs is made from the tokens. */
struct plugin { size_t r; double *Z, *k; feature_map *map; };

/* A status that belongs to a map at this length (no polynomial, no fit), not to the run. */
static bool is_gap(int status)
{
    return status == GSL_EMAXITER || status == GSL_EOVRFLW || status == GSL_EDOM;
}

/* All rows of one length. `fit` NULL: the panel is its own, by halves (fitted on the even
 * rows, judged on the odd, and the other way round). */
static int measure(const struct config *cfg, const struct row *rows, size_t num_rows, size_t len,
                   const struct study *study, double bound, struct panel *judge, const struct panel *fit,
                   bool has_input, const struct plugin *plugins, double *results)
{
    const size_t dim = study->dim;
    struct attn_sums sums = { 0 };
    struct panel half[2] = { { 0 }, { 0 } };
    int status = attn_sums_alloc(&sums, judge->n, dim);
    if (!status) status = prefix_sums_exact(&study->sums, 0, &judge->prefix);
    if (!status && !fit && trains_anything(cfg)) {
        status = panel_take(&half[0], judge, dim, 0, 2);
        if (!status) status = panel_take(&half[1], judge, dim, 1, 2);
    }
    for (size_t i = 0; i < num_rows && !status; i++) {
        if (rows[i].len != len) continue;
        const struct study_map *map = &cfg->maps[rows[i].map];
        struct approx_errors e = { 0 };
        int exists = 1;
        if (rows[i].train == TRAIN_NONE) {
            status = study_sums(study, rows[i].map, bound, &sums, &exists);
            if (!status)
                status = approx_compare(has_input ? &judge->input : NULL, &judge->prefix, exists ? &sums : NULL, &e,
                                        NULL);
        } else {
            const struct plugin *p = &plugins[rows[i].map];
            if (fit) {
                status = fit_and_judge(cfg, map, rows[i].train, cfg->rates[rows[i].rate], dim, bound, fit, judge, p->Z,
                                       p->k, &e);
            } else {
                for (int h = 0; h < 2 && !status; h++) {
                    struct approx_errors one;
                    status = half[h].n && half[1 - h].n
                                 ? fit_and_judge(cfg, map, rows[i].train, cfg->rates[rows[i].rate], dim, bound,
                                                 &half[h], &half[1 - h], p->Z, p->k, &one)
                                 : GSL_EDOM;
                    if (!status) approx_errors_merge(&e, &one);
                }
            }
        }
        if (is_gap(status)) {
            e = (struct approx_errors){ 0 };
            status = GSL_SUCCESS;
        }
        pack(&e, results + i * NUM_FIELDS);
    }
    panel_free(&half[0]);
    panel_free(&half[1]);
    attn_sums_free(&sums);
    return status;
}

static double max_row_norm(const double *x, size_t n, size_t dim)
{
    double top = 0.0;
    for (size_t i = 0; i < n; i++) top = fmax(top, cblas_dnrm2((int)dim, x + i * dim, 1));
    return top;
}

static bool needs_plugin(const struct config *cfg)
{
    for (size_t t = 0; t < cfg->num_trains; t++)
        if (cfg->trains[t] == TRAIN_ADAM_WARM) return true;
    return false;
}

static void plugins_free(struct plugin *p, size_t count)
{
    for (size_t i = 0; p && i < count; i++) {
        feature_map_free(p[i].map);
        free(p[i].Z);
        free(p[i].k);
    }
    free(p);
}

/* Warm starts exist for maps whose features do not depend on the length (no bound). */
static int plugins_alloc(const struct config *cfg, size_t dim, struct plugin **out)
{
    *out = calloc(cfg->num_maps + 1, sizeof **out);
    if (!*out) return GSL_ENOMEM;
    for (size_t i = 0; i < cfg->num_maps && needs_plugin(cfg); i++) {
        struct plugin *p = &(*out)[i];
        size_t r;
        if (!study_map_fits(&cfg->maps[i]) || feature_needs_bound(&cfg->maps[i].spec) ||
            study_map_dim(&cfg->maps[i], dim, &r) || r > MAX_FIT_DIM)
            continue;
        const int status = feature_map_alloc(&cfg->maps[i].spec, dim, 0.0, cfg->c.seed, NULL, &p->map);
        if (status) return status;
        p->r = feature_dim(p->map);
        p->Z = calloc(p->r * dim, sizeof *p->Z);
        p->k = calloc(p->r, sizeof *p->k);
        if (!p->Z || !p->k) return GSL_ENOMEM;
    }
    return GSL_SUCCESS;
}

static int plugins_add(struct plugin *p, size_t count, const double *Kp, const double *Vp, size_t n, size_t dim)
{
    int status = GSL_SUCCESS;
    for (size_t i = 0; i < count && !status; i++) {
        if (!p[i].map) continue;
        double *phi = malloc(n * p[i].r * sizeof *phi), *ones = calloc(p[i].r * (dim + 1), sizeof *ones);
        status = phi && ones ? GSL_SUCCESS : GSL_ENOMEM;
        if (!status) status = feature_forward_f64(p[i].map, FEATURE_VALUE, n, Kp, dim, phi, p[i].r, NULL, 1, NULL);
        if (!status) summary_add(phi, Vp, n, p[i].r, dim, p[i].Z, ones + p[i].r * dim);
        /* The mass has features of its own (split). */
        if (!status) status = feature_forward_f64(p[i].map, FEATURE_MASS, n, Kp, dim, phi, p[i].r, NULL, 1, NULL);
        if (!status) summary_add(phi, Vp, n, p[i].r, dim, ones, p[i].k);
        free(phi);
        free(ones);
    }
    return status;
}

/* One trial of the synthetic study: the prefix is read once, and at each length asked for
 * everything is measured. */
static int run_trial(const struct config *cfg, const struct source_tokens *tokens, size_t trial,
                     const struct row *rows, size_t num_rows, const size_t *order, struct progress *progress,
                     size_t *done, double *results)
{
    const size_t dim = cfg->dim, L = cfg->seq_len;
    const bool fits = trains_anything(cfg);
    const size_t num_fit = fits ? cfg->fit_queries : 0;
    struct source source = { 0 };
    struct panel judge = { 0 }, fit = { 0 };
    struct study study = { 0 }, tail = { 0 };
    struct prefix_sums fit_sums = { 0 }, fit_tail = { 0 };
    struct plugin *plugins = NULL, *plugins_tail = NULL;
    const double scale = 1.0 / sqrt((double)dim);
    double *Kp = malloc(PREFIX_SUMS_BLOCK * dim * sizeof *Kp), *Vp = malloc(PREFIX_SUMS_BLOCK * dim * sizeof *Vp);
    double *K = malloc(L * dim * sizeof *K), *V = malloc(L * dim * sizeof *V);
    int status = Kp && Vp && K && V ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status)
        status = source_init(&source, cfg->c.seed, trial, dim, (enum source_values)cfg->values, tokens,
                             cfg->score_mean / cfg->score_std);
    if (!status) status = panel_alloc(&judge, L, dim);
    if (!status) status = panel_alloc(&fit, num_fit, dim);
    /* Sequence 0 is judged, the others are fitted; each attends to its own tokens. */
    for (size_t seq = 0; seq <= num_fit / L && !status; seq++) {
        double *Q = seq ? fit.Q + (seq - 1) * L * dim : judge.Q;
        status = source_inputs(&source, seq * L, L, Q, K, V);
        if (status) break;
        cblas_dscal((int)(L * dim), cfg->score_std, Q, 1);
        const size_t at = seq ? (seq - 1) * L : 0;
        struct attn_sums *all = seq ? &fit.input : &judge.input;
        struct attn_sums part = { L, dim, all->shift + at, all->mass + at, all->num + at * dim };
        status = attn_sums_exact(Q, K, V, L, scale, &part);
    }
    if (!status) status = study_alloc(&study, cfg->maps, cfg->num_maps, judge.Q, L, dim, NULL, cfg->c.seed);
    if (!status) status = study_alloc(&tail, cfg->maps, cfg->num_maps, judge.Q, L, dim, NULL, cfg->c.seed);
    if (!status && fits) status = prefix_sums_alloc(&fit_sums, num_fit, dim, scale, 0, NULL, 0, NULL, 0);
    if (!status && fits) status = prefix_sums_alloc(&fit_tail, num_fit, dim, scale, 0, NULL, 0, NULL, 0);
    if (!status) status = plugins_alloc(cfg, dim, &plugins);
    if (!status) status = plugins_alloc(cfg, dim, &plugins_tail);
    const double top_q = status ? 0.0 : max_row_norm(judge.Q, L, dim);
    size_t next = 0;                       /* lengths order[0..next) are done */
    for (size_t first = 0; first < cfg->max_len && !status && !cli_interrupted(); ) {
        size_t end = prefix_sums_block_end(first);
        if (end > cfg->max_len) end = cfg->max_len;
        if ((status = source_prefix(&source, first, end - first, Kp, Vp))) break;
        /* Lengths inside the block are measured on a copy, so that the sums that go on
         * have the same blocks whatever lengths are asked for. */
        for (; next < cfg->num_lens && cfg->lens[order[next]] <= end && !status; next++) {
            const size_t len = cfg->lens[order[next]];
            const size_t count = len - first;
            status = study_copy(&tail, &study);
            if (!status) status = study_add(&tail, Kp, Vp, count);
            for (size_t i = 0; i < cfg->num_maps && !status; i++) {
                if (!plugins[i].map) continue;
                memcpy(plugins_tail[i].Z, plugins[i].Z, plugins[i].r * dim * sizeof *plugins[i].Z);
                memcpy(plugins_tail[i].k, plugins[i].k, plugins[i].r * sizeof *plugins[i].k);
            }
            if (!status) status = plugins_add(plugins_tail, cfg->num_maps, Kp, Vp, count, dim);
            if (!status && fits) {
                status = prefix_sums_copy(&fit_tail, &fit_sums);
                if (!status) status = prefix_sums_add(&fit_tail, fit.Q, Kp, Vp, count);
                if (!status) status = prefix_sums_exact(&fit_tail, 0, &fit.prefix);
            }
            const double bound = cfg->bound > 0.0 ? cfg->bound : top_q * tail.sums.max_key_norm * scale;
            if (!status)
                status = measure(cfg, rows, num_rows, order[next], &tail, bound, &judge, fits ? &fit : NULL, true,
                                 plugins_tail, results);
        }
        if (!status) status = study_add(&study, Kp, Vp, end - first);
        if (!status) status = plugins_add(plugins, cfg->num_maps, Kp, Vp, end - first, dim);
        if (!status && fits) status = prefix_sums_add(&fit_sums, fit.Q, Kp, Vp, end - first);
        size_t now;
#pragma omp atomic capture
        now = *done += end - first;
        progress_to(progress, (double)now);
        first = end;
    }
    source_free(&source);
    panel_free(&judge);
    panel_free(&fit);
    study_free(&study);
    study_free(&tail);
    prefix_sums_free(&fit_sums);
    prefix_sums_free(&fit_tail);
    plugins_free(plugins, cfg->num_maps);
    plugins_free(plugins_tail, cfg->num_maps);
    free(Kp);
    free(Vp);
    free(K);
    free(V);
    return status;
}

/* ---- tensors from files ------------------------------------------------------------ */

/* One array as (batch, heads, len, dim); sizes of 1 in front where the file has fewer axes. */
struct tensor { size_t batch, heads, len, dim; struct npy data; };

static int tensor_read(const struct config *cfg, const char *path, struct tensor *t)
{
    char why[256];
    *t = (struct tensor){ 0 };
    const int status = array_file_read(path, 0, &t->data, why, sizeof why);
    if (status) return cli_bad_input(&cfg->c, status, path, why);
    const size_t rank = t->data.rank, *shape = t->data.shape;
    if (rank < 2 || rank > 4 || !t->data.size)
        return cli_fail(&cfg->c, EXIT_DATA, "%s: needs 2 to 4 axes, none of them empty", path);
    t->dim = shape[rank - 1];
    t->len = shape[rank - 2];
    t->heads = rank > 2 ? shape[rank - 3] : 1;
    t->batch = rank > 3 ? shape[rank - 4] : 1;
    return EXIT_DONE;
}

/* The (len, dim) matrix that query head (b, h) of num_heads sees. */
static const double *tensor_head(const struct tensor *t, size_t b, size_t h, size_t num_heads)
{
    const size_t head = h / (num_heads / t->heads), batch = t->batch > 1 ? b : 0;
    return t->data.f64 + (batch * t->heads + head) * t->len * t->dim;
}

struct tensors { struct tensor q, k, v, pk, pv; bool has_input; };

static void tensors_free(struct tensors *x)
{
    npy_free(&x->q.data);
    npy_free(&x->k.data);
    npy_free(&x->v.data);
    npy_free(&x->pk.data);
    npy_free(&x->pv.data);
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return a->batch == b->batch && a->heads == b->heads && a->len == b->len && a->dim == b->dim;
}

/* What is wrong with a set of keys beside the queries, or NULL. */
static const char *misfit(const struct tensor *q, const struct tensor *k, const struct tensor *v, bool prefix)
{
    if (!same_shape(k, v)) return "keys and values differ in shape";
    if (k->dim != q->dim) return "head dimension differs from the queries'";
    if (q->heads % k->heads) return "the number of heads does not divide the queries'";
    if (k->batch != q->batch && !(prefix && k->batch == 1)) return "batch differs from the queries'";
    return NULL;
}

static int tensors_read(const struct config *cfg, struct tensors *x)
{
    *x = (struct tensors){ .has_input = cfg->k != NULL };
    int code = tensor_read(cfg, cfg->q, &x->q);
    if (!code) code = tensor_read(cfg, cfg->prefix_k, &x->pk);
    if (!code) code = tensor_read(cfg, cfg->prefix_v, &x->pv);
    if (!code && x->has_input) code = tensor_read(cfg, cfg->k, &x->k);
    if (!code && x->has_input) code = tensor_read(cfg, cfg->v, &x->v);
    if (code) return code;
    const char *wrong = misfit(&x->q, &x->pk, &x->pv, true);
    if (wrong) return cli_fail(&cfg->c, EXIT_DATA, "%s: %s", cfg->prefix_k, wrong);
    wrong = x->has_input ? misfit(&x->q, &x->k, &x->v, false) : NULL;
    if (wrong) return cli_fail(&cfg->c, EXIT_DATA, "%s: %s", cfg->k, wrong);
    for (size_t l = 0; l < cfg->num_lens; l++)
        if (cfg->lens[l] > x->pk.len)
            return cli_fail(&cfg->c, EXIT_USAGE, "--prefix-len: %zu is more than the %zu tokens of %s", cfg->lens[l],
                            x->pk.len, cfg->prefix_k);
    return EXIT_DONE;
}

/* One head: results as run_trial. bounds (num_lens): B of each length over all heads. */
static int run_head(const struct config *cfg, const struct tensors *x, size_t unit, const double *bounds,
                    const struct row *rows, size_t num_rows, double *results)
{
    const size_t b = unit / x->q.heads, h = unit % x->q.heads, dim = x->q.dim, L = x->q.len;
    const double *Q = x->q.data.f64 + unit * L * dim;
    const double *Kp = tensor_head(&x->pk, b, h, x->q.heads), *Vp = tensor_head(&x->pv, b, h, x->q.heads);
    const double scale = 1.0 / sqrt((double)dim);
    struct panel judge = { 0 };
    int status = panel_alloc(&judge, L, dim);
    if (!status) memcpy(judge.Q, Q, L * dim * sizeof *Q);
    if (!status && x->has_input)
        status = attn_sums_exact(Q, tensor_head(&x->k, b, h, x->q.heads), tensor_head(&x->v, b, h, x->q.heads),
                                 x->k.len, scale, &judge.input);
    for (size_t l = 0; l < cfg->num_lens && !status; l++) {
        struct study study = { 0 };
        struct plugin *plugins = NULL;
        /* The row maximum of the prefix scores keeps e^t finite whatever the tensors are. */
        status = attn_sums_exact(Q, Kp, Vp, cfg->lens[l], scale, &judge.prefix);
        if (!status)
            status = study_alloc(&study, cfg->maps, cfg->num_maps, judge.Q, L, dim, judge.prefix.shift, cfg->c.seed);
        if (!status) status = plugins_alloc(cfg, dim, &plugins);
        for (size_t first = 0; first < cfg->lens[l] && !status && !cli_interrupted(); ) {
            size_t end = prefix_sums_block_end(first);
            if (end > cfg->lens[l]) end = cfg->lens[l];
            status = study_add(&study, Kp + first * dim, Vp + first * dim, end - first);
            if (!status)
                status = plugins_add(plugins, cfg->num_maps, Kp + first * dim, Vp + first * dim, end - first, dim);
            first = end;
        }
        if (!status)
            status = measure(cfg, rows, num_rows, l, &study, bounds[l], &judge, NULL, x->has_input, plugins, results);
        study_free(&study);
        plugins_free(plugins, cfg->num_maps);
    }
    panel_free(&judge);
    return status;
}

/* Largest ||q|| ||k_P|| / sqrt d over all heads, for each length. */
static void tensor_bounds(const struct config *cfg, const struct tensors *x, double *bounds)
{
    const double top_q = max_row_norm(x->q.data.f64, x->q.batch * x->q.heads * x->q.len, x->q.dim);
    for (size_t l = 0; l < cfg->num_lens; l++) {
        double top_k = 0.0;
        for (size_t i = 0; i < x->pk.batch * x->pk.heads; i++)
            top_k = fmax(top_k, max_row_norm(x->pk.data.f64 + i * x->pk.len * x->pk.dim, cfg->lens[l], x->pk.dim));
        bounds[l] = cfg->bound > 0.0 ? cfg->bound : top_q * top_k / sqrt((double)x->q.dim);
    }
}

/* ---- tables and verdicts --------------------------------------------------------------- */

/* Mean of field `f` of row i over trials, NaN when a trial has no result. */
static double mean_over_trials(const double *results, size_t num_trials, size_t num_rows, size_t i, size_t f)
{
    double sum = 0.0;
    for (size_t t = 0; t < num_trials; t++) {
        const double *x = results + (t * num_rows + i) * NUM_FIELDS;
        if (!(x[NUM_FIELDS - 1] > 0.0)) return NAN;
        sum += x[f];
    }
    return sum / (double)num_trials;
}

enum { F_MAX, F_REL, F_MASS, F_MEAN, F_ABS, F_EFFECT, F_OUT, F_MASS_MEAN, F_RHO, F_BAD };

static int write_table(const struct config *cfg, size_t dim, const struct row *rows, size_t num_rows,
                       const double *results, size_t num_trials)
{
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "err_max: max|T - PA|; err_rel: ||T - PA||_F / ||PA - Attn||_F; err_mass, err_mean: the two parts of "
                  "the exact split over the same; means over %zu trials", num_trials);
    table_note(t, "d_nonpositive: queries with D <= 0, all trials, left out of the errors; fitted and trained "
                  "summaries are judged on queries they were not fitted on");
    for (size_t i = 0; i < num_rows; i++) {
        const struct study_map *map = &cfg->maps[rows[i].map];
        size_t feat_dim;
        table_int(t, cfg->lens[rows[i].len]);
        table_text(t, map->name);
        if (study_map_dim(map, dim, &feat_dim)) table_empty(t);
        else table_int(t, feat_dim);
        put_train(t, cfg, &rows[i]);
        for (size_t f = F_MAX; f <= F_MEAN; f++) table_num(t, mean_over_trials(results, num_trials, num_rows, i, f));
        double bad = 0.0;
        for (size_t trial = 0; trial < num_trials; trial++) bad += results[(trial * num_rows + i) * NUM_FIELDS + F_BAD];
        table_num(t, bad);
        table_end_row(t);
    }
    return table_close(t, EXIT_DONE);
}

static int write_intervals(const struct config *cfg, const struct row *rows, size_t num_rows,
                           const double *results, size_t num_trials)
{
    char *path = cli_side_path(&cfg->c, "intervals");
    if (!path) return EXIT_DONE;
    struct table *t = table_open(&cfg->c, path, interval_columns);
    double *x = cli_need(malloc(num_trials * sizeof *x));
    if (!t || !x) {
        free(x);
        const int code = t ? table_close(t, EXIT_FAILED) : EXIT_FAILED;
        free(path);
        return code;
    }
    for (size_t i = 0; i < num_rows; i++) {
        table_int(t, cfg->lens[rows[i].len]);
        table_text(t, cfg->maps[rows[i].map].name);
        put_train(t, cfg, &rows[i]);
        for (size_t f = F_REL; ; f = F_MAX) {
            struct interval ci = { NAN, NAN, NAN, 0 };
            for (size_t trial = 0; trial < num_trials; trial++)
                x[trial] = results[(trial * num_rows + i) * NUM_FIELDS + f];
            if (isfinite(mean_over_trials(results, num_trials, num_rows, i, f))) stats_mean(x, num_trials, 0.999, &ci);
            table_interval(t, ci);
            if (f == F_MAX) break;
        }
        table_num(t, mean_over_trials(results, num_trials, num_rows, i, F_EFFECT));
        table_num(t, mean_over_trials(results, num_trials, num_rows, i, F_RHO));
        table_num(t, mean_over_trials(results, num_trials, num_rows, i, F_MASS_MEAN));
        table_int(t, num_trials);
        table_end_row(t);
    }
    free(x);
    const int code = table_close(t, EXIT_DONE);
    free(path);
    return code;
}

struct outcome {
    const struct config *cfg;
    const struct row *rows;
    size_t num_rows, num_trials;
    const double *results;
    struct verdicts *verdicts;
};

/* The length that the ledger's rows speak of. */
enum { REFERENCE_LEN = 262144 };

/* 99.9 % interval over trials of a field of (map, train) at that length; of several rates, that of the smallest mean,
 * which is chosen on the queries that judge: the choice favours training. */
static void decide_last(const struct outcome *o, const char *map, enum train train, size_t field,
                        const char *claim, const char *row)
{
    struct interval ci = { NAN, NAN, NAN, 0 };
    double *x = cli_need(malloc(o->num_trials * sizeof *x));
    for (size_t i = 0; i < o->num_rows && x; i++) {
        const struct row *r = &o->rows[i];
        if (o->cfg->lens[r->len] != REFERENCE_LEN || r->train != train || strcmp(o->cfg->maps[r->map].name, map))
            continue;
        for (size_t t = 0; t < o->num_trials; t++) {
            const double *e = o->results + (t * o->num_rows + i) * NUM_FIELDS;
            x[t] = e[NUM_FIELDS - 1] > 0.0 ? e[field] : NAN;
        }
        struct interval one;
        if (!stats_mean(x, o->num_trials, 0.999, &one) && (!ci.n || one.value < ci.value)) ci = one;
    }
    free(x);
    if (ci.n) verdicts_add(o->verdicts, claim, row, ci);
    else verdicts_not_tested(o->verdicts, claim, row);
}

/* Slope in log m of a field, lengths from `from` on. */
static void decide_slope(const struct outcome *o, const char *map, enum train train, size_t field, size_t from,
                         const char *claim, const char *row)
{
    struct interval ci = { NAN, NAN, NAN, 0 };
    const size_t nl = o->cfg->num_lens;
    double *x = cli_need(malloc(nl * sizeof *x)), *y = cli_need(malloc(nl * o->num_trials * sizeof *y));
    size_t count = 0;
    int status = x && y ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t pass = 0; pass < 2 && !status; pass++) {
        size_t at = 0;
        for (size_t i = 0; i < o->num_rows; i++) {
            const struct row *r = &o->rows[i];
            if (o->cfg->lens[r->len] < from || r->train != train || strcmp(o->cfg->maps[r->map].name, map)) continue;
            if (pass) {
                x[at] = (double)o->cfg->lens[r->len];
                for (size_t t = 0; t < o->num_trials; t++)
                    y[t * count + at] = o->results[(t * o->num_rows + i) * NUM_FIELDS + field];
            }
            at++;
        }
        count = at;
    }
    if (!status && count > 2 && o->num_trials > 1) status = stats_loglog_slope(x, y, count, o->num_trials, 0.999, &ci);
    free(x);
    free(y);
    if (!status && ci.n) verdicts_add(o->verdicts, claim, row, ci);
    else verdicts_not_tested(o->verdicts, claim, row);
}

/* The rows of the ledger that this configuration decides. */
static void decide(const struct outcome *o, const char *run)
{
    if (!strcmp(run, "attention_error_mnist")) {
        decide_last(o, "elu1", TRAIN_NONE, F_REL, "M1", "elu1-patches");
        decide_last(o, "taylor:1", TRAIN_NONE, F_REL, "M1", "taylor1-patches");
        decide_last(o, "taylor:4", TRAIN_NONE, F_REL, "M1", "taylor4-patches");
        decide_last(o, "cumulant", TRAIN_NONE, F_REL, "F67", "cumulant-patches");
        decide_last(o, "clusters:32", TRAIN_NONE, F_REL, "F69", "patches");
        decide_last(o, "elu1", TRAIN_LSTSQ, F_REL, "M6", "elu1-lstsq-patches");
    } else if (!strcmp(run, "attention_error")) {
        decide_last(o, "elu1", TRAIN_NONE, F_REL, "M1", "elu1-plug-in");
        decide_last(o, "taylor:1", TRAIN_NONE, F_REL, "M1", "taylor1-gaussian");
        decide_last(o, "taylor:2", TRAIN_NONE, F_REL, "M1", "taylor2-gaussian");
        decide_last(o, "cumulant", TRAIN_NONE, F_REL, "F67", "cumulant-gaussian");
        decide_last(o, "clusters:32", TRAIN_NONE, F_REL, "F69", "gaussian");
        decide_slope(o, "elu1", TRAIN_NONE, F_REL, 256, "E1", "elu1-plug-in");
        decide_slope(o, "taylor:1", TRAIN_NONE, F_REL, 256, "E1", "taylor1-plug-in");
        decide_slope(o, "taylor:2", TRAIN_NONE, F_REL, 256, "E1", "taylor2-plug-in");
    } else if (!strcmp(run, "attention_error_schedule")) {
        decide_last(o, "elu1", TRAIN_ADAM, F_REL, "M6", "adam-40000");
        decide_slope(o, "elu1", TRAIN_ADAM, F_REL, 8, "E1", "elu1-adam-40000");
    } else if (!strcmp(run, "attention_error_rates")) {
        decide_last(o, "elu1", TRAIN_ADAM, F_REL, "M6", "adam-best-rate");
        decide_last(o, "elu1", TRAIN_ADAM_LOG, F_REL, "F68", "adam-log-best-rate");
    } else if (!strcmp(run, "attention_error_trained")) {
        decide_last(o, "elu1", TRAIN_NONE, F_REL, "M6", "plug-in");
        decide_last(o, "elu1", TRAIN_LSTSQ, F_REL, "M6", "lstsq");
        decide_last(o, "elu1", TRAIN_LSTSQ, F_REL, "M1", "elu1-lstsq");
        decide_last(o, "elu1", TRAIN_ADAM, F_REL, "M6", "adam");
        decide_slope(o, "elu1", TRAIN_ADAM, F_REL, 8, "E1", "elu1-adam");
        decide_slope(o, "elu1", TRAIN_ADAM, F_ABS, 8, "E1", "elu1-adam-absolute");
        decide_last(o, "elu1", TRAIN_ADAM_LOG, F_REL, "F68", "adam-log");
        decide_last(o, "taylor:1", TRAIN_ADAM_WARM, F_REL, "F68", "adam-warm");
    }
}

/* The run's name: that of its table, without folder and ending. */
static void run_name(const struct config *cfg, char *name, size_t size)
{
    const char *slash = strrchr(cfg->c.out, '/');
    snprintf(name, size, "%s", slash ? slash + 1 : cfg->c.out);
    char *dot = strrchr(name, '.');
    if (dot) *dot = '\0';
}

/* Shortest first; equal lengths keep their order. */
static void sort_lengths(const struct config *cfg, size_t *order)
{
    for (size_t i = 0; i < cfg->num_lens; i++) {
        size_t j = i;
        for (; j > 0 && cfg->lens[order[j - 1]] > cfg->lens[i]; j--) order[j] = order[j - 1];
        order[j] = i;
    }
}

/* The journal is for the caller to close, once the outputs are written. */
static int run_synthetic(const struct config *cfg, const struct row *rows, size_t num_rows, double *results,
                         struct journal **opened)
{
    struct source_tokens tokens = { 0 };
    size_t *order = malloc(cfg->num_lens * sizeof *order), done = 0;
    if (!order) return cli_status(&cfg->c, GSL_ENOMEM, "lengths");
    sort_lengths(cfg, order);
    int code = cfg->tokens ? source_tokens_mnist(&cfg->c, &tokens) : EXIT_DONE;
    struct journal *journal = NULL;
    char *identity = cli_identity(options, &cfg->c);
    if (!code && !(journal = journal_open(&cfg->c, identity))) code = EXIT_FAILED;
    free(identity);
    if (code) goto done;
    struct progress *progress = progress_start(&cfg->c, "trials", (double)(cfg->num_trials * cfg->max_len));
#pragma omp parallel for schedule(dynamic) num_threads(cfg->c.threads)
    for (size_t trial = 0; trial < cfg->num_trials; trial++) {
        char key[32];
        if (!cli_is_mine(&cfg->c, trial)) continue;
        double *mine = results + trial * num_rows * NUM_FIELDS;
        snprintf(key, sizeof key, "trial %zu", trial);
        int failed = cli_interrupted();
        if (!failed && !journal_get(journal, key, mine, num_rows * NUM_FIELDS)) {
            const int status = run_trial(cfg, cfg->tokens ? &tokens : NULL, trial, rows, num_rows, order, progress,
                                         &done, mine);
            failed = cli_interrupted();
            int said = 0;
#pragma omp atomic read
            said = code;
            if (!failed && status) failed = said ? said : cli_status(&cfg->c, status, key);
            if (!failed) failed = journal_put(journal, key, mine, num_rows * NUM_FIELDS);
        }
        if (failed) {
#pragma omp atomic write
            code = failed;
        }
    }
    progress_end(progress);
    if (!code && cfg->c.num_shards) code = EXIT_SHARD;
done:
    free(order);
    source_tokens_free(&tokens);
    *opened = journal;
    return code;
}

static int run_tensors(const struct config *cfg, const struct tensors *x, const struct row *rows, size_t num_rows,
                       double *results)
{
    const size_t units = x->q.batch * x->q.heads, width = num_rows * NUM_FIELDS;
    double *each = calloc(units * width + 1, sizeof *each), *bounds = malloc(cfg->num_lens * sizeof *bounds);
    int code = each && bounds ? EXIT_DONE : cli_status(&cfg->c, GSL_ENOMEM, "results");
    if (!code) tensor_bounds(cfg, x, bounds);
    if (!code) {
#pragma omp parallel for schedule(dynamic) num_threads(cfg->c.threads)
        for (size_t u = 0; u < units; u++) {
            if (cli_interrupted()) continue;
            const int failed = cli_status(&cfg->c, run_head(cfg, x, u, bounds, rows, num_rows, each + u * width),
                                          "tensors");
            if (failed) {
#pragma omp critical
                code = failed;
            }
        }
    }
    if (!code) code = cli_interrupted();
    for (size_t i = 0; i < num_rows && !code; i++) {
        struct approx_errors all = { 0 };
        bool gap = false;
        for (size_t u = 0; u < units; u++) {
            const struct approx_errors e = unpack(each + u * width + i * NUM_FIELDS);
            gap |= !e.num_rows && !e.num_nonpositive;
            approx_errors_merge(&all, &e);
        }
        if (gap) all = (struct approx_errors){ 0 };
        pack(&all, results + i * NUM_FIELDS);
    }
    free(each);
    free(bounds);
    return code;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "Error of NTK-Attention against attention with the prefix itself.", options, shard,
                    check, &cfg.c);
    struct tensors x = { 0 };
    struct row *rows = NULL;
    double *results = NULL;
    struct journal *journal = NULL;
    static size_t default_lens[18];
    int code = EXIT_DONE;
    if (cfg.q)
        cli_warn_unused(&cfg.c, "with --q: it is of synthetic data", (const char *const[]){ "dim", "seq-len",
            "score-std",
                        "score-mean", "dataset", "values", "num-trials", NULL });
    if (!trains_anything(&cfg))
        cli_warn_unused(&cfg.c, "without --train", (const char *const[]){ "fit-queries", "adam-steps", "lr", NULL });
    if (cfg.q && (code = tensors_read(&cfg, &x))) goto done;
    if (!cfg.num_lens) {
        cfg.lens = default_lens;
        cfg.num_lens = cfg.q ? 1 : 18;
        for (size_t i = 0; i < cfg.num_lens; i++) default_lens[i] = cfg.q ? x.pk.len : (size_t)2 << i;
    }
    for (size_t i = 0; i < cfg.num_lens; i++)
        if (cfg.lens[i] > cfg.max_len) cfg.max_len = cfg.lens[i];
    const size_t dim = cfg.q ? x.q.dim : cfg.dim, num_trials = cfg.q ? 1 : cfg.num_trials;
    const size_t num_rows = list_rows(&cfg, dim, NULL);
    rows = calloc(num_rows + 1, sizeof *rows);
    results = calloc(num_trials * num_rows * NUM_FIELDS + 1, sizeof *results);
    if (!rows || !results) {
        code = cli_status(&cfg.c, GSL_ENOMEM, "results");
        goto done;
    }
    list_rows(&cfg, dim, rows);
    /* Of each thread: power sums to degree 8, E E^T, blocks of scores, features, twice over for the copies. */
    const double queries = (double)(cfg.q ? x.q.len : cfg.seq_len + (trains_anything(&cfg) ? cfg.fit_queries : 0));
    const double each = queries * (10.0 * (double)dim + 2.0 * PREFIX_SUMS_BLOCK + 3.0 * MAX_FIT_DIM)
        + queries * queries;
    if ((code = cli_memory(&cfg.c, 16.0 * each * cfg.c.threads, "the sums over the prefix"))) goto done;
    cli_outputs_begin(&cfg.c);
    code = cfg.q ? run_tensors(&cfg, &x, rows, num_rows, results) : run_synthetic(&cfg, rows, num_rows, results,
                                                                                  &journal);
    if (!code) code = write_table(&cfg, dim, rows, num_rows, results, num_trials);
    if (!code && cfg.intervals) code = write_intervals(&cfg, rows, num_rows, results, num_trials);
    if (!code && cfg.c.verdicts) {
        char run[256];
        run_name(&cfg, run, sizeof run);
        const struct outcome o = { &cfg, rows, num_rows, num_trials, results, verdicts_open(&cfg.c, run) };
        decide(&o, run);
        code = verdicts_close(o.verdicts, code);
    }
done:
    code = journal ? journal_close(journal, code) : cli_outputs_end(&cfg.c, code);
    tensors_free(&x);
    free(rows);
    free(results);
    free(cfg.maps);
    return code;
}
