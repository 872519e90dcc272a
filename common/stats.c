#include "common/stats.h"

#include "common/random.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_fit.h>
#include <gsl/gsl_linalg.h>
#include <gsl/gsl_multifit.h>
#include <gsl/gsl_sf_erf.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Enough for the 99.9 % percentiles to stand on five resamples each side. */
enum { NUM_RESAMPLES = 9999 };

/* Columns count as dependent when a singular value falls below this share of the largest. */
static const double RTOL_RANK = 1e-12;

static int all_finite(const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

static int is_level(double level)
{
    return level > 0.0 && level < 1.0;
}

int stats_mean(const double *x, size_t n, double level, struct interval *out)
{
    if (!is_level(level)) return GSL_EINVAL;
    if (n == 0) return GSL_EBADLEN;
    if (!all_finite(x, n)) return GSL_EDOM;
    const double mean = gsl_stats_mean(x, 1, n);
    double half = INFINITY;
    if (n > 1) {
        const double t = gsl_cdf_tdist_Pinv(0.5 + 0.5 * level, (double)(n - 1));
        half = t * gsl_stats_sd_m(x, 1, n, mean) / sqrt((double)n);
    }
    *out = (struct interval){ mean, mean - half, mean + half, n };
    return isfinite(mean) ? GSL_SUCCESS : GSL_EDOM;
}

int stats_median_bootstrap(const double *x, size_t n, double level, uint64_t seed,
                           struct interval *out)
{
    if (!is_level(level)) return GSL_EINVAL;
    if (n == 0) return GSL_EBADLEN;
    if (!all_finite(x, n)) return GSL_EDOM;
    double *resample = malloc(n * sizeof *resample);
    double *medians = malloc(NUM_RESAMPLES * sizeof *medians);
    if (!resample || !medians) {
        free(resample);
        free(medians);
        return GSL_ENOMEM;
    }
    memcpy(resample, x, n * sizeof *x);
    const double median = gsl_stats_median(resample, 1, n);
    for (size_t b = 0; b < NUM_RESAMPLES; b++) {
        for (size_t i = 0; i < n; i++) resample[i] = x[random_index(seed, RANDOM_BOOTSTRAP, b, i, n)];
        medians[b] = gsl_stats_median(resample, 1, n);
    }
    gsl_sort(medians, 1, NUM_RESAMPLES);
    const double tail = 0.5 * (1.0 - level);
    *out = (struct interval){ median, gsl_stats_quantile_from_sorted_data(medians, 1, NUM_RESAMPLES, tail),
                              gsl_stats_quantile_from_sorted_data(medians, 1, NUM_RESAMPLES, 1.0 - tail), n };
    /* One observation says nothing of the spread, though its resamples agree. */
    if (n == 1) {
        out->lo = -INFINITY;
        out->hi = INFINITY;
    }
    free(resample);
    free(medians);
    return GSL_SUCCESS;
}

/* x with P(Beta(a, b) <= x) = p, by bisection: GSL's own inverse returns NaN at some
 * arguments in range, such as p = 0.9995, a = 2, b = 999. */
static double beta_quantile(double p, double a, double b)
{
    double lo = 0.0, hi = 1.0;
    for (int i = 0; i < 64; i++) {
        const double mid = 0.5 * (lo + hi);
        if (gsl_cdf_beta_P(mid, a, b) < p) lo = mid;
        else hi = mid;
    }
    /* Relative accuracy for rates far below 2^-64 is not wanted: trials are fewer. */
    return 0.5 * (lo + hi);
}

int stats_rate(double successes, double trials, double level, struct interval *out)
{
    if (!is_level(level)) return GSL_EINVAL;
    if (!(trials >= 1.0) || !(successes >= 0.0 && successes <= trials) || !isfinite(trials)) return GSL_EDOM;
    const double tail = 0.5 * (1.0 - level), failures = trials - successes;
    *out = (struct interval){
        .value = successes / trials,
        .lo = successes > 0.0 ? beta_quantile(tail, successes, failures + 1.0) : 0.0,
        .hi = failures > 0.0 ? beta_quantile(1.0 - tail, successes + 1.0, failures) : 1.0,
        .n = (size_t)trials,
    };
    return GSL_SUCCESS;
}

/* Least squares; needs two different x. */
static int fit(const double *x, const double *y, size_t n, double *slope, double *intercept,
               double *slope_variance)
{
    double intercept_variance, covariance, residual;
    if (!(gsl_stats_max(x, 1, n) > gsl_stats_min(x, 1, n))) return GSL_EDOM;
    gsl_fit_linear(x, 1, y, 1, n, intercept, slope, &intercept_variance, &covariance, slope_variance,
                   &residual);
    return isfinite(*slope) && isfinite(*intercept) ? GSL_SUCCESS : GSL_EDOM;
}

int stats_loglog_slope(const double *x, const double *y, size_t num_x, size_t num_trials,
                       double level, struct interval *slope)
{
    if (num_x < 2 || num_trials == 0) return GSL_EBADLEN;
    double *work = malloc((2 * num_x + num_trials) * sizeof *work);
    if (!work) return GSL_ENOMEM;
    double *log_x = work, *log_y = work + num_x, *slopes = work + 2 * num_x;
    int status = GSL_SUCCESS;
    for (size_t i = 0; i < num_x; i++) {
        if (!(x[i] > 0.0)) status = GSL_EDOM;
        log_x[i] = log(x[i]);
    }
    for (size_t trial = 0; trial < num_trials && !status; trial++) {
        for (size_t i = 0; i < num_x; i++) {
            const double value = y[trial * num_x + i];
            if (!(value > 0.0) || isinf(value)) status = GSL_EDOM;
            log_y[i] = log(value);
        }
        double intercept, variance;
        if (!status) status = fit(log_x, log_y, num_x, &slopes[trial], &intercept, &variance);
    }
    if (!status) status = stats_mean(slopes, num_trials, level, slope);
    free(work);
    return status;
}

int stats_line(const double *x, const double *y, size_t n, double level,
               struct interval *slope, double *intercept)
{
    if (!is_level(level)) return GSL_EINVAL;
    if (n < 2) return GSL_EBADLEN;
    if (!all_finite(x, n) || !all_finite(y, n)) return GSL_EDOM;
    double value, variance;
    const int status = fit(x, y, n, &value, intercept, &variance);
    if (status) return status;
    double half = INFINITY;   /* two points leave no residual to judge by */
    if (n > 2) half = gsl_cdf_tdist_Pinv(0.5 + 0.5 * level, (double)(n - 2)) * sqrt(variance);
    *slope = (struct interval){ value, value - half, value + half, n };
    return GSL_SUCCESS;
}

int stats_regression(const double *x, const double *y, size_t n, size_t num_parts, double level,
                     struct interval *out)
{
    if (!is_level(level)) return GSL_EINVAL;
    if (num_parts < 1 || n <= num_parts) return GSL_EBADLEN;
    if (!all_finite(x, n * num_parts) || !all_finite(y, n)) return GSL_EDOM;
    gsl_multifit_linear_workspace *work = gsl_multifit_linear_alloc(n, num_parts);
    gsl_matrix *covariance = gsl_matrix_alloc(num_parts, num_parts);
    gsl_vector *b = gsl_vector_alloc(num_parts);
    int status = work && covariance && b ? GSL_SUCCESS : GSL_ENOMEM;
    if (!status) {
        const gsl_matrix_const_view X = gsl_matrix_const_view_array(x, n, num_parts);
        const gsl_vector_const_view Y = gsl_vector_const_view_array(y, n);
        double residual;
        status = gsl_multifit_linear(&X.matrix, &Y.vector, b, covariance, &residual, work);
        if (!status && gsl_multifit_linear_rank(RTOL_RANK, work) < num_parts) status = GSL_EDOM;
        const double t = gsl_cdf_tdist_Pinv(0.5 + 0.5 * level, (double)(n - num_parts));
        for (size_t j = 0; j < num_parts && !status; j++) {
            const double value = gsl_vector_get(b, j), half = t * sqrt(gsl_matrix_get(covariance, j, j));
            out[j] = (struct interval){ value, value - half, value + half, n };
        }
    }
    gsl_vector_free(b);
    gsl_matrix_free(covariance);
    gsl_multifit_linear_free(work);
    return status;
}

/* theta = (intercept, slope, 1) / sigma of a censored line: log-likelihood, gradient and the
 * negative Hessian, by z_i = (-1, -x_i, y_i) . theta: log theta_2 - z^2/2 observed, log Q(z)
 * censored. */
static double censored_likelihood(const double *x, const double *y, const int *censored, size_t n,
                                  const double theta[3], double gradient[3], double information[9])
{
    double value = 0.0;
    memset(gradient, 0, 3 * sizeof *gradient);
    memset(information, 0, 9 * sizeof *information);
    for (size_t i = 0; i < n; i++) {
        const double u[3] = { -1.0, -x[i], y[i] };
        const double z = u[0] * theta[0] + u[1] * theta[1] + u[2] * theta[2];
        /* Minus the first and second derivative of the term in z. */
        double first = z, second = 1.0;
        if (censored[i]) {
            first = gsl_sf_hazard(z);
            second = first * (first - z);
            value += gsl_sf_log_erfc(z / sqrt(2.0)) - log(2.0);
        } else {
            value += log(theta[2]) - 0.5 * z * z;
            gradient[2] += 1.0 / theta[2];
            information[8] += 1.0 / (theta[2] * theta[2]);
        }
        for (int a = 0; a < 3; a++) {
            gradient[a] -= first * u[a];
            for (int b = 0; b < 3; b++) information[3 * a + b] += second * u[a] * u[b];
        }
    }
    return value;
}

int stats_censored_line(const double *x, const double *y, const int *censored, size_t n, double level,
                        struct interval *slope)
{
    if (!is_level(level)) return GSL_EINVAL;
    if (n < 4) return GSL_EBADLEN;
    if (!all_finite(x, n) || !all_finite(y, n)) return GSL_EDOM;
    size_t observed = 0;
    for (size_t i = 0; i < n; i++) observed += !censored[i];
    double b, a, variance;
    if (observed < 3 || fit(x, y, n, &b, &a, &variance)) return GSL_EDOM;
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) squares += (y[i] - a - b * x[i]) * (y[i] - a - b * x[i]);
    if (!(squares > 0.0)) return GSL_EDOM;
    const double h = sqrt((double)n / squares);
    double theta[3] = { a * h, b * h, h }, gradient[3], information[9], step[3] = { 0.0 };
    double value = censored_likelihood(x, y, censored, n, theta, gradient, information), moved = INFINITY;
    gsl_matrix_view I = gsl_matrix_view_array(information, 3, 3);
    gsl_vector_view direction = gsl_vector_view_array(step, 3);
    for (int round = 0; round < 100 && moved > 1e-10; round++) {
        memcpy(step, gradient, sizeof step);
        if (gsl_linalg_cholesky_decomp1(&I.matrix) || gsl_linalg_cholesky_svx(&I.matrix, &direction.vector))
            return GSL_EDOM;
        double share = 1.0, next[3], tried;
        do {
            for (int j = 0; j < 3; j++) next[j] = theta[j] + share * step[j];
            tried = next[2] > 0.0 ? censored_likelihood(x, y, censored, n, next, gradient, information) : -INFINITY;
            share *= 0.5;
        } while (!(tried >= value) && share > 1e-12);
        moved = fabs(tried - value) / (fabs(value) + 1.0) + fabs(next[1] / next[2] - theta[1] / theta[2]);
        memcpy(theta, next, sizeof theta);
        value = tried;
    }
    if (!(moved <= 1e-10) || gsl_linalg_cholesky_decomp1(&I.matrix)) return GSL_EDOM;
    /* slope = theta_1 / theta_2; its gradient g, and g' I^{-1} g. */
    const double g[3] = { 0.0, 1.0 / theta[2], -theta[1] / (theta[2] * theta[2]) };
    memcpy(step, g, sizeof step);
    if (gsl_linalg_cholesky_svx(&I.matrix, &direction.vector)) return GSL_EDOM;
    const double half = gsl_cdf_tdist_Pinv(0.5 + 0.5 * level, (double)(n - 3)) * sqrt(g[1] * step[1] + g[2] * step[2]);
    *slope = (struct interval){ theta[1] / theta[2], theta[1] / theta[2] - half, theta[1] / theta[2] + half, n };
    return GSL_SUCCESS;
}

