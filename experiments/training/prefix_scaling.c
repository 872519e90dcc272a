/* Trained prefixes on unseen points: distance to the kernel predictors, held-out loss by length (T13, T14, F29-F31). */
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/summary.h"
#include "cli/units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <gsl/gsl_blas.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "data/mnist.h"
#include "prefix_ntk/ntk_predict.h"
#include "prefix_ntk/prefix_descent.h"

static const char doc[] =
    "Prefixes of growing length trained by gradient descent: training loss after a fixed kernel time, loss on unseen points at "
    "the end, and distance there to the predictors of K* and H*.";
static const char columns[] =
    "signs,prefix_len,num_trials,train_fixed_mean,train_fixed_ci_lo,train_fixed_ci_hi,train_fixed_limit,loss_ratio_mean,"
    "num_steps_mean,heldout_mean,heldout_ci_lo,heldout_ci_hi,heldout_limit,accuracy_mean,accuracy_limit,distance_full_mean,"
    "distance_full_ci_lo,distance_full_ci_hi,distance_key_mean,distance_key_ci_lo,distance_key_ci_hi,law_amplitude,law_exponent";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma, stop_ratio;
    int *laws;
    size_t num_laws, *prefix_lens, num_lens, num_trials, num_steps, fixed_steps, num_test;
};

enum { KEY_SIGMA = 1, KEY_SIGNS, KEY_PREFIX_LEN, KEY_NUM_TRIALS, KEY_NUM_STEPS, KEY_FIXED_STEPS, KEY_STOP_RATIO, KEY_NUM_TEST };

static const struct argp_option options[] = {
    { "num-samples", SAMPLES_NUM, "N", 0, "training samples (default 8)", 0 },
    { "dim", SAMPLES_DIM, "D", 0, "their dimension (default 8)", 0 },
    { "dataset", SAMPLES_DATASET, "NAME", 0, "mnist: images by PCA to --dim, one-hot targets, held-out test images; default: a smooth teacher", 0 },
    { "num-test", KEY_NUM_TEST, "N", 0, "unseen points (default 64)", 0 },
    { "sigma", KEY_SIGMA, "S", 0, "standard deviation of a token's entries (default 1)", 1 },
    { "signs", KEY_SIGNS, "LIST", 0, "random, positive, mirrored (default mirrored,random)", 1 },
    { "prefix-len", KEY_PREFIX_LEN, "LIST", 0, "prefix lengths m, even (default 64,256,1024)", 1 },
    { "num-trials", KEY_NUM_TRIALS, "N", 0, "prefixes drawn; those of one trial are nested (default 6)", 1 },
    { "num-steps", KEY_NUM_STEPS, "T", 0, "steps at most, of size about 1/(m lambda_max(K(0))) (default 20000)", 1 },
    { "stop-ratio", KEY_STOP_RATIO, "Q", 0, "stop at this share of the initial loss (default 1e-12)", 1 },
    { "fixed-steps", KEY_FIXED_STEPS, "T", 0, "the fixed kernel time, in units of 1/lambda_max(K*) (default 50)", 1 },
    CLI_SHARD_OPTION,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_SIGMA: return cli_parse_double(state, key, arg, 0.0, &cfg->sigma);
    case KEY_SIGNS: return cli_parse_choice_list(state, key, arg, cli_sign_names, &cfg->laws, &cfg->num_laws);
    case KEY_PREFIX_LEN: return cli_parse_size_list(state, key, arg, 2, 1u << 24, &cfg->prefix_lens, &cfg->num_lens);
    case KEY_NUM_TRIALS: return cli_parse_size(state, key, arg, 1, 1u << 20, &cfg->num_trials);
    case KEY_NUM_STEPS: return cli_parse_size(state, key, arg, 1, (size_t)1 << 40, &cfg->num_steps);
    case KEY_FIXED_STEPS: return cli_parse_size(state, key, arg, 1, 1u << 30, &cfg->fixed_steps);
    case KEY_STOP_RATIO: return cli_parse_double(state, key, arg, 0.0, &cfg->stop_ratio);
    case KEY_NUM_TEST: return cli_parse_size(state, key, arg, 1, 10000, &cfg->num_test);
    default: return samples_parse(&cfg->samples, key, arg, state);
    }
}

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t i = 0; i < cfg->num_lens; i++) {
        if (cfg->prefix_lens[i] % 2) return "--prefix-len: lengths must be even";
        if (i && cfg->prefix_lens[i] <= cfg->prefix_lens[i - 1]) return "--prefix-len: values must ascend";
    }
    return samples_check(&cfg->samples, true);
}

