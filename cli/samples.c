#include "cli/samples.h"

#include <math.h>
#include <gsl/gsl_errno.h>
#include "common/random.h"
#include "common/reason.h"
#include "data/mnist.h"

const char *const samples_datasets[] = { "mnist", NULL };

const char *samples_check(const struct samples_options *options, bool targets_needed)
{
    if (options->inputs && options->dataset) return "--inputs and --dataset exclude each other";
    if (options->targets && !options->inputs) return "--targets needs --inputs";
    if (options->dataset && targets_needed && options->dim < 10) return "--dataset mnist needs --dim 10 or more";
    if (targets_needed && options->inputs && !options->targets) return "--inputs needs --targets";
    return NULL;
}

void samples_sphere(uint64_t seed, int purpose, uint64_t trial, uint64_t first, gsl_matrix *M)
{
    for (size_t i = 0; i < M->size1; i++) {
        double *x = gsl_matrix_ptr(M, i, 0), squared = 0.0;
        random_normal(seed, (enum random_purpose)purpose, trial, first + i, x, M->size2);
        for (size_t k = 0; k < M->size2; k++) squared += x[k] * x[k];
        for (size_t k = 0; k < M->size2; k++) x[k] /= sqrt(squared);
    }
}

static int load_files(const struct cli_common *cfg, const struct samples_options *options, gsl_matrix **X,
                      gsl_matrix **Y)
{
    int code = cli_read_matrix(cfg, options->inputs, X);
    if (code || !Y) return code;
    if ((code = cli_read_matrix(cfg, options->targets, Y))) return code;
    if ((*X)->size1 != (*Y)->size1 || (*X)->size2 != (*Y)->size2)
        return cli_fail(cfg, EXIT_DATA, "%s: shape (%zu, %zu) differs from that of %s, (%zu, %zu)", options->targets,
                        (*Y)->size1, (*Y)->size2, options->inputs, (*X)->size1, (*X)->size2);
    return 0;
}

uint64_t samples_mnist_seed(const struct cli_common *cfg, uint64_t trial)
{
    return cfg->seed + trial * 0x9e3779b97f4a7c15u;
}

static int load_mnist(const struct cli_common *cfg, const struct samples_options *options, uint64_t trial,
                      gsl_matrix **X, gsl_matrix **Y)
{
    char why[512] = "";
    const int status = mnist_load(options->num_samples, 0, options->dim, samples_mnist_seed(cfg, trial), X, Y, NULL,
                                  NULL, why, sizeof why);
    if (!status) return 0;
    return cli_fail(cfg, status == GSL_ENOMEM || status == REASON_SYSTEM ? EXIT_FAILED : EXIT_DATA, "%s", why);
}

static int draw(const struct cli_common *cfg, const struct samples_options *options, uint64_t trial,
                gsl_matrix **X, gsl_matrix **Y)
{
    *X = gsl_matrix_alloc(options->num_samples, options->dim);
    if (Y) *Y = gsl_matrix_alloc(options->num_samples, options->dim);
    if (!*X || (Y && !*Y)) return cli_fail(cfg, EXIT_FAILED, "out of memory for the samples");
    samples_sphere(cfg->seed, RANDOM_INPUTS, trial, 0, *X);
    if (Y) samples_sphere(cfg->seed, RANDOM_TARGETS, trial, 0, *Y);
    return 0;
}

int samples_load(const struct cli_common *cfg, const struct samples_options *options, uint64_t trial,
                 gsl_matrix **X, gsl_matrix **Y)
{
    *X = NULL;
    if (Y) *Y = NULL;
    if (options->inputs) cli_warn_unused(cfg, "with --inputs", (const char *const[]){ "num-samples", "dim", NULL });
    if (options->inputs_out || options->targets_out) cli_outputs_begin(cfg);
    int code = options->inputs ? load_files(cfg, options, X, Y)
             : options->dataset ? load_mnist(cfg, options, trial, X, Y) : draw(cfg, options, trial, X, Y);
    if (!code && options->inputs_out) code = cli_write_matrix(cfg, options->inputs_out, *X);
    if (!code && options->targets_out && Y) code = cli_write_matrix(cfg, options->targets_out, *Y);
    if (code) {
        gsl_matrix_free(*X);
        *X = NULL;
        if (Y) {
            gsl_matrix_free(*Y);
            *Y = NULL;
        }
    }
    return code;
}
