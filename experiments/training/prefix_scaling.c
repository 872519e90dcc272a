/* Trained prefixes on unseen points: distance to the kernel predictors, held-out loss by length (T13, T14, F29-F31). */
#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/samples.h"
#include "cli/option_table.h"
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

static const char doc[] = "Prefixes of growing length trained by gradient descent: training loss after a fixed kernel "
                          "time, loss on unseen points at "
                          "the end, and distance there to the predictors of K* and H* at the same kernel time.";
static const char columns[] =
    "signs,prefix_len,num_data,num_trials,train_fixed_mean,train_fixed_ci_lo,train_fixed_ci_hi,train_fixed_limit,"
    "train_relative_mean,"
    "loss_ratio_mean,reached,num_steps_mean,heldout_mean,heldout_ci_lo,heldout_ci_hi,heldout_limit,"
    "heldout_relative_mean,accuracy_mean,"
    "accuracy_limit,distance_full_mean,distance_full_ci_lo,distance_full_ci_hi,distance_key_mean,distance_key_ci_lo,"
    "distance_key_ci_hi,"
    "law_amplitude,law_exponent";

struct config {
    struct cli_common c;
    struct samples_options samples;
    double sigma, stop_ratio;
    int *laws;
    size_t num_laws, *prefix_lens, num_lens, num_data, num_trials, num_steps, fixed_steps, num_test;
    bool tables;
};

static const struct cli_option options[] = {
    { "num-samples", CLI_SIZE(struct config, samples.num_samples), .min = 1, .max = 1u << 20, .value = "8",
      .doc = "training samples", .same_units = true },
    { "dim", CLI_SIZE(struct config, samples.dim), .min = 1, .max = 1u << 16, .value = "8", .arg = "D",
      .doc = "their dimension", .same_units = true },
    { "dataset", CLI_NAME(struct config, samples.dataset), .names = samples_datasets,
      .doc = "mnist: images by PCA to --dim, one-hot targets, held-out test images; default: a smooth teacher",
      .same_units = true },
    { "num-test", CLI_SIZE(struct config, num_test), .min = 1, .max = 10000, .value = "64", .doc = "unseen points" },
    KERNEL_SIGMA(struct config, "1"),
    KERNEL_SIGNS(struct config, "mirrored,random"),
    { "prefix-len", CLI_SIZES(struct config, prefix_lens, num_lens), .min = 2, .max = 1u << 24,
      .value = "64,256,1024", .group = 1, .doc = "prefix lengths m, even" },
    DATA_SETS_NUM(struct config, "1", "data sets drawn, each with a teacher or images of its own"),
    { "num-trials", CLI_SIZE(struct config, num_trials), .min = 1, .max = 1u << 20, .value = "6", .group = 1,
      .doc = "prefixes drawn for each data set; those of one trial are nested" },
    { "num-steps", CLI_SIZE(struct config, num_steps), .min = 1, .max = (size_t)1 << 40, .value = "20000",
      .arg = "T", .group = 1,
      .doc = "steps at most beyond the fixed kernel time, of size about 1/(m lambda_max(K(0)))" },
    { "stop-ratio", CLI_DOUBLE(struct config, stop_ratio), .value = "1e-12", .arg = "Q", .group = 1,
      .doc = "stop at this share of the initial loss" },
    { "fixed-steps", CLI_SIZE(struct config, fixed_steps), .min = 1, .max = 1u << 30, .value = "50", .arg = "T",
      .group = 1, .doc = "the fixed kernel time, in units of 1/lambda_max(K*)" },
    DATA_SETS_TABLES(struct config, "data sets"),
    { .name = NULL }
};
static const struct argp_option shard[] = { CLI_SHARD_OPTION, { 0 } };

static const char *check(void *config)
{
    const struct config *cfg = config;
    for (size_t i = 0; i < cfg->num_lens; i++) {
        if (cfg->prefix_lens[i] % 2) return "--prefix-len: lengths must be even";
        if (i && cfg->prefix_lens[i] <= cfg->prefix_lens[i - 1]) return "--prefix-len: values must ascend";
    }
    return samples_check(&cfg->samples, true);
}

