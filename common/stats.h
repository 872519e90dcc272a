/* Intervals, slopes and verdicts. Level is a fraction: 0.95, 0.999. */
#ifndef COMMON_STATS_H
#define COMMON_STATS_H
#include <stddef.h>
#include <stdint.h>

struct interval { double value, lo, hi; size_t n; };

/* Student t interval of the mean. n = 1 gives an interval of infinite width.
 * GSL_EDOM when a value is not finite, GSL_EBADLEN when n = 0. */
int stats_mean(const double *x, size_t n, double level, struct interval *out);

/* Percentile bootstrap of the median (stream RANDOM_BOOTSTRAP of `seed`). */
int stats_median_bootstrap(const double *x, size_t n, double level, uint64_t seed,
                           struct interval *out);

/* Clopper-Pearson interval of a rate. */
int stats_rate(double successes, double trials, double level, struct interval *out);

/* Slope of log y against log x fitted within each trial (rows of y, num_trials x
 * num_x, row-major), with the t interval over trials: nested prefixes make the
 * points of one trial dependent, the trials are not. All x, y must be > 0. */
int stats_loglog_slope(const double *x, const double *y, size_t num_x, size_t num_trials,
                       double level, struct interval *slope);

/* Least-squares line y = intercept + slope x with the t interval of the slope. */
int stats_line(const double *x, const double *y, size_t n, double level,
               struct interval *slope, double *intercept);

/* Least squares y = sum_j b_j x_j over n observations (rows of x, n x num_parts, row-major;
 * a column of ones is the caller's), with the t interval of every b_j in out (num_parts).
 * GSL_EBADLEN unless n > num_parts >= 1; GSL_EDOM when a number is not finite or the columns
 * are dependent. */
int stats_regression(const double *x, const double *y, size_t n, size_t num_parts, double level,
                     struct interval *out);

/* The line y = intercept + slope x with normal residuals where some y are censored: only known to
 * lie above y[i] (censored[i] != 0). Maximum likelihood in the parametrisation in which it is
 * concave (Olsen 1978), by Newton's method; interval of the slope from the observed information,
 * t quantile of n - 3. With nothing censored the slope is that of stats_line. GSL_EBADLEN for
 * n < 4; GSL_EDOM when a number is not finite, fewer than 3 are not censored or the likelihood has no
 * maximum. */
int stats_censored_line(const double *x, const double *y, const int *censored, size_t n, double level,
                        struct interval *slope);

enum verdict { VERDICT_NOT_TESTED, VERDICT_SUPPORTED, VERDICT_CONTRADICTED, VERDICT_INCONCLUSIVE };

/* A margin [lo, hi]; an open side is +-infinity. */
struct margin { double lo, hi; };

/* "in [a, b]", "<= a", ">= a" (spaces free). GSL_EINVAL on anything else. */
int margin_parse(const char *rule, struct margin *out);

/* supported: interval inside the margin; contradicted: interval outside;
 * else inconclusive. A NaN anywhere is inconclusive, never supported. */
enum verdict verdict_by_margin(struct interval measured, struct margin margin);

const char *verdict_name(enum verdict verdict);  /* "supported", ..., "not tested" */

#endif
