/* How far the key kernel moves when every token moves by R, at random and at worst (T5, F20). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "prefix_ntk/prefix_fit.h"

static const char doc[] = "||H(W) - H(W_0)||_F when every token moves by exactly R: in random directions, and along "
                          "the gradient of the change "
                          "(projected ascent).";
static const char columns[] =
    "shift,prefix_len,radius,num_trials,change_mean,change_ci_lo,change_ci_hi,change_per_radius";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma, *radii;
    size_t num_radii, *prefix_lens, num_lens, num_data, num_trials, num_iterations;
    bool tables;
};

static const struct cli_option options[] = {
    SAMPLES_INPUTS(struct config, samples),
    KERNEL_SIGMA(struct config, "0.5"),
    { "radius", CLI_DOUBLES(struct config, radii, num_radii), .value = "0.01,0.03,0.1,0.3", .group = 1,
      .doc = "shifts R, ascending" },
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 1, .max = 1u << 24,
      .value = "64,256,1024", .group = 1, .doc = "prefix lengths m, ascending" },
    DATA_SETS_NUM(struct config, "1", "data sets drawn"),
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "8", .group = 1,
      .doc = "prefixes drawn for each data set; those of one trial are nested" },
    { "num-iterations", CLI_SIZE(struct config, num_iterations), .min = 1, .max = 10000, .value = "8", .group = 1,
      .doc = "rounds of ascent" },
    DATA_SETS_TABLES(struct config, "data sets"),
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t i = 1; i < cfg->num_radii; i++)
        if (!(cfg->radii[i] > cfg->radii[i - 1])) return "--radius: values must ascend";
    for (size_t i = 1; i < cfg->num_lens; i++)
        if (cfg->prefix_lens[i] <= cfg->prefix_lens[i - 1]) return "--prefix-len: values must ascend";
    if (cfg->samples.inputs && cfg->num_data > 1) return "--num-data: --inputs are one data set";
    return samples_check(&cfg->samples, false);
}

enum shift { RANDOM_SHIFT, ADVERSARIAL_SHIFT, NUM_SHIFTS };
static const char *const shift_names[] = { "random", "adversarial" };

struct study { const struct config *cfg; gsl_matrix **X; struct units *work; };      /* X by data set */

static size_t num_trials(const struct config *cfg) { return cfg->num_data * cfg->num_trials; }

static double change_of(const struct study *s, enum shift shift, size_t len, size_t radius, size_t trial)
{
    return units_row(s->work, len * num_trials(s->cfg) + trial)[(size_t)shift * s->cfg->num_radii + radius];
}

/* All radii of one prefix, both shifts. */
static int run_unit(const void *context, size_t index, double *out)
{
    const struct study *s = context;
    const struct config *cfg = s->cfg;
    const size_t trial = index % num_trials(cfg), m = cfg->prefix_lens[index / num_trials(cfg)];
    const gsl_matrix *X = s->X[trial / cfg->num_trials];
    const size_t d = X->size2;
    gsl_matrix *W0 = gsl_matrix_alloc(m, d), *W = gsl_matrix_alloc(m, d), *direction = gsl_matrix_alloc(m, d);
    gsl_vector *signs = gsl_vector_alloc(m);
    int status = W0 && W && direction && signs ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg->c.seed, trial, PREFIX_SIGNS_RANDOM, cfg->sigma, W0, signs, 1);
    if (!status) samples_sphere(cfg->c.seed, RANDOM_PERTURBATION, trial, 0, direction);
    for (size_t i = 0; i < cfg->num_radii && !status; i++)
        for (int shift = 0; shift < NUM_SHIFTS && !status; shift++) {
            gsl_matrix_memcpy(W, direction);
            gsl_matrix_scale(W, cfg->radii[i]);
            gsl_matrix_add(W, W0);
            status = ntk_adversarial_shift(W0, signs, X, NTK_KEY, cfg->radii[i],
                                           shift == ADVERSARIAL_SHIFT ? cfg->num_iterations : 0, W,
                                           &out[(size_t)shift * cfg->num_radii + i], 1);
            if (cli_interrupted()) status = GSL_FAILURE;
        }
    gsl_vector_free(signs);
    gsl_matrix_free(direction);
    gsl_matrix_free(W);
    gsl_matrix_free(W0);
    return status;
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(num_trials(cfg) * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t,
               "num_samples=%zu dim=%zu sigma=%.17g num_data=%zu random signs; change: ||H(W)-H(W_0)||_F; ci: 95%% "
               "Student t over "
               "data sets; num_trials: prefixes of each",
               s->X[0]->size1, s->X[0]->size2, cfg->sigma, cfg->num_data);
    for (int shift = 0; shift < NUM_SHIFTS; shift++)
        for (size_t i = 0; i < cfg->num_lens; i++)
            for (size_t r = 0; r < cfg->num_radii; r++) {
                for (size_t trial = 0; trial < num_trials(cfg); trial++)
                    x[trial] = change_of(s, (enum shift)shift, i, r, trial);
                const struct interval mean =
                    data_spread_mean(x, (struct data_sets) { cfg->num_data, cfg->num_trials }, 0.95).mean;
                table_text(t, shift_names[shift]);
                table_int(t, cfg->prefix_lens[i]);
                table_num(t, cfg->radii[r]);
                table_int(t, cfg->num_trials);
                table_interval(t, mean);
                table_num(t, mean.value / cfg->radii[r]);
                table_end_row(t);
            }
    free(x);
    return table_close(t, 0);
}

