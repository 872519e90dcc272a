/* How far tokens move and the kernel drifts, by prefix length and sign law (T6, F21, F22, F25). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "prefix_ntk/prefix_descent.h"

static const char doc[] =
    "Movement of the tokens and drift of the kernel during gradient descent, by prefix length and sign law, with "
    "their exponents in the prefix length.";
static const char columns[] =
    "signs,prefix_len,num_trials,movement_rms_mean,movement_rms_ci_lo,movement_rms_ci_hi,movement_max_mean,"
    "movement_max_ci_lo,movement_max_ci_hi,drift_mean,drift_ci_lo,drift_ci_hi,loss_ratio_mean,output_scale_mean,"
    "output_scale_pred,exponent_rms,exponent_max,exponent_drift";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma;
    int *laws;
    size_t num_laws, *prefix_lens, num_lens, num_trials, num_steps, num_draws;
};

enum { KEY_SIGMA = 1, KEY_SIGNS, KEY_PREFIX_LEN, KEY_NUM_TRIALS, KEY_NUM_STEPS, KEY_NUM_DRAWS };

static const struct argp_option options[] = {
    SAMPLES_ARGP_OPTIONS,
    SAMPLES_ARGP_TARGETS,
    { "sigma", KEY_SIGMA, "S", 0, "standard deviation of a token's entries (default 0.5)", 1 },
    { "signs", KEY_SIGNS, "LIST", 0, "random, positive, mirrored (default random,positive,mirrored)", 1 },
    { "prefix-len", KEY_PREFIX_LEN, "LIST", 0, "prefix lengths m, even for mirrored signs (default 64,256,1024)", 1 },
    { "num-trials", KEY_NUM_TRIALS, "N", 0, "prefixes drawn; those of one trial are nested (default 8)", 1 },
    { "num-steps", KEY_NUM_STEPS, "T", 0, "steps of size 1/(m lambda_max(K*)) each: a fixed kernel time (default 300)", 1 },
    { "num-draws", KEY_NUM_DRAWS, "N", 0, "prefixes of 4096 tokens for the scale of the initial outputs (default 200)", 1 },
    CLI_SHARD_OPTION,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_SIGMA: return cli_parse_double(state, key, arg, 0.0, &cfg->sigma);
    case KEY_SIGNS: return cli_parse_choice_list(state, key, arg, cli_sign_names, &cfg->laws, &cfg->num_laws);
    case KEY_PREFIX_LEN: return cli_parse_size_list(state, key, arg, 1, 1u << 26, &cfg->prefix_lens, &cfg->num_lens);
    case KEY_NUM_TRIALS: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->num_trials);
    case KEY_NUM_STEPS: return cli_parse_size(state, key, arg, 1, 1u << 30, &cfg->num_steps);
    case KEY_NUM_DRAWS: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->num_draws);
    default: return samples_parse(&cfg->samples, key, arg, state);
    }
}

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t l = 0; l < cfg->num_laws; l++)
        for (size_t i = 0; i < cfg->num_lens; i++)
            if (cfg->laws[l] == PREFIX_SIGNS_MIRRORED && cfg->prefix_lens[i] % 2)
                return "--prefix-len: odd lengths cannot be split for --signs mirrored";
    return samples_check(&cfg->samples, true);
}

enum { RMS, MAX, DRIFT, LOSS_RATIO, NUM_RESULTS, DRAW_LEN = 4096 };

struct study {
    const struct config *cfg;
    const gsl_matrix *X, *Y;
    double rate[3];                 /* step size times m, per law of enum prefix_signs */
    struct units *work;             /* (num_lens, num_laws, num_trials), NUM_RESULTS each */
};

static struct units_grid grid_of(const struct study *s)
{
    const struct config *cfg = s->cfg;
    return (struct units_grid){ s->work, cfg->num_laws, cfg->num_lens, cfg->num_trials, cfg->prefix_lens };
}

static double frobenius(const gsl_matrix *A)
{
    double sum = 0.0;
    for (size_t i = 0; i < A->size1 * A->size2; i++) sum += A->data[i] * A->data[i];
    return sqrt(sum);
}

