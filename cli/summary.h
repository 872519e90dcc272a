/* Small things programs need to sum up their numbers. */
#ifndef CLI_SUMMARY_H
#define CLI_SUMMARY_H
#include "cli/cli.h"

/* Mean and Student t interval of the finite values; all NaN when there are none. */
struct interval cli_mean(const double *x, size_t n, double level);

/* Slope of log y in log x within each trial (y as in stats_loglog_slope); all NaN when
 * a value is not positive and finite or there is one x only. */
struct interval cli_exponent(const double *x, const double *y, size_t num_x, size_t num_trials, double level);

/* Without memory these end the run (cli_need). */

/* Where an extra table goes: OUT_what.csv beside OUT.csv; the caller frees. NULL when --out
 * is standard output. The run ends when the file is another output or cannot be written. */
char *cli_side_path(const struct cli_common *cfg, const char *what);

/* A text like printf's, for identities and names; the caller frees. */
char *cli_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* text, a blank and the numbers; frees text. */
char *cli_text_sizes(char *text, const size_t *sizes, size_t count);

#endif