enum {
    TRAIN_FIXED,
    TRAIN_RELATIVE,
    LOSS_RATIO,
    STEPS,
    HELDOUT,
    HELDOUT_RELATIVE,
    ACCURACY,
    DISTANCE_FULL,
    DISTANCE_KEY,
    NUM_RESULTS
};

/* A data set, and for each law in use: K*(X_at, X), the spectrum of K*(X, X), both for K* and H*; what the K* dynamics
 * give from F(0) = 0. */
struct data {
    gsl_matrix *X, *Y, *X_at, *Y_at;
    struct { gsl_matrix *K_at[2]; struct prefix_linear *spectrum[2]; double train_fixed, heldout, accuracy; } limit[3];
};

struct study {
    const struct config *cfg;
    struct data *data;
    struct units *work;             /* (num_lens, num_laws, num_data, num_trials) */
};

static size_t num_trials(const struct config *cfg) { return cfg->num_data * cfg->num_trials; }

static const double *result_of(const struct study *s, size_t law, size_t len, size_t trial)
{
    return units_row(s->work, (len * s->cfg->num_laws + law) * num_trials(s->cfg) + trial);
}

/* F = F0_at + K*(x,X) U [(1 - (1 - rate lambda)^steps) / lambda] U' (Y - F0): the dynamics of K* (or H*)
 * after `steps`; infinitely many give the predictor. */
