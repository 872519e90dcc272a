/* Values drawn independently of the keys make every summary look convergent: the error of each
 * map against the prefix length, tied and independent values, in three units. Ledger F50. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>

#include "cli/cli.h"
#include "approximation/source.h"
#include "approximation/study.h"
#include "cli/summary.h"
#include "cli/units.h"

static const char columns[] = "values,feature,prefix_len,unit,error_mean,error_ci_lo,error_ci_hi,num_trials";

struct config {
    struct cli_common c;
    size_t dim, seq_len, num_trials, *lens, num_lens;
};

enum { KEY_DIM = 0x1000, KEY_SEQ_LEN, KEY_PREFIX_LEN, KEY_TRIALS };

static const struct argp_option options[] = {
    { .name = "dim", .key = KEY_DIM, .arg = "D", .doc = "head dimension (default 64)" },
    { .name = "seq-len", .key = KEY_SEQ_LEN, .arg = "L", .doc = "input tokens (default 128)" },
    { .name = "prefix-len", .key = KEY_PREFIX_LEN, .arg = "M,..", .doc = "prefix lengths, increasing (default 16,64,256,1024,4096,8192,16384,32768,65536)" },
    { .name = "num-trials", .key = KEY_TRIALS, .arg = "N", .doc = "trials (default 12)" },
    CLI_SHARD_OPTION,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_DIM: return cli_parse_size(state, key, arg, 1, 1024, &cfg->dim);
    case KEY_SEQ_LEN: return cli_parse_size(state, key, arg, 1, 65536, &cfg->seq_len);
    case KEY_PREFIX_LEN: return cli_parse_size_list(state, key, arg, 1, (size_t)1 << 32, &cfg->lens, &cfg->num_lens);
    case KEY_TRIALS: return cli_parse_size(state, key, arg, 2, 1 << 20, &cfg->num_trials);
    default: return ARGP_ERR_UNKNOWN;
    }
}

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

static int run_trial(const struct config *cfg, enum source_values values, size_t trial, double *out)
{
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
            memcpy(y + t * count, units_row(work, values * cfg->num_trials + t) + cell(cfg, MAP_DEGREE0, first, unit), count * sizeof *y);
        ci = cli_exponent(x, y, count, cfg->num_trials, 0.999);
    }
    free(x);
    free(y);
    return ci;
}

/* Too few lengths give no slope. */
static void decide(struct verdicts *v, const char *row, struct interval slope_found)
{
    if (slope_found.n) verdicts_add(v, "F50", row, slope_found);
    else verdicts_not_tested(v, "F50", row);
}

static int write_table(const struct config *cfg, const struct units *work)
{
    struct table *t = table_open(&cfg->c, NULL, columns);
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    if (!t || !x) {
        free(x);
        return t ? table_close(t, EXIT_FAILED) : EXIT_FAILED;
    }
    table_note(t, "error: root mean square over queries of ||T - PA||, absolute, over that of the prefix effect PA - Attn, over that of PA; 99.9 %% intervals");
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
                    table_num(t, ci.value);
                    table_num(t, ci.lo);
                    table_num(t, ci.hi);
                    table_int(t, cfg->num_trials);
                    table_end_row(t);
                }
    free(x);
    return table_close(t, EXIT_DONE);
}

int main(int argc, char **argv)
{
    struct config cfg = { .dim = 64, .seq_len = 128, .num_trials = 12 };
    static size_t default_lens[] = { 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536 };
    cli_parse(argc, argv, "The trap of independent values: the same errors in three units.", options, parse, check, &cfg.c);
    if (!cfg.num_lens) {
        cfg.lens = default_lens;
        cfg.num_lens = sizeof default_lens / sizeof *default_lens;
    }
    const size_t count = NUM_VALUES * cfg.num_trials;
    char *identity = cli_text_sizes(cli_text("seed %llu dim %zu len %zu at", (unsigned long long)cfg.c.seed, cfg.dim, cfg.seq_len), cfg.lens, cfg.num_lens);
    double unit = (double)source_bytes(cfg.dim) + 3.0 * (double)attn_sums_bytes(cfg.seq_len, cfg.dim)
                + 3.0 * (double)(cfg.seq_len * cfg.dim) * sizeof(double);
    struct study_map maps[NUM_MAPS];
    for (size_t i = 0; i < NUM_MAPS; i++)
        if (study_map_parse(map_names[i], &maps[i])) unit = INFINITY;
    unit += (double)study_bytes(maps, NUM_MAPS, cfg.seq_len, cfg.dim);
    struct units *work = units_open(&cfg.c, identity, "trials", count, NUM_MAPS * NUM_UNITS * cfg.num_lens, unit);
    free(identity);
    if (!work) return EXIT_FAILED;
#pragma omp parallel for schedule(dynamic) num_threads(cfg.c.threads)
    for (size_t u = 0; u < count; u++) {
        double *row = units_begin(work, u);
        if (row) units_end(work, u, run_trial(&cfg, u < cfg.num_trials ? SOURCE_TIED : SOURCE_INDEPENDENT, u % cfg.num_trials, row));
    }
    int code = units_status(work);
    if (!code) code = write_table(&cfg, work);
    if (!code) {
        struct verdicts *v = verdicts_open(&cfg.c, "prefix_effect_trap");
        decide(v, "independent-absolute", slope(&cfg, work, 1, 0));
        decide(v, "independent-over-output", slope(&cfg, work, 1, 2));
        decide(v, "tied-absolute", slope(&cfg, work, 0, 0));
        code = verdicts_close(v, code);
    }
    return units_close(work, code);
}