/* A finite decimal number; *text moves behind it. */
static int take_number(const char **text, double *out)
{
    *text += strspn(*text, " \t");
    if (strspn(*text, "+-.0123456789eE") == 0) return 0;
    char *end;
    *out = strtod(*text, &end);
    if (end == *text || !isfinite(*out)) return 0;
    for (const char *c = *text; c < end; c++)
        if (*c == 'x' || *c == 'X') return 0;
    *text = end + strspn(end, " \t");
    return 1;
}

static int take_mark(const char **text, const char *mark)
{
    *text += strspn(*text, " \t");
    if (strncmp(*text, mark, strlen(mark))) return 0;
    *text += strlen(mark);
    return 1;
}

int margin_parse(const char *rule, struct margin *out)
{
    struct margin margin = { -INFINITY, INFINITY };
    if (take_mark(&rule, "<=")) {
        if (!take_number(&rule, &margin.hi)) return GSL_EINVAL;
    } else if (take_mark(&rule, ">=")) {
        if (!take_number(&rule, &margin.lo)) return GSL_EINVAL;
    } else if (!take_mark(&rule, "in") || !take_mark(&rule, "[") || !take_number(&rule, &margin.lo) ||
               !take_mark(&rule, ",") || !take_number(&rule, &margin.hi) || !take_mark(&rule, "]") ||
               margin.lo > margin.hi) {
        return GSL_EINVAL;
    }
    if (rule[strspn(rule, " \t")]) return GSL_EINVAL;
    *out = margin;
    return GSL_SUCCESS;
}

enum verdict verdict_by_margin(struct interval measured, struct margin margin)
{
    if (isnan(measured.value) || !(measured.lo <= measured.hi) || !(margin.lo <= margin.hi))
        return VERDICT_INCONCLUSIVE;
    if (measured.lo >= margin.lo && measured.hi <= margin.hi) return VERDICT_SUPPORTED;
    if (measured.hi < margin.lo || measured.lo > margin.hi) return VERDICT_CONTRADICTED;
    return VERDICT_INCONCLUSIVE;
}

const char *verdict_name(enum verdict verdict)
{
    switch (verdict) {
    case VERDICT_SUPPORTED: return "supported";
    case VERDICT_CONTRADICTED: return "contradicted";
    case VERDICT_INCONCLUSIVE: return "inconclusive";
    case VERDICT_NOT_TESTED: break;
    }
    return "not tested";
}