/* Largest change per radius of a trial. */
static double constant_of(const struct study *s, size_t len, size_t trial)
{
    double most = 0.0;
    for (size_t r = 0; r < s->cfg->num_radii; r++)
        most = fmax(most, change_of(s, ADVERSARIAL_SHIFT, len, r, trial) / s->cfg->radii[r]);
    return most;
}

static int write_verdicts(const struct study *s, struct data_rows *v)
{
    const struct config *cfg = s->cfg;
    const struct data_sets sets = { cfg->num_data, cfg->num_trials };
    const size_t most = cfg->num_lens > cfg->num_radii ? cfg->num_lens : cfg->num_radii, trials = num_trials(cfg);
    double *x = cli_need(malloc(most * sizeof *x)), *y = cli_need(malloc(trials * most * sizeof *y));
    for (size_t t = 0; t < trials; t++)
        for (size_t r = 0; r < cfg->num_radii; r++)
            y[t * cfg->num_radii + r] = change_of(s, ADVERSARIAL_SHIFT, cfg->num_lens - 1, r, t);
    data_rows_spread(v, "T5", "adversarial-slope", data_spread_exponent(cfg->radii, y, cfg->num_radii, sets, 0.999));
    for (size_t t = 0; t < trials; t++) y[t] = constant_of(s, cfg->num_lens - 1, t) / constant_of(s, 0, t);
    data_rows_spread(v, "T5", "sufficient", data_spread_mean(y, sets, 0.999));
    for (size_t i = 0; i < cfg->num_lens; i++) x[i] = (double)cfg->prefix_lens[i];
    for (int shift = 0; shift < NUM_SHIFTS; shift++) {
        for (size_t t = 0; t < trials; t++)
            for (size_t i = 0; i < cfg->num_lens; i++)
                y[t * cfg->num_lens + i] = change_of(s, (enum shift)shift, i, 0, t);
        data_rows_spread(v, "F20", shift == RANDOM_SHIFT ? "random-exponent" : "adversarial-exponent",
                         data_spread_exponent(x, y, cfg->num_lens, sets, 0.999));
    }
    free(x);
    free(y);
    return data_rows_close(v, 0);
}

int main(int argc, char **argv)
{
    struct config cfg = { .samples = { .num_samples = 4, .dim = 4 } };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg, .X = cli_need(calloc(cfg.num_data, sizeof *s.X)) };
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    struct samples_options samples = cfg.samples;
    int code = 0;
    for (size_t i = 0; i < cfg.num_data && !code; i++) {
        code = samples_load(&cfg.c, &samples, i, &s.X[i], NULL);
        samples.inputs_out = NULL;                  /* those of the first */
    }
    if (!code) {
        const double m = (double)cfg.prefix_lens[cfg.num_lens - 1], n = (double)s.X[0]->size1,
                     d = (double)s.X[0]->size2;
        code =
            cli_memory(&cfg.c, (double)cfg.c.threads * (4.0 * n * d * n * d + m * (6.0 * d + 2.0 * n)) * sizeof(double),
                       "the longest prefix");
    }
    if (!code) {
        char *options_text = cli_identity(options, &cfg.c);
        char *identity = cli_text("%016llx%s", (unsigned long long)cli_checksum(s.X[0]), options_text);
        free(options_text);
        const struct units_study study = { .what = "prefixes", .count = cfg.num_lens * num_trials(&cfg),
                                           .width = NUM_SHIFTS * cfg.num_radii, .last_first = true, .unit = run_unit };
        code = units_work(&cfg.c, identity, &study, &s, &s.work);
        free(identity);
        if (!code) code = write_verdicts(&s, v);
        else data_rows_close(v, code);
        if (!code) code = write_table(&s);
        code = units_close(s.work, code);
    } else {
        data_rows_close(v, code);
    }
    for (size_t i = 0; i < cfg.num_data; i++) gsl_matrix_free(s.X[i]);
    free(s.X);
    return code;
}