/* One descent over the fixed kernel time. */
static int run_unit(const struct study *s, size_t index, double *out)
{
    const struct config *cfg = s->cfg;
    const size_t trial = index % cfg->num_trials, law_index = index / cfg->num_trials % cfg->num_laws;
    const size_t m = cfg->prefix_lens[index / cfg->num_trials / cfg->num_laws];
    const enum prefix_signs law = (enum prefix_signs)cfg->laws[law_index];
    const size_t d = s->X->size2, nd = s->X->size1 * d;
    gsl_matrix *W = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(nd, nd), *K_end = gsl_matrix_alloc(nd, nd);
    gsl_vector *signs = gsl_vector_alloc(m);
    struct prefix_descent *descent = NULL;
    int status = W && K && K_end && signs ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg->c.seed, trial, law, cfg->sigma, W, signs, 1);
    if (!status) status = ntk_gram(W, signs, s->X, NTK_FULL, K, 1);
    if (!status) status = prefix_descent_alloc(W, signs, s->X, NULL, s->Y, 1, &descent);
    const double start = status ? NAN : prefix_descent_loss(descent);
    bool diverged = false;
    for (size_t step = 0; step < cfg->num_steps && !status && !diverged; step++) {
        diverged = prefix_descent_step(descent, s->rate[law] / (double)m) != GSL_SUCCESS;
        if (cli_interrupted()) status = GSL_FAILURE;
    }
    for (int c = 0; c < NUM_RESULTS; c++) out[c] = NAN;
    if (!status && !diverged) {
        const gsl_matrix *end = prefix_descent_prefix(descent);
        status = prefix_movement(end, W, &out[RMS], &out[MAX]);
        if (!status) status = ntk_gram(end, signs, s->X, NTK_FULL, K_end, 1);
        const double norm = frobenius(K);
        gsl_matrix_sub(K_end, K);
        out[DRIFT] = frobenius(K_end) / norm;
        out[LOSS_RATIO] = prefix_descent_loss(descent) / start;
    }
    prefix_descent_free(descent);
    gsl_vector_free(signs);
    gsl_matrix_free(K_end);
    gsl_matrix_free(K);
    gsl_matrix_free(W);
    return status;
}


/* sum_ik F_k(x_i)^2 of a fresh prefix with random signs, per m. */
static int draw_scale(const struct study *s, size_t index, double *out)
{
    const struct config *cfg = s->cfg;
    const size_t d = s->X->size2;
    gsl_matrix *W = gsl_matrix_alloc(DRAW_LEN, d), *F = gsl_matrix_alloc(s->X->size1, d);
    gsl_vector *signs = gsl_vector_alloc(DRAW_LEN);
    int status = W && F && signs ? GSL_SUCCESS : GSL_ENOMEM;
    /* Trials beyond those of the descents. */
    if (!status) status = prefix_draw(cfg->c.seed, cfg->num_trials + index, PREFIX_SIGNS_RANDOM, cfg->sigma, W, signs, 1);
    if (!status) status = prefix_model_forward(W, signs, s->X, F, 1);
    if (!status) *out = frobenius(F) * frobenius(F) / DRAW_LEN;
    gsl_vector_free(signs);
    gsl_matrix_free(F);
    gsl_matrix_free(W);
    return status;
}

/* sum_ik of E F_k(x_i)^2 / m = e^{sigma^2 ||x||^2} (sigma^2 + 4 sigma^4 x_k^2), random signs. */
static double predicted_scale(const struct study *s)
{
    const double sigma2 = s->cfg->sigma * s->cfg->sigma;
    double sum = 0.0;
    for (size_t i = 0; i < s->X->size1; i++) {
        double square = 0.0;
        for (size_t k = 0; k < s->X->size2; k++) square += pow(gsl_matrix_get(s->X, i, k), 2.0);
        for (size_t k = 0; k < s->X->size2; k++)
            sum += exp(sigma2 * square) * (sigma2 + 4.0 * sigma2 * sigma2 * pow(gsl_matrix_get(s->X, i, k), 2.0));
    }
    return sum;
}

static int write_table(const struct study *s, struct interval scale)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "num_samples=%zu dim=%zu sigma=%.17g num_steps=%zu", s->X->size1, s->X->size2, cfg->sigma, cfg->num_steps);
    table_note(t, "after num_steps of size 1/(m lambda_max(K*)); drift: ||K(t)-K(0)||_F/||K(0)||_F; movement: of ||w_r(t)-w_r(0)||; "
                  "output_scale: sum F(0)^2 / m at m=%d, random signs; ci: 95%% Student t; empty cells: diverged", DRAW_LEN);
    for (size_t l = 0; l < cfg->num_laws; l++)
        for (size_t i = 0; i < cfg->num_lens; i++) {
            table_text(t, cli_sign_names[cfg->laws[l]]);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, cfg->num_trials);
            units_add_mean(t, &grid, l, i, RMS, true);
            units_add_mean(t, &grid, l, i, MAX, true);
            units_add_mean(t, &grid, l, i, DRIFT, true);
            units_add_mean(t, &grid, l, i, LOSS_RATIO, false);
            const bool random = cfg->laws[l] == PREFIX_SIGNS_RANDOM;
            table_num(t, random ? scale.value : NAN);
            table_num(t, random ? predicted_scale(s) : NAN);
            for (int which = RMS; which <= DRIFT; which++) table_num(t, units_exponent(&grid, l, which, 0.95).value);
            table_end_row(t);
        }
    return table_close(t, 0);
}