enum { TRAIN_FIXED, LOSS_RATIO, STEPS, HELDOUT, ACCURACY, DISTANCE_FULL, DISTANCE_KEY, NUM_RESULTS };

struct study {
    const struct config *cfg;
    gsl_matrix *X, *Y, *X_at, *Y_at;
    /* Per law: K*(X_at, X), the spectrum of K*(X, X), the predictions of K* and H* from F(0) = 0. */
    struct { gsl_matrix *K_at; struct prefix_linear *spectrum; double train_fixed, heldout, accuracy; } limit[3];
    struct units *work;
};

static const double *result_of(const struct study *s, size_t law, size_t len, size_t trial)
{
    return units_row(s->work, (len * s->cfg->num_laws + law) * s->cfg->num_trials + trial);
}

/* F = F0_at + K*(x,X) U [(1 - (1 - rate lambda)^steps) / lambda] U' (Y - F0): the K*
 * dynamics after `steps`; infinitely many give the predictor. */
static int predict_after(const struct study *s, enum prefix_signs law, const gsl_matrix *F0, const gsl_matrix *F0_at,
                         double rate, double steps, gsl_matrix *F)
{
    const struct prefix_linear *spectrum = s->limit[law].spectrum;
    const size_t nd = spectrum->size;
    gsl_vector *rest = gsl_vector_alloc(nd), *along = gsl_vector_alloc(nd);
    const int status = rest && along ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) {
        for (size_t i = 0; i < nd; i++) gsl_vector_set(rest, i, s->Y->data[i] - (F0 ? F0->data[i] : 0.0));
        gsl_blas_dgemv(CblasTrans, 1.0, spectrum->vectors, rest, 0.0, along);
        for (size_t j = 0; j < nd; j++) {
            const double lambda = spectrum->eigenvalues[j];
            const double learned = isfinite(steps) ? 1.0 - pow(1.0 - rate * lambda, steps) : 1.0;
            *gsl_vector_ptr(along, j) *= learned / lambda;
        }
        gsl_blas_dgemv(CblasNoTrans, 1.0, spectrum->vectors, along, 0.0, rest);
        gsl_vector_view f = gsl_vector_view_array(F->data, F->size1 * F->size2);
        if (F0_at) gsl_matrix_memcpy(F, F0_at);
        else gsl_matrix_set_zero(F);
        gsl_blas_dgemv(CblasNoTrans, 1.0, s->limit[law].K_at, rest, 1.0, &f.vector);
    }
    gsl_vector_free(rest);
    gsl_vector_free(along);
    return status;
}

/* ||A - B||_F^2; B = NULL: ||A||_F^2. */
static double squared(const gsl_matrix *A, const gsl_matrix *B)
{
    double sum = 0.0;
    for (size_t i = 0; i < A->size1 * A->size2; i++) {
        const double x = A->data[i] - (B ? B->data[i] : 0.0);
        sum += x * x;
    }
    return sum;
}

/* Share of rows whose largest output is that of the target. */
static double accuracy(const gsl_matrix *F, const gsl_matrix *Y)
{
    double right = 0.0;
    for (size_t i = 0; i < F->size1; i++) {
        gsl_vector_const_view f = gsl_matrix_const_row(F, i), y = gsl_matrix_const_row(Y, i);
        right += gsl_vector_max_index(&f.vector) == gsl_vector_max_index(&y.vector);
    }
    return right / (double)F->size1;
}

