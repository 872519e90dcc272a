/* Predictions of an infinitely long trained prefix for a user's own arrays (T13). */
#include "cli/kernels.h"

#include <math.h>
#include <gsl/gsl_errno.h>
#include "prefix_ntk/ntk_predict.h"

static const char doc[] =
    "What a prefix of infinite length, trained to the end, predicts: K*(x,X) K*(X,X)^-1 Y, with signs of mean 0 and "
    "F(0) = 0. "
    "A singular K* takes the pseudo-inverse, with a warning.";

struct config {
    struct cli_common c;
    const char *inputs, *targets, *at;
    double sigma;
    int kernel;
};

enum { KEY_INPUTS = 1, KEY_TARGETS, KEY_AT, KEY_SIGMA, KEY_KERNEL };

static const struct argp_option options[] = {
    { "inputs", KEY_INPUTS, "FILE", 0, "inputs x_i, (n, d), .npy or .csv", 0 },
    { "targets", KEY_TARGETS, "FILE", 0, "targets y_i, (n, d)", 0 },
    { "at", KEY_AT, "FILE", 0, "inputs to predict at, (n2, d)", 0 },
    { "sigma", KEY_SIGMA, "S", 0, "standard deviation of a token's entries (default 0.5)", 1 },
    { "kernel", KEY_KERNEL, "NAME", 0, "full or key (default full)", 1 },
    { "out", CLI_COMMON, "FILE", 0, "where the predictions go, .npy or .csv (default -: standard output)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_INPUTS: cfg->inputs = arg; return 0;
    case KEY_TARGETS: cfg->targets = arg; return 0;
    case KEY_AT: cfg->at = arg; return 0;
    case KEY_SIGMA: return cli_parse_double(state, key, arg, 0.0, &cfg->sigma);
    case KEY_KERNEL: return cli_parse_choice(state, key, arg, cli_kernel_names, &cfg->kernel);
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *config)
{
    const struct config *cfg = config;
    if (!cfg->inputs) return "--inputs: is needed";
    if (!cfg->targets) return "--targets: is needed";
    if (!cfg->at) return "--at: is needed";
    return NULL;
}

/* Above this the kernel's condition number is worth a word; a miss of the targets above that is not
 * rounding. */
static const double CONDITION = 1e10, MISS = 1e-6;

static int predict(const struct config *cfg, const gsl_matrix *X, const gsl_matrix *Y, const gsl_matrix *X_at,
                   gsl_matrix *F)
{
    struct ntk_solve_report report;
    const int status = ntk_predict(X, Y, X_at, cfg->sigma, PREFIX_SIGNS_RANDOM, (enum ntk_kernel)cfg->kernel, NULL,
                                   NULL, F, &report);
    if (status == GSL_EDOM)
        return cli_fail(&cfg->c, EXIT_FAILED,
                        "--sigma: the limit kernel of %s is beyond the range of a double (inputs too large)",
                        cfg->inputs);
    if (status) return cli_status(&cfg->c, status, "prediction");
    const double condition = 1.0 / report.rcond;
    if (report.rank < report.size)
        cli_warn(&cfg->c, "warning: the kernel of %s is singular (rank %zu of %zu): pseudo-inverse used; it misses the "
                          "targets by up to "
                 "%.3g of the largest", cfg->inputs, report.rank, report.size, report.residual);
    else if (!(report.residual <= MISS))
        return cli_fail(&cfg->c, EXIT_FAILED,
                        "the kernel of %s has condition number %.3g: a prediction would miss its own targets by %.3g "
                        "of the largest", cfg->inputs, condition, report.residual);
    else if (condition > CONDITION)
        cli_warn(&cfg->c, "warning: the kernel of %s has condition number %.3g", cfg->inputs, condition);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct config cfg = { .sigma = 0.5, .kernel = NTK_FULL };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    gsl_matrix *X = NULL, *Y = NULL, *X_at = NULL, *F = NULL;
    int code = cli_outputs_add(&cfg.c, "out", cfg.c.out);
    if (!code) code = cli_read_matrix(&cfg.c, cfg.inputs, &X);
    if (!code) code = cli_read_matrix(&cfg.c, cfg.targets, &Y);
    if (!code) code = cli_read_matrix(&cfg.c, cfg.at, &X_at);
    if (!code && (X->size1 != Y->size1 || X->size2 != Y->size2))
        code = cli_fail(&cfg.c, EXIT_DATA, "%s: shape (%zu, %zu) differs from that of %s, (%zu, %zu)", cfg.targets,
                        Y->size1, Y->size2, cfg.inputs, X->size1, X->size2);
    if (!code && X_at->size2 != X->size2)
        code = cli_fail(&cfg.c, EXIT_DATA, "%s: inputs of dimension %zu, %s has %zu", cfg.at, X_at->size2, cfg.inputs,
                        X->size2);
    if (code) goto done;
    const double nd = (double)(X->size1 * X->size2), at_d = (double)(X_at->size1 * X->size2);
    /* Three of size (n d)^2 for Cholesky; the pseudo-inverse has the eigenvectors and its workspace. */
    if ((code = cli_memory(&cfg.c, sizeof(double) * (6.0 * nd * nd + nd * at_d), "the kernel of the inputs")))
        goto done;
    if (!(F = gsl_matrix_alloc(X_at->size1, X->size2))) {
        code = cli_fail(&cfg.c, EXIT_FAILED, "out of memory");
        goto done;
    }
    code = predict(&cfg, X, Y, X_at, F);
    if (!code) code = cli_interrupted();
    if (!code) code = cli_write_matrix(&cfg.c, cfg.c.out, F);
done:
    gsl_matrix_free(F);
    gsl_matrix_free(X_at);
    gsl_matrix_free(Y);
    gsl_matrix_free(X);
    return code;
}