static int predict_after(const struct data *data, enum prefix_signs law, enum ntk_kernel kernel, const gsl_matrix *F0,
                         const gsl_matrix *F0_at, double rate, double steps, gsl_matrix *F)
{
    const struct prefix_linear *spectrum = data->limit[law].spectrum[kernel];
    const size_t nd = spectrum->size;
    gsl_vector *rest = gsl_vector_alloc(nd), *along = gsl_vector_alloc(nd);
    const int status = rest && along ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) {
        for (size_t i = 0; i < nd; i++) gsl_vector_set(rest, i, data->Y->data[i] - (F0 ? F0->data[i] : 0.0));
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
        gsl_blas_dgemv(CblasNoTrans, 1.0, data->limit[law].K_at[kernel], rest, 1.0, &f.vector);
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

static int run_unit(const void *context, size_t index, double *out)
{
    const struct study *s = context;
    const struct config *cfg = s->cfg;
    const size_t trial = index % num_trials(cfg), m = cfg->prefix_lens[index / num_trials(cfg) / cfg->num_laws];
    const enum prefix_signs law = (enum prefix_signs)cfg->laws[index / num_trials(cfg) % cfg->num_laws];
    const struct data *data = &s->data[trial / cfg->num_trials];
    const size_t n = data->X->size1, d = data->X->size2, nd = n * d, n_at = data->X_at->size1;
    gsl_matrix *W = gsl_matrix_alloc(m, d), *K = gsl_matrix_alloc(nd, nd), *F0 = gsl_matrix_alloc(n, d);
    gsl_matrix *F0_at = gsl_matrix_alloc(n_at, d), *F = gsl_matrix_alloc(n_at, d), *f = gsl_matrix_alloc(n_at, d);
    gsl_vector *signs = gsl_vector_alloc(m), *eigenvalues = gsl_vector_alloc(nd);
    struct prefix_descent *descent = NULL;
    for (int c = 0; c < NUM_RESULTS; c++) out[c] = NAN;
    int status = W && K && F0 && F0_at && F && f && signs && eigenvalues ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) status = prefix_draw(cfg->c.seed, trial, law, cfg->sigma, W, signs, 1);
    if (!status) status = ntk_gram(W, signs, data->X, NTK_FULL, K, 1);
    if (!status) status = ntk_eigenvalues(K, eigenvalues);
    if (!status) status = prefix_descent_alloc(W, signs, data->X, NULL, data->Y, 1, &descent);
    if (!status) status = prefix_model_forward(W, signs, data->X_at, F0_at, 1);
    if (status) goto done;
    gsl_matrix_memcpy(F0, prefix_descent_outputs(descent));
    /* A whole number of steps to the fixed kernel time, none longer than 1/(m lambda_max(K(0))). */
    const double limit_max = data->limit[law].spectrum[NTK_FULL]->eigenvalues[nd - 1],
                 time = (double)cfg->fixed_steps / limit_max;
    const double fixed = ceil(time * fmax(gsl_vector_get(eigenvalues, nd - 1), limit_max)), rate = time / fixed;
    const double start = prefix_descent_loss(descent);
    double step = 0.0;
    bool diverged = false;
    while (!diverged
           && (step < fixed
               || (step < (double)cfg->num_steps && prefix_descent_loss(descent) > cfg->stop_ratio * start))) {
        diverged = prefix_descent_step(descent, rate / (double)m) != GSL_SUCCESS;
        step += 1.0;
        if (step == fixed && !diverged) {
            out[TRAIN_FIXED] = prefix_descent_loss(descent) / (double)n;
            out[TRAIN_RELATIVE] = prefix_descent_loss(descent) / start;
        }
        if (cli_interrupted()) { status = GSL_FAILURE; goto done; }
    }
    out[STEPS] = step;
    if (diverged) goto done;
    out[LOSS_RATIO] = prefix_descent_loss(descent) / start;
    if ((status = prefix_model_forward(prefix_descent_prefix(descent), signs, data->X_at, F, 1))) goto done;
    out[HELDOUT] = 0.5 * squared(F, data->Y_at) / (double)n_at;
    out[HELDOUT_RELATIVE] = squared(F, data->Y_at) / squared(F0_at, data->Y_at);
    out[ACCURACY] = accuracy(F, data->Y_at);
    for (int kernel = NTK_FULL; kernel <= NTK_KEY; kernel++) {
        if ((status = predict_after(data, law, (enum ntk_kernel)kernel, F0, F0_at, rate, step, f))) goto done;
        out[kernel == NTK_FULL ? DISTANCE_FULL : DISTANCE_KEY] = sqrt(squared(F, f) / squared(f, NULL));
    }
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
static int teach(const struct config *cfg, size_t teacher, const gsl_matrix *X, gsl_matrix *Y)
{
    const size_t d = X->size2;
    gsl_matrix *A = gsl_matrix_alloc(d, d);
    if (!A) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    random_normal(cfg->c.seed, RANDOM_WEIGHTS, teacher, 0, A->data, d * d);
    gsl_blas_dgemm(CblasNoTrans, CblasTrans, 2.0, X, A, 0.0, Y);
    for (size_t i = 0; i < Y->size1 * d; i++) Y->data[i] = tanh(Y->data[i]) / sqrt((double)d);
    gsl_matrix_free(A);
    return 0;
}

static int load(const struct config *cfg, size_t which, struct data *data)
{
    if (cfg->samples.dataset) {
        char why[512] = "";
        const int status =
            mnist_load(cfg->samples.num_samples, cfg->num_test, cfg->samples.dim, samples_mnist_seed(&cfg->c, which),
                       &data->X, &data->Y, &data->X_at, &data->Y_at, why, sizeof why);
        return status ? cli_fail(&cfg->c, status == GSL_ENOMEM ? EXIT_FAILED : EXIT_DATA, "%s", why) : 0;
    }
    const size_t n = cfg->samples.num_samples, d = cfg->samples.dim;
    data->X = gsl_matrix_alloc(n, d);
    data->Y = gsl_matrix_alloc(n, d);
    data->X_at = gsl_matrix_alloc(cfg->num_test, d);
    data->Y_at = gsl_matrix_alloc(cfg->num_test, d);
    if (!data->X || !data->Y || !data->X_at || !data->Y_at) return cli_fail(&cfg->c, EXIT_FAILED, "out of memory");
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, which, 0, data->X);
    samples_sphere(cfg->c.seed, RANDOM_INPUTS, which, n, data->X_at);
    const int code = teach(cfg, which, data->X, data->Y);
    return code ? code : teach(cfg, which, data->X_at, data->Y_at);
}

