/* What a summary loses when Z is cut to low rank, beside the spectrum of Z. Ledger M7. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>

#include "approximation/approx.h"
#include "cli/option_table.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"
#include "cli/units.h"

static const char columns[] = "tokens,summary,rank,energy_mean,err_rel_mean,err_rel_ci_lo,err_rel_ci_hi,num_trials";

struct config {
    struct cli_common c;
    size_t dim, seq_len, prefix_len, num_trials, fit_queries;
    int dataset;
    const struct source_tokens *tokens;    /* of a data set */
};

static const char *const dataset_names[] = { "synthetic", "mnist", NULL };

static const struct cli_option options[] = {
    { "prefix-len", CLI_SIZE(struct config, prefix_len), .min = 1, .max = 1 << 22, .value = "4096", .arg = "M",
      .doc = "prefix length" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "12", .doc = "trials" },
    { "dataset", CLI_CHOICE(struct config, dataset), .names = dataset_names, .value = "synthetic",
      .doc = "tokens: synthetic (Gaussian) or mnist (patches of its images)" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

/* The last: for each rank the Z of that rank that fits the queries best with k as fitted, which is what training
 * Z_A Z_B aims at (reduced-rank regression: Z cut to the leading right singular vectors of its fitted outputs). */
static const char *const summary_names[] = { "taylor:1 plug-in", "elu1 least squares", "elu1 best of its rank" };
static const size_t ranks[] = { 1, 2, 4, 8, 16, 32, 48, 64 };
enum { NUM_SUMMARIES = 3, NUM_RANKS = sizeof ranks / sizeof *ranks, QUARTER = 4, FULL = NUM_RANKS - 1 };

/* Errors and energies of Z (r, d) cut to each rank: projected on the leading right singular vectors of M (rows, d),
 * whose energies they are. M = Z gives the nearest matrices. */
static int cut(const double *M, size_t rows, const double *phi, size_t r, size_t d, const double *Z, const double *k,
               const struct attn_sums *input, const struct attn_sums *prefix, double *energy, double *error)
{
    gsl_matrix *U = gsl_matrix_alloc(rows, d), *V = gsl_matrix_alloc(d, d), *cutZ = gsl_matrix_calloc(r, d);
    gsl_vector *s = gsl_vector_alloc(d), *Zv = gsl_vector_alloc(r);
    const gsl_matrix_const_view whole = gsl_matrix_const_view_array(Z, r, d);
    struct attn_sums sums = { 0 };
    int status = U && V && cutZ && s && Zv ? attn_sums_alloc(&sums, input->num_queries, d) : GSL_ENOMEM;
    if (status) goto done;
    memcpy(U->data, M, rows * d * sizeof *M);
    /* The other drivers of GSL allocate unchecked. */
    if ((status = gsl_linalg_SV_decomp_jacobi(U, V, s))) goto done;
    double all = 0.0, part = 0.0;
    for (size_t j = 0; j < d; j++) all += gsl_vector_get(s, j) * gsl_vector_get(s, j);
    for (size_t i = 0, j = 0; i < NUM_RANKS && !status; i++) {
        for (; j < ranks[i] && j < d; j++) {
            gsl_vector_view v = gsl_matrix_column(V, j);
            gsl_blas_dgemv(CblasNoTrans, 1.0, &whole.matrix, &v.vector, 0.0, Zv);
            gsl_blas_dger(1.0, Zv, &v.vector, cutZ);
            part += gsl_vector_get(s, j) * gsl_vector_get(s, j);
        }
        struct approx_errors e;
        summary_apply(phi, r, cutZ->data, k, &sums);
        status = approx_compare(input, prefix, &sums, &e, NULL);
        energy[i] = part / all;
        error[i] = e.err_rel;
    }
done:
    gsl_matrix_free(U);
    gsl_matrix_free(V);
    gsl_matrix_free(cutZ);
    gsl_vector_free(s);
    gsl_vector_free(Zv);
    attn_sums_free(&sums);
    return status;
}

/* Row i of out (n, d): what Z adds to the output of query i, phi_i Z / (a_i + phi_i k). */
static void fitted_outputs(const double *phi, size_t n, size_t r, size_t d, const double *Z, const double *k,
                           const struct attn_sums *input, double *out)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)d, (int)r, 1.0, phi, (int)r, Z, (int)d, 0.0,
                out, (int)d);
    for (size_t i = 0; i < n; i++) {
        const double D = input->mass[i] * exp(input->shift[i]) + cblas_ddot((int)r, phi + i * r, 1, k, 1);
        cblas_dscal((int)d, 1.0 / D, out + i * d, 1);
    }
}