static int run_unit(const struct study *s, size_t index, double *out)
{
    const struct config *cfg = s->cfg;
    const size_t trial = index % cfg->num_trials, m = cfg->prefix_lens[index / cfg->num_trials / cfg->num_laws];
    const enum prefix_signs law = (enum prefix_signs)cfg->laws[index / cfg->num_trials % cfg->num_laws];
    const size_t n = s->X->size1, d = s->X->size2, nd = n * d, n_at = s->X_at->size1;
    gsl_matrix *W = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(nd, nd), *F0 = gsl_matrix_alloc(n, d);
    gsl_matrix *F0_at = gsl_matrix_alloc(n_at, d), *F = gsl_matrix_alloc(n_at, d), *f = gsl_matrix_alloc(n_at, d);
    gsl_vector *signs = gsl_vector_alloc(m), *eigenvalues = gsl_vector_alloc(nd);
    struct prefix_descent *descent = NULL;
    for (int c = 0; c < NUM_RESULTS; c++) out[c] = NAN;
    int status = W && K && F0 && F0_at && F && f && signs && eigenvalues ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg->c.seed, trial, law, cfg->sigma, W, signs, 1);
    if (!status) status = ntk_gram(W, signs, s->X, NTK_FULL, K, 1);
    if (!status) status = ntk_eigenvalues(K, eigenvalues);
    if (!status) status = prefix_descent_alloc(W, signs, s->X, NULL, s->Y, 1, &descent);
    if (!status) status = prefix_model_forward(W, signs, s->X_at, F0_at, 1);
    if (status) goto done;
    gsl_matrix_memcpy(F0, prefix_descent_outputs(descent));
    /* A whole number of steps to the fixed kernel time, none longer than 1/(m lambda_max(K(0))). */
    const double limit_max = s->limit[law].spectrum->eigenvalues[nd - 1], time = (double)cfg->fixed_steps / limit_max;
    const double fixed = ceil(time * fmax(gsl_vector_get(eigenvalues, nd - 1), limit_max)), rate = time / fixed;
    const double start = prefix_descent_loss(descent);
    double step = 0.0;
    bool diverged = false;
    while (!diverged && step < (double)cfg->num_steps && (step < fixed || prefix_descent_loss(descent) > cfg->stop_ratio * start)) {
        diverged = prefix_descent_step(descent, rate / (double)m) != GSL_SUCCESS;
        step += 1.0;
        if (step == fixed && !diverged) out[TRAIN_FIXED] = prefix_descent_loss(descent) / (double)n;
        if (cli_interrupted()) { status = GSL_FAILURE; goto done; }
    }
    out[STEPS] = step;
    if (diverged) goto done;
    out[LOSS_RATIO] = prefix_descent_loss(descent) / start;
    if ((status = prefix_model_forward(prefix_descent_prefix(descent), signs, s->X_at, F, 1))) goto done;
    out[HELDOUT] = 0.5 * squared(F, s->Y_at) / (double)n_at;
    out[ACCURACY] = accuracy(F, s->Y_at);
    if ((status = predict_after(s, law, F0, F0_at, rate, step, f))) goto done;
    out[DISTANCE_FULL] = sqrt(squared(F, f) / squared(f, NULL));
    if ((status = ntk_predict(s->X, s->Y, s->X_at, cfg->sigma, law, NTK_KEY, F0, F0_at, f, NULL))) goto done;
    out[DISTANCE_KEY] = sqrt(squared(F, f) / squared(f, NULL));
done:
    prefix_descent_free(descent);
    gsl_vector_free(eigenvalues);
    gsl_vector_free(signs);
    gsl_matrix_free(f);
    gsl_matrix_free(F);
    gsl_matrix_free(F0_at);
    gsl_matrix_free(F0);
    gsl_matrix_free(K);
    gsl_matrix_free(W);
    return status;
}

/* y = tanh(2 A x) / sqrt(d), A Gaussian: smooth, of norm at most 1. */
static int teach(const struct config *cfg, const gsl_matrix *X, gsl_matrix *Y)
{
    const size_t d = X->size2;
    gsl_matrix *A = gsl_matrix_alloc(d, d);
    if (!A) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    random_normal(cfg->c.seed, RANDOM_WEIGHTS, 0, 0, A->data, d * d);
    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 2.0, X, A, 0.0, Y);
    for (size_t i = 0; i < Y->size1 * d; i++) Y->data[i] = tanh(Y->data[i]) / sqrt((double)d);
    gsl_matrix_free(A);
    return 0;
}

