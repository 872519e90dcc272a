/* Values drawn independently of the keys make every summary look convergent: the error of each
 * map against the prefix length, tied and independent values, in three units. Ledger F50. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "cli/option_table.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"
#include "cli/units.h"

static const char columns[] = "values,feature,prefix_len,unit,error_mean,error_ci_lo,error_ci_hi,num_trials";

struct config {
    struct cli_common c;
    size_t dim, seq_len, num_trials, *lens, num_lens;
};

static const struct cli_option options[] = {
    { "dim", CLI_SIZE(struct config, dim), .min = 1, .max = 1024, .value = "64", .arg = "D",
      .doc = "head dimension" },
    { "seq-len", CLI_SIZE(struct config, seq_len), .min = 1, .max = 65536, .value = "128", .arg = "L",
      .doc = "input tokens" },
    { "prefix-len", CLI_SIZES(struct config, lens, num_lens), .min = 1, .max = (size_t)1 << 32,
      .value = "16,64,256,1024,4096,8192,16384,32768,65536", .arg = "M,..", .doc = "prefix lengths, increasing" },
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 2, .max = 1 << 20, .value = "12", .doc = "trials" },
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *arg)
{
    const struct config *cfg = arg;
    for (size_t i = 1; i < cfg->num_lens; i++)
        if (cfg->lens[i] <= cfg->lens[i - 1]) return "--prefix-len: must increase";
    return NULL;
}

static const char *const value_names[] = { "tied", "independent" };
static const char *const unit_names[] = { "absolute", "over effect", "over output" };
static const char *const map_names[] = { "none", "taylor:0", "elu1", "taylor:1", "split:2" };
enum { NUM_VALUES = 2, NUM_UNITS = 3, NUM_MAPS = sizeof map_names / sizeof *map_names, MAP_DEGREE0 = 1 };

/* Where error (map, length, unit) of a trial lies. */
static size_t cell(const struct config *cfg, size_t map, size_t len, size_t unit)
{
    return (map * NUM_UNITS + unit) * cfg->num_lens + len;
}

static int run_unit(const void *context, size_t unit, double *out)
{
    const struct config *cfg = context;
    const enum source_values values = unit < cfg->num_trials ? SOURCE_TIED : SOURCE_INDEPENDENT;
    const size_t trial = unit % cfg->num_trials;
    const size_t d = cfg->dim, L = cfg->seq_len;
    struct study_map maps[NUM_MAPS];
    struct source source = { 0 };
    struct study study = { 0 };
    struct attn_sums input = { 0 }, prefix = { 0 }, sums = { 0 };
    double *Q = malloc(3 * L * d * sizeof *Q), *K = Q + L * d, *V = K + L * d;
    int status = Q ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t i = 0; i < NUM_MAPS; i++)
        if (study_map_parse(map_names[i], &maps[i])) status = GSL_ESANITY;
    if (!status) status = source_init(&source, cfg->c.seed, trial, d, values, NULL, 0.0);
    if (!status) status = source_inputs(&source, 0, L, Q, K, V);
    if (!status) status = attn_sums_alloc(&input, L, d);
    if (!status) status = attn_sums_alloc(&prefix, L, d);
    if (!status) status = attn_sums_alloc(&sums, L, d);
    if (!status) status = attn_sums_exact(Q, K, V, L, 1.0 / sqrt((double)d), &input);
    if (!status) status = study_alloc(&study, maps, NUM_MAPS, Q, L, d, NULL, cfg->c.seed);
    for (size_t l = 0; l < cfg->num_lens && !status; l++) {
        status = study_read(&study, &source, cfg->lens[l]);
        if (!status) status = prefix_sums_exact(&study.sums, 0, &prefix);
        for (size_t i = 0; i < NUM_MAPS && !status; i++) {
            struct approx_errors e;
            int exists;
            if ((status = study_sums(&study, i, 0.0, &sums, &exists))) break;
            if ((status = approx_compare(&input, &prefix, exists ? &sums : NULL, &e, NULL))) break;
            out[cell(cfg, i, l, 0)] = e.abs_rms;
            out[cell(cfg, i, l, 1)] = e.err_rel;
            out[cell(cfg, i, l, 2)] = e.abs_rms / e.out_rms;
        }
    }
    source_free(&source);
    study_free(&study);
    attn_sums_free(&input);
    attn_sums_free(&prefix);
    attn_sums_free(&sums);
    free(Q);
    return status;
}