static int write_verdicts(const struct study *s, struct interval scale)
{
    const struct config *cfg = s->cfg;
    const struct units_grid grid = grid_of(s);
    if (!cfg->c.verdicts) return 0;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    for (size_t l = 0; l < cfg->num_laws; l++) {
        const struct interval rms = units_exponent(&grid, l, RMS, 0.999), max = units_exponent(&grid, l, MAX, 0.999);
        const struct interval drift = units_exponent(&grid, l, DRIFT, 0.999);
        switch (cfg->laws[l]) {
        case PREFIX_SIGNS_RANDOM:
            verdicts_add(v, "T6", "max-random", max);
            verdicts_add(v, "T6", "drift-random", drift);
            verdicts_add(v, "F21", "rms-random", rms);
            verdicts_add(v, "F21", "drift-random", drift);
            break;
        case PREFIX_SIGNS_MIRRORED:
            verdicts_add(v, "T6", "max-mirrored", max);
            verdicts_add(v, "T6", "drift-mirrored", drift);
            verdicts_add(v, "F21", "rms-mirrored", rms);
            verdicts_add(v, "F21", "drift-mirrored", drift);
            break;
        default:
            verdicts_add(v, "F22", "rms-positive", rms);
            verdicts_add(v, "F22", "drift-positive", drift);
        }
    }
    const double predicted = predicted_scale(s);
    verdicts_add(v, "F25", "random", (struct interval){ scale.value / predicted, scale.lo / predicted,
                                                        scale.hi / predicted, scale.n });
    return verdicts_close(v, 0);
}

int main(int argc, char **argv)
{
    static int default_laws[] = { PREFIX_SIGNS_RANDOM, PREFIX_SIGNS_POSITIVE, PREFIX_SIGNS_MIRRORED };
    static size_t default_lens[] = { 64, 256, 1024 };
    struct config cfg = { .samples = { .num_samples = 8, .dim = 8 }, .sigma = 0.5, .laws = default_laws, .num_laws = 3,
                          .prefix_lens = default_lens, .num_lens = 3, .num_trials = 8, .num_steps = 300, .num_draws = 200 };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    gsl_matrix *X = NULL, *Y = NULL, *K = NULL;
    gsl_vector *eigenvalues = NULL;
    double *draws = NULL;
    struct study s = { .cfg = &cfg };
    int code = samples_load(&cfg.c, &cfg.samples, 0, &X, &Y);
    if (code) return code;
    s.X = X;
    s.Y = Y;
    const size_t nd = X->size1 * X->size2, units = cfg.num_lens * cfg.num_laws * cfg.num_trials;
    size_t longest = DRAW_LEN;
    for (size_t i = 0; i < cfg.num_lens; i++) longest = cfg.prefix_lens[i] > longest ? cfg.prefix_lens[i] : longest;
    code = cli_memory(&cfg.c, (double)cfg.c.threads * (3.0 * (double)(nd * nd) + 4.0 * (double)(longest * X->size2)) * sizeof(double),
                      "the longest prefix");
    if (code) goto done;
    code = EXIT_FAILED;
    K = gsl_matrix_alloc(nd, nd);
    eigenvalues = gsl_vector_alloc(nd);
    draws = calloc(cfg.num_draws, sizeof *draws);
    if (!K || !eigenvalues || !draws) {
        cli_fail(&cfg.c, EXIT_FAILED, "out of memory");
        goto done;
    }
    for (int law = PREFIX_SIGNS_RANDOM; law <= PREFIX_SIGNS_MIRRORED; law++) {
        int status = ntk_limit(X, X, cfg.sigma, (enum prefix_signs)law, NTK_FULL, K);
        if (!status) status = ntk_eigenvalues(K, eigenvalues);
        if ((code = cli_status(&cfg.c, status, "limit kernel"))) goto done;
        s.rate[law] = 1.0 / gsl_vector_get(eigenvalues, nd - 1);
    }
    char *identity = cli_text("%016llx %016llx %.17g %zu %zu", (unsigned long long)cli_checksum(X),
                              (unsigned long long)cli_checksum(Y), cfg.sigma, cfg.num_steps, cfg.num_trials);
    identity = cli_text_sizes(identity, cfg.prefix_lens, cfg.num_lens);
    for (size_t l = 0; l < cfg.num_laws; l++) {
        const size_t law = (size_t)cfg.laws[l];
        identity = cli_text_sizes(identity, &law, 1);
    }
    code = EXIT_FAILED;
    s.work = identity ? units_open(&cfg.c, identity, "descents", units, NUM_RESULTS, 0.0) : NULL;
    free(identity);
    if (!s.work) goto done;
    /* The longest first. */
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
    for (size_t u = 0; u < units; u++) {
        double *row = units_begin(s.work, units - 1 - u);
        if (row) units_end(s.work, units - 1 - u, run_unit(&s, units - 1 - u, row));
    }
    code = units_status(s.work);
    /* The draws are quick and not remembered. */
    for (size_t i = 0; i < cfg.num_draws && !code; i++) {
        code = cli_status(&cfg.c, draw_scale(&s, i, &draws[i]), "initial outputs");
        if (!code && cli_interrupted()) code = cli_interrupted();
    }
    if (!code && cfg.samples.inputs_out) code = cli_write_matrix(&cfg.c, cfg.samples.inputs_out, X);
    if (!code) code = write_verdicts(&s, cli_mean(draws, cfg.num_draws, 0.999));
    if (!code) code = write_table(&s, cli_mean(draws, cfg.num_draws, 0.95));
    code = units_close(s.work, code);
done:
    free(draws);
    gsl_vector_free(eigenvalues);
    gsl_matrix_free(K);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
    return code;
}