static int load(struct study *s)
{
    const struct config *cfg = s->cfg;
    if (cfg->samples.dataset) {
        char why[512] = "";
        const int status = mnist_load(cfg->samples.num_samples, cfg->num_test, cfg->samples.dim, cfg->c.seed, &s->X, &s->Y, &s->X_at,
                                      &s->Y_at, why, sizeof why);
        return status ? cli_fail(&cfg->c, status == GSL_ENOMEM ? EXIT_FAILED : EXIT_DATA, "%s", why) : 0;
    }
    const size_t n = cfg->samples.num_samples, d = cfg->samples.dim;
    s->X = gsl_matrix_alloc(n, d);
    s->Y = gsl_matrix_alloc(n, d);
    s->X_at = gsl_matrix_alloc(cfg->num_test, d);
    s->Y_at = gsl_matrix_alloc(cfg->num_test, d);
    if (!s->X || !s->Y || !s->X_at || !s->Y_at) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, 0, 0, s->X);
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, 0, n, s->X_at);
    const int code = teach(cfg, s->X, s->Y);
    return code ? code : teach(cfg, s->X_at, s->Y_at);
}

/* The limits of each law in use; exit code. */
static int fill_limits(struct study *s)
{
    const struct config *cfg = s->cfg;
    const size_t nd = s->X->size1 * s->X->size2, at_d = s->X_at->size1 * s->X_at->size2;
    gsl_matrix *K = gsl_matrix_alloc(nd, nd), *f = gsl_matrix_alloc(s->X_at->size1, s->X_at->size2);
    int status = K && f ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t l = 0; l < cfg->num_laws && !status; l++) {
        const enum prefix_signs law = (enum prefix_signs)cfg->laws[l];
        if (s->limit[law].K_at) continue;
        if (!(s->limit[law].K_at = gsl_matrix_alloc(at_d, nd))) { status = GSL_ENOMEM; break; }
        status = ntk_limit(s->X, s->X, cfg->sigma, law, NTK_FULL, K);
        if (!status) status = ntk_limit(s->X_at, s->X, cfg->sigma, law, NTK_FULL, s->limit[law].K_at);
        if (!status) status = prefix_linear_alloc(K, s->Y, &s->limit[law].spectrum);
        if (status) break;
        /* From F(0) = 0, as mirrored signs start. */
        const double rate = 1.0 / s->limit[law].spectrum->eigenvalues[nd - 1];
        s->limit[law].train_fixed = prefix_linear_loss(s->limit[law].spectrum, rate, (double)cfg->fixed_steps) / (double)s->X->size1;
        const double steps = prefix_linear_steps(s->limit[law].spectrum, rate, cfg->stop_ratio * prefix_linear_loss(s->limit[law].spectrum, rate, 0.0));
        status = predict_after(s, law, NULL, NULL, rate, fmin(steps, (double)cfg->num_steps), f);
        s->limit[law].heldout = 0.5 * squared(f, s->Y_at) / (double)f->size1;
        s->limit[law].accuracy = accuracy(f, s->Y_at);
    }
    gsl_matrix_free(K);
    gsl_matrix_free(f);
    return cli_status(&cfg->c, status, "limit kernel");
}

/* Result `which` of the trials of a law and length. */
static struct interval mean_of(const struct study *s, size_t law, size_t len, int which, double level, double *scratch)
{
    for (size_t t = 0; t < s->cfg->num_trials; t++) scratch[t] = result_of(s, law, len, t)[which];
    return cli_mean(scratch, s->cfg->num_trials, level);
}

/* Mean held-out loss = limit + amplitude m^exponent, by least squares of the log excess
 * over the lengths where it is positive. */
