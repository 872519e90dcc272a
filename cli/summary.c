#include "cli/summary.h"
#include "common/atomic_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct interval cli_mean(const double *x, size_t n, double level)
{
    struct interval mean = { NAN, NAN, NAN, 0 };
    size_t count = 0;
    double *finite = cli_need(malloc((n ? n : 1) * sizeof *finite));
    for (size_t i = 0; i < n; i++)
        if (isfinite(x[i])) finite[count++] = x[i];
    if (cli_need_memory(stats_mean(finite, count, level, &mean))) mean = (struct interval){ NAN, NAN, NAN, count };
    free(finite);
    return mean;
}

struct interval cli_exponent(const double *x, const double *y, size_t num_x, size_t num_trials, double level)
{
    struct interval slope = { NAN, NAN, NAN, num_trials };
    for (size_t i = 0; i < num_x * num_trials; i++)
        if (!(y[i] > 0.0) || !isfinite(y[i])) return slope;
    if (num_x < 2 || cli_need_memory(stats_loglog_slope(x, y, num_x, num_trials, level, &slope)))
        slope = (struct interval){ NAN, NAN, NAN, num_trials };
    return slope;
}

char *cli_text(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0) text = NULL;
    va_end(arguments);
    return cli_need(text);
}

char *cli_text_sizes(char *text, const size_t *sizes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *longer = cli_text("%s %zu", text, sizes[i]);
        free(text);
        text = longer;
    }
    return text;
}

char *cli_side_path(const struct cli_common *cfg, const char *what)
{
    if (atomic_file_descriptor(cfg->out) >= 0) return NULL;
    const size_t n = strlen(cfg->out), stem = n > 4 && !strcasecmp(cfg->out + n - 4, ".csv") ? n - 4 : n;
    char *path = cli_text("%.*s_%s.csv", (int)stem, cfg->out, what);
    const int code = cli_outputs_add(cfg, what, path);
    if (code) exit(code);
    return path;
}