/* The limits of each law in use; exit code. */
static int fill_limits(const struct config *cfg, struct data *data)
{
    const size_t nd = data->X->size1 * data->X->size2, at_d = data->X_at->size1 * data->X_at->size2;
    gsl_matrix *K = gsl_matrix_alloc(nd, nd), *f = gsl_matrix_alloc(data->X_at->size1, data->X_at->size2);
    int status = K && f ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t l = 0; l < cfg->num_laws && !status; l++) {
        const enum prefix_signs law = (enum prefix_signs)cfg->laws[l];
        if (data->limit[law].K_at[NTK_FULL]) continue;
        for (int which = NTK_FULL; which <= NTK_KEY && !status; which++) {
            const enum ntk_kernel kernel = (enum ntk_kernel)which;
            if (!(data->limit[law].K_at[kernel] = gsl_matrix_alloc(at_d, nd))) { status = GSL_ENOMEM; break; }
            status = ntk_limit(data->X, data->X, cfg->sigma, law, kernel, K);
            if (!status)
                status = ntk_limit(data->X_at, data->X, cfg->sigma, law, kernel, data->limit[law].K_at[kernel]);
            if (!status) status = prefix_linear_alloc(K, data->Y, &data->limit[law].spectrum[kernel]);
        }
        if (status) break;
        /* From F(0) = 0, as mirrored signs start. */
        const struct prefix_linear *spectrum = data->limit[law].spectrum[NTK_FULL];
        const double rate = 1.0 / spectrum->eigenvalues[nd - 1];
        data->limit[law].train_fixed =
            prefix_linear_loss(spectrum, rate, (double)cfg->fixed_steps) / (double)data->X->size1;
        const double steps =
            prefix_linear_steps(spectrum, rate, cfg->stop_ratio * prefix_linear_loss(spectrum, rate, 0.0));
        status = predict_after(data, law, NTK_FULL, NULL, NULL, rate, fmin(steps, (double)cfg->num_steps), f);
        data->limit[law].heldout = 0.5 * squared(f, data->Y_at) / (double)f->size1;
        data->limit[law].accuracy = accuracy(f, data->Y_at);
    }
    gsl_matrix_free(K);
    gsl_matrix_free(f);
    return cli_status(&cfg->c, status, "limit kernel");
}

static struct data_sets sets_of(const struct config *cfg)
{ return (struct data_sets) { cfg->num_data, cfg->num_trials }; }

/* Result `which` of the trials of a law and length, over data sets. */
static struct data_spread mean_of(const struct study *s, size_t law, size_t len, int which, double level)
{
    double *x = cli_need(malloc(num_trials(s->cfg) * sizeof *x));
    for (size_t t = 0; t < num_trials(s->cfg); t++) x[t] = result_of(s, law, len, t)[which];
    const struct data_spread spread = data_spread_mean(x, sets_of(s->cfg), level);
    free(x);
    return spread;
}

/* Mean over the data sets of the held-out loss above that of the K* dynamics, one data set left out (num_data: none).
 */
static double excess_of(const struct study *s, size_t law, size_t len, size_t without)
{
    const struct config *cfg = s->cfg;
    double sum = 0.0, count = 0.0;
    for (size_t t = 0; t < num_trials(cfg); t++) {
        if (t / cfg->num_trials == without) continue;
        sum += result_of(s, law, len, t)[HELDOUT] - s->data[t / cfg->num_trials].limit[cfg->laws[law]].heldout;
        count += 1.0;
    }
    return sum / count;
}

/* Mean excess = amplitude m^exponent, by least squares of its logarithm over the lengths; NaN where an excess is not
 * positive. */