static void fit_law(const struct study *s, size_t law, double limit, double *amplitude, double *exponent, double *scratch)
{
    double count = 0.0, sx = 0.0, sy = 0.0, sxx = 0.0, sxy = 0.0;
    for (size_t i = 0; i < s->cfg->num_lens; i++) {
        const double excess = mean_of(s, law, i, HELDOUT, 0.95, scratch).value - limit;
        if (!(excess > 0.0)) continue;
        const double x = log((double)s->cfg->prefix_lens[i]), y = log(excess);
        count += 1.0;
        sx += x;
        sy += y;
        sxx += x * x;
        sxy += x * y;
    }
    const double spread = sxx - sx * sx / count;
    *exponent = count > 1.0 ? (sxy - sx * sy / count) / spread : NAN;
    *amplitude = exp((sy - *exponent * sx) / count);
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) { free(x); return EXIT_FAILED; }
    table_note(t, "dataset=%s num_samples=%zu dim=%zu num_test=%zu sigma=%.17g", cfg->samples.dataset ? cfg->samples.dataset : "teacher",
               s->X->size1, s->X->size2, s->X_at->size1, cfg->sigma);
    table_note(t, "losses per point; train_fixed: after kernel time %zu/lambda_max(K*); heldout, accuracy, distance: at the end, on unseen "
                  "points; limit: of the K* dynamics from F(0)=0; distance: ||F-f||_F/||f||_F to the predictor of K* (full), of H* (key), "
                  "each with the term of F(0); law: heldout_mean = heldout_limit + amplitude m^exponent; ci: 95%% Student t", cfg->fixed_steps);
    for (size_t l = 0; l < cfg->num_laws; l++) {
        double amplitude, exponent;
        const enum prefix_signs law = (enum prefix_signs)cfg->laws[l];
        fit_law(s, l, s->limit[law].heldout, &amplitude, &exponent, x);
        for (size_t i = 0; i < cfg->num_lens; i++) {
            const struct interval train = mean_of(s, l, i, TRAIN_FIXED, 0.95, x), heldout = mean_of(s, l, i, HELDOUT, 0.95, x);
            const struct interval full = mean_of(s, l, i, DISTANCE_FULL, 0.95, x), key = mean_of(s, l, i, DISTANCE_KEY, 0.95, x);
            const double cells[] = {
                train.value, train.lo, train.hi, s->limit[law].train_fixed, mean_of(s, l, i, LOSS_RATIO, 0.95, x).value,
                mean_of(s, l, i, STEPS, 0.95, x).value, heldout.value, heldout.lo, heldout.hi, s->limit[law].heldout,
                cfg->samples.dataset ? mean_of(s, l, i, ACCURACY, 0.95, x).value : NAN, cfg->samples.dataset ? s->limit[law].accuracy : NAN,
                full.value, full.lo, full.hi, key.value, key.lo, key.hi, amplitude, exponent };
            table_text(t, cli_sign_names[law]);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, cfg->num_trials);
            for (size_t c = 0; c < sizeof cells / sizeof *cells; c++) table_num(t, cells[c]);
            table_end_row(t);
        }
    }
    free(x);
    return table_close(t, 0);
}

/* Exponent in m of result `which` to the power `power`. */
static struct interval exponent_of(const struct study *s, size_t law, int which, double power)
{
    const struct config *cfg = s->cfg;
    struct interval slope = { NAN, NAN, NAN, cfg->num_trials };
    double *x = cli_need(malloc(cfg->num_lens * sizeof *x));
    double *y = cli_need(malloc(cfg->num_trials * cfg->num_lens * sizeof *y));
    for (size_t i = 0; i < cfg->num_lens && x && y; i++) {
        x[i] = (double)cfg->prefix_lens[i];
        for (size_t t = 0; t < cfg->num_trials; t++) y[t * cfg->num_lens + i] = pow(result_of(s, law, i, t)[which], power);
    }
    if (x && y) slope = cli_exponent(x, y, cfg->num_lens, cfg->num_trials, 0.999);
    free(y);
    free(x);
    return slope;
}