/* Slope of degree 0 from m = 2^12 on. */
static struct interval slope(const struct config *cfg, const struct units *work, size_t values, size_t unit)
{
    struct interval ci = { NAN, NAN, NAN, 0 };
    size_t first = 0;
    while (first < cfg->num_lens && cfg->lens[first] < 4096) first++;
    const size_t count = cfg->num_lens - first;
    double *x = cli_need(malloc((count + 1) * sizeof *x));
    double *y = cli_need(malloc((count * cfg->num_trials + 1) * sizeof *y));
    if (x && y && count >= 3) {
        for (size_t l = 0; l < count; l++) x[l] = (double)cfg->lens[first + l];
        for (size_t t = 0; t < cfg->num_trials; t++)
            memcpy(y + t * count, units_row(work, values * cfg->num_trials + t) + cell(cfg, MAP_DEGREE0, first, unit),
                   count * sizeof *y);
        ci = cli_exponent(x, y, count, cfg->num_trials, 0.999);
    }
    free(x);
    free(y);
    return ci;
}

/* Too few lengths give no slope. */
static void decide_slope(struct verdicts *v, const char *row, struct interval slope_found)
{
    if (slope_found.n) verdicts_add(v, "F50", row, slope_found);
    else verdicts_not_tested(v, "F50", row);
}

static void write_rows(const void *context, const struct units *work, struct table *t)
{
    const struct config *cfg = context;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    table_note(t, "error: root mean square over queries of ||T - PA||, absolute, over that of the prefix effect PA - "
                  "Attn, over that of PA; 99.9 %% intervals");
    for (size_t values = 0; values < NUM_VALUES; values++)
        for (size_t i = 0; i < NUM_MAPS; i++)
            for (size_t unit = 0; unit < NUM_UNITS; unit++)
                for (size_t l = 0; l < cfg->num_lens; l++) {
                    for (size_t n = 0; n < cfg->num_trials; n++)
                        x[n] = units_row(work, values * cfg->num_trials + n)[cell(cfg, i, l, unit)];
                    const struct interval ci = cli_mean(x, cfg->num_trials, 0.999);
                    table_text(t, value_names[values]);
                    table_text(t, map_names[i]);
                    table_int(t, cfg->lens[l]);
                    table_text(t, unit_names[unit]);
                    table_interval(t, ci);
                    table_int(t, cfg->num_trials);
                    table_end_row(t);
                }
    free(x);
}

static void decide(const void *context, const struct units *work, struct verdicts *v)
{
    const struct config *cfg = context;
    decide_slope(v, "independent-absolute", slope(cfg, work, 1, 0));
    decide_slope(v, "independent-over-output", slope(cfg, work, 1, 2));
    decide_slope(v, "tied-absolute", slope(cfg, work, 0, 0));
}

static double unit_bytes(const struct config *cfg)
{
    double unit = (double)source_bytes(cfg->dim) + 3.0 * (double)attn_sums_bytes(cfg->seq_len, cfg->dim)
                + 3.0 * (double)(cfg->seq_len * cfg->dim) * sizeof(double);
    struct study_map maps[NUM_MAPS];
    for (size_t i = 0; i < NUM_MAPS; i++)
        if (study_map_parse(map_names[i], &maps[i])) unit = INFINITY;
    unit += (double)study_bytes(maps, NUM_MAPS, cfg->seq_len, cfg->dim);
    return unit;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, "The trap of independent values: the same errors in three units.", options, shard,
                    check, &cfg.c);
    const struct units_study study = {
        .stem = "prefix_effect_trap", .what = "trials", .columns = columns, .count = NUM_VALUES * cfg.num_trials,
        .width = NUM_MAPS * NUM_UNITS * cfg.num_lens,
        .unit_bytes = unit_bytes(&cfg), .unit = run_unit, .rows = write_rows, .decide = decide,
    };
    return units_run(&cfg.c, options, &study, &cfg);
}