static void fit_law(const struct study *s, size_t law, size_t without, double *amplitude, double *exponent)
{
    const double count = (double)s->cfg->num_lens;
    double sx = 0.0, sy = 0.0, sxx = 0.0, sxy = 0.0;
    for (size_t i = 0; i < s->cfg->num_lens; i++) {
        const double excess = excess_of(s, law, i, without), x = log((double)s->cfg->prefix_lens[i]);
        const double y = excess > 0.0 ? log(excess) : NAN;
        sx += x;
        sy += y;
        sxx += x * x;
        sxy += x * y;
    }
    *exponent = count > 1.0 ? (sxy - sx * sy / count) / (sxx - sx * sx / count) : NAN;
    *amplitude = exp((sy - *exponent * sx) / count);
}

/* F31: that exponent with the jackknife's interval over data sets. */
static struct interval law_exponent(const struct study *s, size_t law)
{
    const size_t data = s->cfg->num_data;
    double *pseudo = cli_need(malloc(data * sizeof *pseudo)), all, amplitude;
    fit_law(s, law, data, &amplitude, &all);
    bool known = data > 1;
    for (size_t i = 0; i < data; i++) {
        double rest = NAN;
        if (data > 1) fit_law(s, law, i, &amplitude, &rest);
        pseudo[i] = (double)data * all - (double)(data - 1) * rest;
        known = known && isfinite(pseudo[i]);
    }
    const struct interval mean = known ? cli_mean(pseudo, data, 0.999) : (struct interval){ NAN, NAN, NAN, data };
    free(pseudo);
    return mean;
}

/* Share of the descents of a law that reach --stop-ratio within --num-steps. */
static double reached(const struct study *s, size_t law, size_t len)
{
    double count = 0.0;
    for (size_t t = 0; t < num_trials(s->cfg); t++)
        count += result_of(s, law, len, t)[LOSS_RATIO] <= s->cfg->stop_ratio;
    return count;
}

/* Mean over data sets of what the K* dynamics give. */
enum { LIMIT_TRAIN, LIMIT_HELDOUT, LIMIT_ACCURACY };

static double limit_of(const struct study *s, size_t law, int which)
{
    double sum = 0.0;
    for (size_t i = 0; i < s->cfg->num_data; i++) {
        const double values[] = { s->data[i].limit[law].train_fixed, s->data[i].limit[law].heldout,
                                  s->data[i].limit[law].accuracy };
        sum += values[which] / (double)s->cfg->num_data;
    }
    return sum;
}

