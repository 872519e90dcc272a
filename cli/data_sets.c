#include "cli/data_sets.h"
#include "cli/kernels.h"
#include "cli/summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char columns[] = "claim,row,num_data,num_prefixes,value,ci_lo,ci_hi,sd_data,sd_prefix";

struct data_spread data_spread_mean(const double *x, struct data_sets sets, double level)
{
    const size_t data = sets.num_data, prefixes = sets.num_prefixes, n = data * prefixes;
    struct data_spread s = { { NAN, NAN, NAN, data > 1 ? data : prefixes }, NAN, NAN, sets };
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return s;
    if (data == 1) {
        s.mean = cli_mean(x, prefixes, level);
        if (prefixes > 1) {
            double squares = 0.0;
            for (size_t p = 0; p < prefixes; p++) squares += (x[p] - s.mean.value) * (x[p] - s.mean.value);
            s.sd_prefix = sqrt(squares / (double)(prefixes - 1));
        }
        return s;
    }
    double *means = cli_need(calloc(data, sizeof *means)), within = 0.0, between = 0.0;
    for (size_t i = 0; i < n; i++) means[i / prefixes] += x[i] / (double)prefixes;
    s.mean = cli_mean(means, data, level);
    for (size_t i = 0; i < n; i++) within += (x[i] - means[i / prefixes]) * (x[i] - means[i / prefixes]);
    for (size_t i = 0; i < data; i++) between += (means[i] - s.mean.value) * (means[i] - s.mean.value);
    between /= (double)(data - 1);
    if (prefixes > 1) {
        within /= (double)(data * (prefixes - 1));
        s.sd_prefix = sqrt(within);
        between = fmax(between - within / (double)prefixes, 0.0);
    }
    s.sd_data = sqrt(between);
    free(means);
    return s;
}

struct data_spread data_spread_exponent(const double *x, const double *y, size_t num_x, struct data_sets sets,
                                        double level)
{
    const size_t n = sets.num_data * sets.num_prefixes;
    double *slopes = cli_need(malloc(n * sizeof *slopes));
    for (size_t i = 0; i < n; i++) slopes[i] = cli_exponent(x, y + i * num_x, num_x, 1, level).value;
    const struct data_spread s = data_spread_mean(slopes, sets, level);
    free(slopes);
    return s;
}

struct variance { char *claim, *row; struct data_spread spread; };

struct data_spread data_spread_at(const struct units_grid *grid, size_t law, size_t len, int which,
                                  struct data_sets sets, double level)
{
    double *x = cli_need(malloc(grid->num_trials * sizeof *x));
    for (size_t t = 0; t < grid->num_trials; t++) x[t] = units_grid_row(grid, law, len, t)[which];
    const struct data_spread spread = data_spread_mean(x, sets, level);
    free(x);
    return spread;
}

struct data_spread data_spread_slope(const struct units_grid *grid, size_t law, int which, struct data_sets sets,
                                     double level)
{
    const size_t lens = grid->num_lens;
    double *x = cli_need(malloc(lens * sizeof *x)), *y = cli_need(malloc(grid->num_trials * lens * sizeof *y));
    for (size_t i = 0; i < lens; i++) {
        x[i] = (double)grid->prefix_lens[i];
        for (size_t t = 0; t < grid->num_trials; t++) y[t * lens + i] = units_grid_row(grid, law, i, t)[which];
    }
    const struct data_spread spread = data_spread_exponent(x, y, lens, sets, level);
    free(y);
    free(x);
    return spread;
}

struct data_rows {
    const struct cli_common *cfg;
    struct verdicts *verdicts;
    char stem[256], *path;          /* path NULL: no table of variances */
    struct variance *variances;
    size_t count;
};

struct data_rows *data_rows_open(const struct cli_common *cfg, bool variances)
{
    struct data_rows *rows = cli_need(calloc(1, sizeof *rows));
    rows->cfg = cfg;
    cli_stem(cfg, rows->stem, sizeof rows->stem);
    if (variances) rows->path = cli_side_path(cfg, "variance");
    rows->verdicts = verdicts_open(cfg, rows->stem);
    return rows;
}

void data_rows_spread(struct data_rows *rows, const char *claim, const char *row, struct data_spread spread)
{
    verdicts_add(rows->verdicts, claim, row, spread.mean);
    rows->variances = cli_need(realloc(rows->variances, (rows->count + 1) * sizeof *rows->variances));
    rows->variances[rows->count++] = (struct variance){ cli_need(strdup(claim)), cli_need(strdup(row)), spread };
}

void data_rows_add(struct data_rows *rows, const char *claim, const char *row, struct interval measured)
{
    verdicts_add(rows->verdicts, claim, row, measured);
}

static int write_variances(const struct data_rows *rows)
{
    if (!rows->path) return 0;
    struct table *t = table_open(rows->cfg, rows->path, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "ci: 99.9%% Student t over data sets (over prefixes where there is one data set); sd_prefix: between "
                  "prefixes of a data "
                  "set; sd_data: between data sets, what prefixes add taken out");
    for (size_t i = 0; i < rows->count; i++) {
        const struct variance *v = &rows->variances[i];
        const struct interval mean = v->spread.mean;
        table_text(t, v->claim);
        table_text(t, v->row);
        table_int(t, v->spread.sets.num_data);
        table_int(t, v->spread.sets.num_prefixes);
        for (int c = 0; c < 5; c++)
            table_num(t, (const double[]){ mean.value, mean.lo, mean.hi, v->spread.sd_data, v->spread.sd_prefix }[c]);
        table_end_row(t);
    }
    return table_close(t, 0);
}

int data_rows_close(struct data_rows *rows, int code)
{
    if (!code) code = write_variances(rows);
    code = verdicts_close(rows->verdicts, code);
    for (size_t i = 0; i < rows->count; i++) {
        free(rows->variances[i].claim);
        free(rows->variances[i].row);
    }
    free(rows->variances);
    free(rows->path);
    free(rows);
    return code;
}
