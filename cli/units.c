#include "cli/units.h"
#include "cli/summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>

struct units {
    const struct cli_common *cfg;
    struct journal *journal;
    struct progress *progress;
    size_t count, width, done;
    double *rows;
    int status;
    bool said;                   /* the line about it was printed */
};

struct units *units_open(const struct cli_common *cfg, const char *identity, const char *what, size_t count,
                         size_t width, double unit_bytes)
{
    const double at_once = (double)count < (double)cfg->threads ? (double)count : (double)cfg->threads;
    /* Beside its row the journal has a copy of every unit. */
    if (cli_memory(cfg, at_once * unit_bytes + 2.0 * (double)count * ((double)width + 8.0) * sizeof(double), what))
        return NULL;
    struct units *units = calloc(1, sizeof *units);
    double *rows = calloc(count ? count : 1, (width ? width : 1) * sizeof *rows);
    if (!units || !rows) {
        cli_fail(cfg, EXIT_FAILED, "out of memory");
        free(rows);
        free(units);
        return NULL;
    }
    *units = (struct units){ .cfg = cfg, .count = count, .width = width, .rows = rows };
    if (!(units->journal = journal_open(cfg, identity))) {
        free(rows);
        free(units);
        return NULL;
    }
    units->progress = progress_start(cfg, what, (double)count);
    return units;
}

static void advance(struct units *units)
{
    size_t done;
#pragma omp atomic capture
    done = ++units->done;
    progress_to(units->progress, (double)done);
}

double *units_begin(struct units *units, size_t unit)
{
    int status;
    char key[32];
#pragma omp atomic read
    status = units->status;
    if (status || cli_interrupted()) return NULL;
    snprintf(key, sizeof key, "%zu", unit);
    double *row = units->rows + unit * units->width;
    if (cli_is_mine(units->cfg, unit) && !journal_get(units->journal, key, row, units->width)) return row;
    advance(units);
    return NULL;
}

/* Whether no line was printed yet; now one is. */
static bool says_first(struct units *units)
{
    bool said;
#pragma omp critical(units_said)
    {
        said = units->said;
        units->said = true;
    }
    return !said;
}

void units_end(struct units *units, size_t unit, int status)
{
    char key[32];
    snprintf(key, sizeof key, "%zu", unit);
    /* A unit cut short by a signal is not a result. */
    if (!status && cli_interrupted()) return;
    if (!status && journal_put(units->journal, key, units->rows + unit * units->width, units->width)) {
        status = GSL_EFAILED;
        (void)says_first(units);
    }
    if (status) {
#pragma omp atomic write
        units->status = status;
    }
    advance(units);
}

void units_refuse(struct units *units, size_t unit, int status, const char *line)
{
    if (says_first(units)) cli_fail(units->cfg, EXIT_FAILED, "%s", line);
    units_end(units, unit, status);
}

int units_status(struct units *units)
{
    progress_end(units->progress);
    units->progress = NULL;
    if (cli_interrupted()) return cli_interrupted();
    if (units->said) return EXIT_FAILED;
    if (units->status) return cli_status(units->cfg, units->status, "the work");
    return units->cfg->num_shards ? EXIT_SHARD : EXIT_DONE;
}

const double *units_row(const struct units *units, size_t unit)
{
    return units->rows + unit * units->width;
}

int units_close(struct units *units, int code)
{
    if (!units) return code ? code : EXIT_FAILED;
    progress_end(units->progress);
    code = journal_close(units->journal, code);
    free(units->rows);
    free(units);
    return code;
}

static int write_side_table(const struct cli_common *cfg, const struct units_study *study, const void *context,
                            const struct units *work)
{
    char *path = cli_side_path(cfg, study->side);
    if (!path) return EXIT_DONE;
    int code = EXIT_FAILED;
    struct table *t = table_open(cfg, path, study->side_columns);
    if (t) {
        study->side_rows(context, work, t);
        code = table_close(t, EXIT_DONE);
    }
    free(path);
    return code;
}

/* The tables and then the rows of the ledger, from units that are all known. */
static int write_study(const struct cli_common *cfg, const struct units_study *study, const void *context,
                       const struct units *work)
{
    struct table *t = table_open(cfg, NULL, study->columns);
    if (!t) return EXIT_FAILED;
    study->rows(context, work, t);
    int code = table_close(t, EXIT_DONE);
    if (!code && study->side) code = write_side_table(cfg, study, context, work);
    if (code || !study->decide) return code;
    struct verdicts *v = verdicts_open(cfg, study->stem);
    study->decide(context, work, v);
    return verdicts_close(v, EXIT_DONE);
}

int units_work(const struct cli_common *cfg, const char *identity, const struct units_study *study, const void *context,
               struct units **work)
{
    *work = units_open(cfg, identity, study->what, study->count, study->width, study->unit_bytes);
    if (!*work) return EXIT_FAILED;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cfg->threads)
    for (size_t i = 0; i < study->count; i++) {
        const size_t unit = study->last_first ? study->count - 1 - i : i;
        double *row = units_begin(*work, unit);
        if (row) units_end(*work, unit, study->unit(context, unit, row));
    }
    return units_status(*work);
}

int units_run(const struct cli_common *cfg, const struct cli_option *options, const struct units_study *study,
              const void *context)
{
    struct units *work;
    char *identity = cli_identity(options, cfg);
    int code = units_work(cfg, identity, study, context, &work);
    if (!code) code = write_study(cfg, study, context, work);
    code = units_close(work, code);
    free(identity);
    return code;
}

const double *units_grid_row(const struct units_grid *grid, size_t law, size_t len, size_t trial)
{
    return units_row(grid->work, (len * grid->num_laws + law) * grid->num_trials + trial);
}

struct interval units_exponent(const struct units_grid *grid, size_t law, int which, double level)
{
    double *x = cli_need(malloc(grid->num_lens * sizeof *x));
    double *y = cli_need(malloc(grid->num_trials * grid->num_lens * sizeof *y));
    for (size_t i = 0; i < grid->num_lens; i++) {
        x[i] = (double)grid->prefix_lens[i];
        for (size_t r = 0; r < grid->num_trials; r++)
            y[r * grid->num_lens + i] = units_grid_row(grid, law, i, r)[which];
    }
    const struct interval slope = cli_exponent(x, y, grid->num_lens, grid->num_trials, level);
    free(y);
    free(x);
    return slope;
}

void units_add_mean(struct table *t, const struct units_grid *grid, size_t law, size_t len, int which, bool interval)
{
    double *x = cli_need(malloc(grid->num_trials * sizeof *x));
    for (size_t r = 0; r < grid->num_trials; r++) x[r] = units_grid_row(grid, law, len, r)[which];
    const struct interval mean = cli_mean(x, grid->num_trials, 0.95);
    table_num(t, mean.value);
    if (interval) {
        table_num(t, mean.lo);
        table_num(t, mean.hi);
    }
    free(x);
}