static int write_table(const struct study *s)
{
    const struct config *cfg = s->cfg;
    struct table *t = table_open(&cfg->c, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "dataset=%s num_samples=%zu dim=%zu num_test=%zu sigma=%.17g stop_ratio=%g",
               cfg->samples.dataset ? cfg->samples.dataset : "teacher", s->data->X->size1, s->data->X->size2,
               s->data->X_at->size1, cfg->sigma, cfg->stop_ratio);
    table_note(t,
               "losses per point; train_fixed: after kernel time %zu/lambda_max(K*); relative: over the loss at the "
               "start; heldout, accuracy, "
               "distance: at the end, on unseen points; reached: share of descents that reach stop_ratio; limit: of "
               "the K* dynamics from F(0)=0; "
               "distance: ||F-f||_F/||f||_F to the dynamics of K* (full), of H* (key) at the same kernel time, each "
               "with the term of F(0); law: "
               "mean of heldout - heldout_limit = amplitude m^exponent; ci: 95%% Student t over data sets; num_trials: "
               "prefixes of each",
               cfg->fixed_steps);
    for (size_t l = 0; l < cfg->num_laws; l++) {
        double amplitude, exponent;
        const enum prefix_signs law = (enum prefix_signs)cfg->laws[l];
        fit_law(s, l, cfg->num_data, &amplitude, &exponent);
        for (size_t i = 0; i < cfg->num_lens; i++) {
            const struct interval train = mean_of(s, l, i, TRAIN_FIXED, 0.95).mean,
                                  heldout = mean_of(s, l, i, HELDOUT, 0.95).mean;
            const struct interval full = mean_of(s, l, i, DISTANCE_FULL, 0.95).mean,
                                  key = mean_of(s, l, i, DISTANCE_KEY, 0.95).mean;
            const bool images = cfg->samples.dataset != NULL;
            const double cells[] = { train.value,
                                     train.lo,
                                     train.hi,
                                     limit_of(s, law, LIMIT_TRAIN),
                                     mean_of(s, l, i, TRAIN_RELATIVE, 0.95).mean.value,
                                     mean_of(s, l, i, LOSS_RATIO, 0.95).mean.value,
                                     reached(s, l, i) / (double)num_trials(cfg),
                                     mean_of(s, l, i, STEPS, 0.95).mean.value,
                                     heldout.value,
                                     heldout.lo,
                                     heldout.hi,
                                     limit_of(s, law, LIMIT_HELDOUT),
                                     mean_of(s, l, i, HELDOUT_RELATIVE, 0.95).mean.value,
                                     images ? mean_of(s, l, i, ACCURACY, 0.95).mean.value : NAN,
                                     images ? limit_of(s, law, LIMIT_ACCURACY) : NAN,
                                     full.value,
                                     full.lo,
                                     full.hi,
                                     key.value,
                                     key.lo,
                                     key.hi,
                                     amplitude,
                                     exponent };
            table_text(t, cli_sign_names[law]);
            table_int(t, cfg->prefix_lens[i]);
            table_int(t, cfg->num_data);
            table_int(t, cfg->num_trials);
            for (size_t c = 0; c < sizeof cells / sizeof *cells; c++) table_num(t, cells[c]);
            table_end_row(t);
        }
    }
    return table_close(t, 0);
}

/* Exponent in m of result `which`, over data sets. */
static struct data_spread exponent_of(const struct study *s, size_t law, int which)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(cfg->num_lens * sizeof *x)),
           *y = cli_need(malloc(num_trials(cfg) * cfg->num_lens * sizeof *y));
    for (size_t i = 0; i < cfg->num_lens; i++) {
        x[i] = (double)cfg->prefix_lens[i];
        for (size_t t = 0; t < num_trials(cfg); t++) y[t * cfg->num_lens + i] = result_of(s, law, i, t)[which];
    }
    const struct data_spread spread = data_spread_exponent(x, y, cfg->num_lens, sets_of(cfg), 0.999);
    free(y);
    free(x);
    return spread;
}

/* F29: the distance to H*'s predictor over that to K*'s, at the longest prefix. */
static struct data_spread ratio_of_distances(const struct study *s, size_t law)
{
    const struct config *cfg = s->cfg;
    double *x = cli_need(malloc(num_trials(cfg) * sizeof *x));
    for (size_t t = 0; t < num_trials(cfg); t++) {
        const double *result = result_of(s, law, cfg->num_lens - 1, t);
        x[t] = result[DISTANCE_KEY] / result[DISTANCE_FULL];
    }
    const struct data_spread spread = data_spread_mean(x, sets_of(cfg), 0.999);
    free(x);
    return spread;
}

static void write_teacher_rows(const struct study *s, size_t l, struct data_rows *v)
{
    const size_t last = s->cfg->num_lens - 1;
    struct interval share = { NAN, NAN, NAN, 0 };
    double descents = 0.0;
    for (size_t i = 0; i <= last; i++) descents += reached(s, l, i);
    if (s->cfg->laws[l] == PREFIX_SIGNS_MIRRORED) {
        stats_rate(descents, (double)((last + 1) * num_trials(s->cfg)), 0.999, &share);
        data_rows_add(v, "T13", "reached", share);
        data_rows_spread(v, "T13", "slope-mirrored", exponent_of(s, l, DISTANCE_FULL));
        data_rows_spread(v, "T13", "distance-mirrored", mean_of(s, l, last, DISTANCE_FULL, 0.999));
        data_rows_spread(v, "F29", "ratio", ratio_of_distances(s, l));
        data_rows_add(v, "F31", "excess", law_exponent(s, l));
    } else if (s->cfg->laws[l] == PREFIX_SIGNS_RANDOM) {
        data_rows_spread(v, "T13", "slope-random", exponent_of(s, l, DISTANCE_FULL));
        data_rows_spread(v, "F30", "growth", exponent_of(s, l, HELDOUT));
        data_rows_spread(v, "T14", "heldout-random", exponent_of(s, l, HELDOUT));
    }
}

