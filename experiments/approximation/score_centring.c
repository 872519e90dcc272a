/* Scores of non-zero mean spoil odd Taylor degrees until the keys are centred, and odd degrees can
 * make the mass non-positive where a split map cannot. Ledger F55, F56. */
#include <math.h>
#include <stdlib.h>

#include <gsl/gsl_errno.h>

#include "cli/option_table.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"
#include "cli/units.h"

static const char columns[] =
    "score_mean,score_std,prefix_len,feature,error_median,error_ci_lo,error_ci_hi,nonpositive_mean,nonpositive_ci_lo,"
    "nonpositive_ci_hi,num_trials";

struct config {
    struct cli_common c;
    size_t dim, num_queries, num_trials, prefix_len;
    double *means;
    size_t num_means;
};

static const struct cli_option options[] = {
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1024, .value = "16", .arg = "D",
      .doc = "head dimension" },
    { "num-queries", CLI_SIZE(struct config, num_queries), .min = 1, .max = 65536, .value = "64", .doc = "queries" },
    { "prefix-len", CLI_SIZE(struct config, prefix_len), .min = 1, .max = (size_t)1 << 32, .value = "262144",
      .arg = "M", .doc = "length of the long prefix" },
    { "score-mean", CLI_DOUBLES(struct config, means, num_means), .value = "0.125,0.25,0.5,1", .arg = "C,..",
      .doc = "root mean squares over queries of the scores' mean" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "16", .doc = "trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *const map_names[] = { "taylor:1", "taylor:1@centred", "taylor:3", "taylor:3@centred", "split:2",
                                         "split:2@centred", "cumulant" };
enum { NUM_MAPS = sizeof map_names / sizeof *map_names, TAYLOR1 = 0, TAYLOR1_CENTRED = 1, TAYLOR3 = 2, SPLIT2 = 4,
       SHORT_LEN = 4 };
static const double SHORT_SPREAD = 3.0;

/* Settings: each score mean with the long prefix at spread 1, then mean 0 with the short prefix
 * at spread 3. No input tokens: the error is that of the prefix mean. */
static int run_unit(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const size_t setting = unit / cfg->num_trials, trial = unit % cfg->num_trials;
    const size_t d = cfg->dim, n = cfg->num_queries;
    const bool is_short = setting == cfg->num_means;
    struct study_map maps[NUM_MAPS];
    struct source source = { 0 };
    struct study study = { 0 };
    struct attn_sums prefix = { 0 }, sums = { 0 };
    double *Q = malloc(n * d * sizeof *Q);
    int status = Q ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < NUM_MAPS; i++)
        if (study_map_parse(map_names[i], &maps[i])) status = GSL_ESANITY;
    if (!status)
        status = source_init(&source, cfg->c.seed, trial, d, SOURCE_TIED, NULL, is_short ? 0.0 : cfg->means[setting]);
    if (!status) status = source_inputs(&source, 0, n, Q, NULL, NULL);
    for (size_t i = 0; i < n * d && !status && is_short; i++) Q[i] *= SHORT_SPREAD;
    if (!status) status = attn_sums_alloc(&prefix, n, d);
    if (!status) status = attn_sums_alloc(&sums, n, d);
    if (!status) status = study_alloc(&study, maps, NUM_MAPS, Q, n, d, NULL, cfg->c.seed);
    if (!status) status = study_read(&study, &source, is_short ? SHORT_LEN : cfg->prefix_len);
    if (!status) status = prefix_sums_exact(&study.sums, 0, &prefix);
    for (size_t i = 0; i < NUM_MAPS && !status; i++) {
        struct approx_errors e;
        int exists;
        if ((status = study_sums(&study, i, 0.0, &sums, &exists))) break;
        if ((status = approx_compare(NULL, &prefix, &sums, &e, NULL))) break;
        out[2 * i] = e.err_rel;
        out[2 * i + 1] = (double)e.num_nonpositive / (double)n;
    }
    source_free(&source);
    study_free(&study);
    attn_sums_free(&prefix);
    attn_sums_free(&sums);
    free(Q);
    return status;
}

static struct interval field(const struct config *cfg, const struct units *work, size_t setting, size_t at, double *x)
{
    for (size_t t = 0; t < cfg->num_trials; t++) x[t] = units_row(work, setting * cfg->num_trials + t)[at];
    struct interval ci = { NAN, NAN, NAN, 0 };
    /* The error of a map whose mass nearly vanishes has no mean: its median. */
    if (at % 2) return cli_mean(x, cfg->num_trials, 0.999);
    cli_need_memory(stats_median_bootstrap(x, cfg->num_trials, 0.999, cfg->c.seed, &ci));
    return ci;
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    table_note(t, "error: ||mean^ - mean||_F / ||mean||_F of the prefix alone; nonpositive: share of queries with mass "
                  "<= 0, left out of the error; median and mean over trials with 99.9 %% intervals");
    for (size_t s = 0; s <= cfg->num_means; s++)
        for (size_t i = 0; i < NUM_MAPS; i++) {
            const bool is_short = s == cfg->num_means;
            table_num(t, is_short ? 0.0 : cfg->means[s]);
            table_num(t, is_short ? SHORT_SPREAD : 1.0);
            table_int(t, is_short ? SHORT_LEN : cfg->prefix_len);
            table_text(t, map_names[i]);
            for (size_t f = 0; f < 2; f++) {
                const struct interval ci = field(cfg, work, s, 2 * i + f, x);
                table_interval(t, ci);
            }
            table_int(t, cfg->num_trials);
            table_end_row(t);
        }
    free(x);
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    size_t half = 0;
    while (half < cfg->num_means && cfg->means[half] != 0.5) half++;
    /* The ledger's rows speak of a long prefix. */
    if (half < cfg->num_means && cfg->prefix_len >= 262144) {
        verdicts_add(v, "F55", "uncentred", field(cfg, work, half, 2 * TAYLOR1, x));
        verdicts_add(v, "F55", "centred", field(cfg, work, half, 2 * TAYLOR1_CENTRED, x));
    } else {
        verdicts_not_tested(v, "F55", "uncentred");
        verdicts_not_tested(v, "F55", "centred");
    }
    verdicts_add(v, "F56", "taylor3", field(cfg, work, cfg->num_means, 2 * TAYLOR3 + 1, x));
    verdicts_add(v, "F56", "split2", field(cfg, work, cfg->num_means, 2 * SPLIT2 + 1, x));
    free(x);
}

static double unit_bytes(const struct config *cfg)
{
    double unit = (double)source_bytes(cfg->dim) + 2.0 * (double)attn_sums_bytes(cfg->num_queries, cfg->dim)
                + (double)(cfg->num_queries * cfg->dim) * sizeof(double);
    struct study_map maps[NUM_MAPS];
    for (size_t i = 0; i < NUM_MAPS; i++)
        if (study_map_parse(map_names[i], &maps[i])) unit = INFINITY;
    unit += (double)study_bytes(maps, NUM_MAPS, cfg->num_queries, cfg->dim);
    return unit;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "Scores of non-zero mean, centred keys, and masses that turn non-positive.", options,
                    shard, NULL, &cfg.c);
    const struct units_study study = {
        .stem = "score_centring", .what = "trials", .columns = columns, .count = (cfg.num_means + 1) * cfg.num_trials,
        .width = 2 * NUM_MAPS,
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