/* One layer and prefix: queries [0, L) judge, the sequences after them are fitted on. */
struct instance {
    size_t d, L, n;                           /* n: all queries */
    double *Q, *outputs;                      /* (n, d); scratch (n - L, d) */
    struct source source;
    struct attn_sums input, prefix;
    struct study study;
};

static void instance_free(struct instance *x)
{
    source_free(&x->source);
    study_free(&x->study);
    attn_sums_free(&x->input);
    attn_sums_free(&x->prefix);
    free(x->Q);
    free(x->outputs);
}

static int instance_fill(const struct config *cfg, size_t trial, struct instance *x)
{
    const struct source_tokens *tokens = cfg->dataset ? cfg->tokens : NULL;
    const size_t d = cfg->dim, L = cfg->seq_len, n = L + cfg->fit_queries;
    *x = (struct instance){ .d = d, .L = L, .n = n, .Q = malloc((n + 2 * L) * d * sizeof *x->Q),
                            .outputs = malloc(cfg->fit_queries * d * sizeof *x->outputs) };
    double *K = x->Q + n * d, *V = K + L * d;
    int status = x->Q && x->outputs ? source_init(&x->source, cfg->c.seed, trial, d, SOURCE_TIED, tokens, 0.0)
        : GSL_ENOMEM;
    if (!status) status = attn_sums_alloc(&x->input, n, d);
    if (!status) status = attn_sums_alloc(&x->prefix, n, d);
    for (size_t first = 0; first < n && !status; first += L) {
        struct attn_sums part = { L, d, x->input.shift + first, x->input.mass + first, x->input.num + first * d };
        status = source_inputs(&x->source, first, L, x->Q + first * d, K, V);
        if (!status) status = attn_sums_exact(x->Q + first * d, K, V, L, 1.0 / sqrt((double)d), &part);
    }
    if (!status) status = study_alloc(&x->study, NULL, 0, x->Q, n, d, NULL, cfg->c.seed);
    if (!status) status = study_read(&x->study, &x->source, cfg->prefix_len);
    if (!status) status = prefix_sums_exact(&x->study.sums, 0, &x->prefix);
    return status;
}

/* (Z, k) of the prefix; the map has the same features on both sides. */
static int plug_in(const struct config *cfg, struct instance *x, const struct study_map *map, size_t r, double *Z,
                   double *k)
{
    const size_t d = x->d;
    double *Kp = malloc(2 * SOURCE_BLOCK * d * sizeof *Kp), *Vp = Kp + SOURCE_BLOCK * d;
    int status = Kp ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t first = 0; first < cfg->prefix_len && !status; first += SOURCE_BLOCK) {
        const size_t count = cfg->prefix_len - first < SOURCE_BLOCK ? cfg->prefix_len - first : SOURCE_BLOCK;
        double *phi_k;
        size_t listed;
        if ((status = source_prefix(&x->source, first, count, Kp, Vp))) break;
        if ((status = study_query_features(map, Kp, count, d, 0.0, cfg->c.seed, &phi_k, &listed))) break;
        summary_add(phi_k, Vp, count, r, d, Z, k);
        free(phi_k);
    }
    free(Kp);
    return status;
}

/* Energies and errors of summary number s by rank. */
static int judge(const struct config *cfg, struct instance *x, size_t s, double *out)
{
    const size_t d = x->d, L = x->L, m = cfg->fit_queries, r = s == 0 ? d + 1 : d;
    struct study_map map;
    size_t listed;
    double *phi = NULL, *Z = calloc(r * d, sizeof *Z), *k = calloc(r, sizeof *k);
    int status = Z && k ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status && study_map_parse(s == 0 ? "taylor:1" : "elu1", &map)) status = GSL_ESANITY;
    if (!status) status = study_query_features(&map, x->Q, x->n, d, 0.0, cfg->c.seed, &phi, &listed);
    if (!status && s == 0) status = plug_in(cfg, x, &map, r, Z, k);
    const struct attn_sums fit_input = { m, d, x->input.shift + L, x->input.mass + L, x->input.num + L * d };
    if (!status && s > 0) {
        const struct attn_sums fit_prefix = { m, d, x->prefix.shift + L, x->prefix.mass + L, x->prefix.num + L * d };
        const struct summary_problem problem = { r, phi + L * r, &fit_input, &fit_prefix };
        status = summary_fit_lstsq(&problem, 1, Z, k);
    }
    const struct attn_sums judge_input = { L, d, x->input.shift, x->input.mass, x->input.num };
    const struct attn_sums judge_prefix = { L, d, x->prefix.shift, x->prefix.mass, x->prefix.num };
    if (!status && s == 2) fitted_outputs(phi + L * r, m, r, d, Z, k, &fit_input, x->outputs);
    if (!status)
        status = cut(s == 2 ? x->outputs : Z, s == 2 ? m : r, phi, r, d, Z, k, &judge_input, &judge_prefix,
                     out + 2 * s * NUM_RANKS, out + (2 * s + 1) * NUM_RANKS);
    free(phi);
    free(Z);
    free(k);
    return status;
}

