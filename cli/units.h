/* The work of a program as numbered units, each an array of numbers: done side by
 * side, remembered in the journal, resumed after a kill. The loop is the caller's:
 *
 *     struct units *work = units_open(&cfg, identity, "trials", count, width, bytes);
 *     #pragma omp parallel for schedule(dynamic) num_threads(cfg.threads)
 *     for (size_t u = 0; u < count; u++) {
 *         double *row = units_begin(work, u);
 *         if (row) units_end(work, u, compute(u, row));
 *     }
 *     code = units_status(work);  ... units_row(work, u) ...  units_close(work, code);
 */
#ifndef CLI_UNITS_H
#define CLI_UNITS_H
#include "cli/cli.h"
#include "cli/option_table.h"

struct units;

/* `identity` as in journal_open. unit_bytes: what a unit takes while it is worked on, one by every thread; with the
 * numbers of all units that is refused where the machine has less (cli_memory). 0: estimated by the caller. NULL: the
 * line was printed. */
struct units *units_open(const struct cli_common *cfg, const char *identity, const char *what, size_t count,
                         size_t width, double unit_bytes);
/* The row to fill; NULL when the unit is known already or another shard's, or the work has stopped. */
double *units_begin(struct units *units, size_t unit);
/* status: a GSL code; the first that is not 0 stops the work. */
void units_end(struct units *units, size_t unit, int status);
/* The same with the reason as a line, which is the one that is printed: for a status other than 0. */
void units_refuse(struct units *units, size_t unit, int status, const char *line);
/* After the loop: exit code of the work, the line printed; EXIT_SHARD when the units of a shard are done, which
 * units_close makes EXIT_DONE. */
int units_status(struct units *units);
const double *units_row(const struct units *units, size_t unit);
/* Call last; see journal_close. NULL counts as failed. */
int units_close(struct units *units, int code);

/* A study: what a unit is, what the table shows of all of them, what is decided. `context` is the caller's. */
struct units_study {
    const char *stem;                   /* of its rows in the ledger */
    const char *what, *columns;         /* what a unit is called, in the plural; the header of the table */
    size_t count, width;
    double unit_bytes;                  /* see units_open */
    bool last_first;                    /* the last units take longest */
    int (*unit)(const void *context, size_t unit, double *row);                                /* a GSL code */
    void (*rows)(const void *context, const struct units *work, struct table *t);              /* notes, then rows */
    /* A second table, OUT_<side>.csv; side NULL: none. */
    const char *side, *side_columns;
    void (*side_rows)(const void *context, const struct units *work, struct table *t);
    void (*decide)(const void *context, const struct units *work, struct verdicts *v);         /* NULL: nothing */
};

/* The units done, where all else is the caller's: rows, decide and columns are not read. *work is to be closed whatever
 * the code; NULL when it could not be opened. Exit code. */
int units_work(const struct cli_common *cfg, const char *identity, const struct units_study *study, const void *context,
               struct units **work);

/* Does the units, side by side or as the journal and the shards have them, writes the tables, the first to --out, then
 * the rows of the ledger. `options` is the program's table, which identifies its journal. Exit code. */
int units_run(const struct cli_common *cfg, const struct cli_option *options, const struct units_study *study,
              const void *context);

/* Units laid out by prefix length, sign law and trial (the trial fastest): what the
 * studies of training do. */
struct units_grid {
    const struct units *work;
    size_t num_laws, num_lens, num_trials;
    const size_t *prefix_lens;
};

const double *units_grid_row(const struct units_grid *grid, size_t law, size_t len, size_t trial);
/* Exponent of number `which` in m over the trials of a law; NaN with a single length or a
 * value that is not positive. */
struct interval units_exponent(const struct units_grid *grid, size_t law, int which, double level);
/* Cells: the mean over trials of number `which`, and its 95 % interval when asked for. */
void units_add_mean(struct table *t, const struct units_grid *grid, size_t law, size_t len, int which, bool interval);

#endif
