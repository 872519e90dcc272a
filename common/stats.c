#include "common/stats.h"

#include "common/random.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_fit.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Enough for the 99.9 % percentiles to stand on five resamples each side. */
enum { NUM_RESAMPLES = 9999 };

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
    if (n == 1) out->lo = -INFINITY, out->hi = INFINITY;
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