static int run_unit(const void *context, size_t trial, double *out)
{
    const struct config *cfg = context;
    struct instance x;
    int status = instance_fill(cfg, trial, &x);
    for (size_t s = 0; s < NUM_SUMMARIES && !status; s++) status = judge(cfg, &x, s, out);
    instance_free(&x);
    return status;
}

static struct interval over_trials(const struct config *cfg, const struct units *work, size_t at, size_t over,
                                   double *x)
{
    for (size_t t = 0; t < cfg->num_trials; t++)
        x[t] = units_row(work, t)[at] / (over == at ? 1.0 : units_row(work, t)[over]);
    return cli_mean(x, cfg->num_trials, 0.999);
}

/* Of a trial: queries with their sums, the block of tokens in work, features and the least squares on them. */
static double unit_bytes(const struct config *cfg)
{
    const double n = (double)(cfg->seq_len + cfg->fit_queries), d = (double)cfg->dim;
    return (double)source_bytes(cfg->dim) + (double)study_bytes(NULL, 0, cfg->seq_len + cfg->fit_queries, cfg->dim)
         + 2.0 * (double)attn_sums_bytes(cfg->seq_len + cfg->fit_queries, cfg->dim)
         + ((3.0 * n + 2.0 * (double)cfg->seq_len + 3.0 * SOURCE_BLOCK) * d + n * (d + 1.0)
            + 8.0 * (d + 1.0) * (d + 1.0)) * sizeof(double);
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    table_note(t, "energy: share of the squared singular values of Z kept; err_rel over the prefix effect, fresh "
                  "queries; 99.9 %% intervals");
    for (size_t s = 0; s < NUM_SUMMARIES; s++)
        for (size_t i = 0; i < NUM_RANKS; i++) {
            const size_t energy = 2 * s * NUM_RANKS + i, error = energy + NUM_RANKS;
            const struct interval ci = over_trials(cfg, work, error, error, x);
            table_text(t, dataset_names[cfg->dataset]);
            table_text(t, summary_names[s]);
            table_int(t, ranks[i]);
            table_num(t, over_trials(cfg, work, energy, energy, x).value);
            table_interval(t, ci);
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
    free(x);
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    static const char *const rows[][NUM_SUMMARIES] = { { "gaussian", "lstsq", "trained" },
                                                       { "patches", "patches-lstsq", "patches-trained" } };
    for (size_t s = 0; s < NUM_SUMMARIES; s++) {
        const size_t errors = (2 * s + 1) * NUM_RANKS;
        /* A shorter prefix is off by sampling alone, which hides what the cut costs. */
        if (cfg->prefix_len < 4096) verdicts_not_tested(v, "M7", rows[cfg->dataset][s]);
        else verdicts_add(v, "M7", rows[cfg->dataset][s], over_trials(cfg, work, errors + QUARTER, errors + FULL, x));
    }
    free(x);
}

int main(int argc, char **argv)
{
    struct config cfg = { .dim = 64, .seq_len = 128, .fit_queries = 1024 };
    cli_parse_table(argc, argv, "Low-rank summaries.", options, shard, NULL, &cfg.c);
    struct source_tokens tokens = { 0 };
    const int loaded = cfg.dataset ? source_tokens_mnist(&cfg.c, &tokens) : EXIT_DONE;
    if (loaded) return loaded;
    cfg.tokens = &tokens;
    const struct units_study study = {
        .stem = cfg.dataset ? "low_rank_summary_mnist" : "low_rank_summary", .what = "trials", .columns = columns,
        .count = cfg.num_trials, .width = 2 * NUM_SUMMARIES * NUM_RANKS,
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    const int code = units_run(&cfg.c, options, &study, &cfg);
    source_tokens_free(&tokens);
    return code;
}