static int write_verdicts(const struct study *s, struct data_rows *v)
{
    const struct config *cfg = s->cfg;
    char row[64];
    for (size_t l = 0; l < cfg->num_laws; l++) {
        const char *law = cli_sign_names[cfg->laws[l]], *images = cfg->samples.dataset ? "mnist-" : "";
        snprintf(row, sizeof row, "%srelative-train-%s", images, law);
        data_rows_spread(v, "T14", row, exponent_of(s, l, TRAIN_RELATIVE));
        snprintf(row, sizeof row, "%srelative-heldout-%s", images, law);
        data_rows_spread(v, "T14", row, exponent_of(s, l, HELDOUT_RELATIVE));
        if (!cfg->samples.dataset) write_teacher_rows(s, l, v);
    }
    return data_rows_close(v, 0);
}

static void data_free(struct data *data)
{
    for (int law = 0; law < 3; law++)
        for (int kernel = 0; kernel < 2; kernel++) {
            gsl_matrix_free(data->limit[law].K_at[kernel]);
            prefix_linear_free(data->limit[law].spectrum[kernel]);
        }
    gsl_matrix_free(data->X);
    gsl_matrix_free(data->Y);
    gsl_matrix_free(data->X_at);
    gsl_matrix_free(data->Y_at);
}

/* What the numbers of a descent depend on besides the seed; the caller frees. */
static char *identity_of(const struct study *s)
{
    const struct config *cfg = s->cfg;
    char *options_text = cli_identity(options, &cfg->c);
    char *identity = cli_text("%016llx %016llx %016llx%s", (unsigned long long)cli_checksum(s->data->X),
                              (unsigned long long)cli_checksum(s->data->Y),
                              (unsigned long long)cli_checksum(s->data->X_at), options_text);
    free(options_text);
    return identity;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse_table(argc, argv, doc, options, shard, check, &cfg.c);
    struct study s = { .cfg = &cfg, .data = cli_need(calloc(cfg.num_data, sizeof *s.data)) };
    struct data_rows *v = data_rows_open(&cfg.c, cfg.tables);
    const double nd = (double)(cfg.samples.num_samples * cfg.samples.dim),
                 at_d = (double)(cfg.num_test * cfg.samples.dim);
    const double longest = (double)cfg.prefix_lens[cfg.num_lens - 1] * (double)cfg.samples.dim;
    int code = cli_memory(&cfg.c,
                          sizeof(double)
                              * (6.0 * (double)cfg.num_data * (nd * nd + nd * at_d)
                                 + (double)cfg.c.threads * (6.0 * nd * nd + nd * at_d + 4.0 * longest)),
                          "the kernels");
    for (size_t i = 0; i < cfg.num_data && !code; i++) {
        code = load(&cfg, i, &s.data[i]);
        if (!code) code = fill_limits(&cfg, &s.data[i]);
    }
    if (!code) {
        char *identity = identity_of(&s);
        const struct units_study study = { .what = "descents", .count = cfg.num_lens * cfg.num_laws * num_trials(&cfg),
                                           .width = NUM_RESULTS, .last_first = true, .unit = run_unit };
        code = units_work(&cfg.c, identity, &study, &s, &s.work);
        free(identity);
        if (!code) code = write_verdicts(&s, v);
        else data_rows_close(v, code);
        if (!code) code = write_table(&s);
        code = units_close(s.work, code);
    } else {
        data_rows_close(v, code);
    }
    for (size_t i = 0; i < cfg.num_data; i++) data_free(&s.data[i]);
    free(s.data);
    return code;
}