static int write_verdicts(const struct study *s)
{
    const struct config *cfg = s->cfg;
    if (!cfg->c.verdicts) return 0;
    char stem[256];
    cli_stem(&cfg->c, stem, sizeof stem);
    double *x = cli_need(malloc(cfg->num_trials * sizeof *x));
    if (!x) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    struct verdicts *v = verdicts_open(&cfg->c, stem);
    const size_t last = cfg->num_lens - 1;
    for (size_t l = 0; l < cfg->num_laws; l++) {
        const struct interval heldout = exponent_of(s, l, HELDOUT, 1.0);
        if (cfg->samples.dataset) {
            if (cfg->laws[l] == PREFIX_SIGNS_MIRRORED) verdicts_add(v, "T14", "mnist-heldout-mirrored", heldout);
            if (cfg->laws[l] == PREFIX_SIGNS_RANDOM) verdicts_add(v, "T14", "mnist-heldout-random", heldout);
            continue;
        }
        if (cfg->laws[l] == PREFIX_SIGNS_MIRRORED) {
            verdicts_add(v, "T13", "mirrored-slope", exponent_of(s, l, DISTANCE_FULL, 1.0));
            verdicts_add(v, "T13", "mirrored-distance", mean_of(s, l, last, DISTANCE_FULL, 0.999, x));
            verdicts_add(v, "T14", "train-mirrored", exponent_of(s, l, TRAIN_FIXED, 1.0));
            verdicts_add(v, "T14", "heldout-mirrored", heldout);
            verdicts_add(v, "F29", "distance", mean_of(s, l, last, DISTANCE_KEY, 0.999, x));
            verdicts_add(v, "F31", "exponent", exponent_of(s, l, DISTANCE_FULL, 2.0));
        } else if (cfg->laws[l] == PREFIX_SIGNS_RANDOM) {
            verdicts_add(v, "T13", "random-slope", exponent_of(s, l, DISTANCE_FULL, 1.0));
            verdicts_add(v, "T14", "train-random", exponent_of(s, l, TRAIN_FIXED, 1.0));
            verdicts_add(v, "T14", "heldout-random", heldout);
            verdicts_add(v, "F30", "exponent", heldout);
        }
    }
    free(x);
    return verdicts_close(v, 0);
}

int main(int argc, char **argv)
{
    static int default_laws[] = { PREFIX_SIGNS_MIRRORED, PREFIX_SIGNS_RANDOM };
    static size_t default_lens[] = { 64, 256, 1024 };
    struct config cfg = { .samples = { .num_samples = 8, .dim = 8 }, .sigma = 1.0, .stop_ratio = 1e-12, .laws = default_laws,
                          .num_laws = 2, .prefix_lens = default_lens, .num_lens = 3, .num_trials = 6, .num_steps = 20000,
                          .fixed_steps = 50, .num_test = 64 };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    struct study s = { .cfg = &cfg };
    const double nd = (double)(cfg.samples.num_samples * cfg.samples.dim), at_d = (double)(cfg.num_test * cfg.samples.dim);
    const double longest = (double)cfg.prefix_lens[cfg.num_lens - 1] * (double)cfg.samples.dim;
    int code = cli_memory(&cfg.c, sizeof(double) * (3.0 * (nd * nd + nd * at_d) + (double)cfg.c.threads * (6.0 * nd * nd + nd * at_d + 4.0 * longest)),
                          "the kernels");
    if (!code) code = load(&s);
    if (!code) code = fill_limits(&s);
    if (!code) {
        char *identity = cli_text("%016llx %016llx %016llx %.17g %.17g %zu %zu %zu |", (unsigned long long)cli_checksum(s.X),
                                  (unsigned long long)cli_checksum(s.Y), (unsigned long long)cli_checksum(s.X_at), cfg.sigma,
                                  cfg.stop_ratio, cfg.num_steps, cfg.fixed_steps, cfg.num_trials);
        identity = cli_text_sizes(identity, cfg.prefix_lens, cfg.num_lens);
        for (size_t l = 0; l < cfg.num_laws; l++) {
            const size_t law = (size_t)cfg.laws[l];
            identity = cli_text_sizes(identity, &law, 1);
        }
        const size_t units = cfg.num_lens * cfg.num_laws * cfg.num_trials;
        s.work = identity ? units_open(&cfg.c, identity, "descents", units, NUM_RESULTS, 0.0) : NULL;
        free(identity);
        if (s.work) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg.c.threads)
            for (size_t u = 0; u < units; u++) {
                double *row = units_begin(s.work, units - 1 - u);
                if (row) units_end(s.work, units - 1 - u, run_unit(&s, units - 1 - u, row));
            }
            code = units_status(s.work);
            if (!code) code = write_verdicts(&s);
            if (!code) code = write_table(&s);
        }
        code = units_close(s.work, code);
    }
    for (int law = 0; law < 3; law++) {
        gsl_matrix_free(s.limit[law].K_at);
        prefix_linear_free(s.limit[law].spectrum);
    }
    gsl_matrix_free(s.X);
    gsl_matrix_free(s.Y);
    gsl_matrix_free(s.X_at);
    gsl_matrix_free(s.Y_at);
    return code;
}
