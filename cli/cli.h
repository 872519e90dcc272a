/* What only programs need: options, tables, verdict rows, progress, state.
 *
 * Exit codes: 0 done, 1 failed, 2 usage, 3 bad data, 130 after SIGINT, 143 after
 * SIGTERM. Everything a person reads goes to stderr as one line
 * "program: message"; tables go to --out. */
#ifndef CLI_H
#define CLI_H
#include <argp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <gsl/gsl_matrix.h>
#include "common/stats.h"

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_DATA = 3 };
/* Within a program only: a shard's units are done and nothing is to be written. journal_close makes it EXIT_DONE. */
enum { EXIT_SHARD = 256 };

/* ---- options ----------------------------------------------------------- */

/* Options every program has; first member of each program's config struct. */
struct cli_common {
    uint64_t seed;           /* --seed, 20240614 */
    int threads;             /* --threads, 0 = all CPUs; set to the number in use */
    const char *out;         /* --out, "-" = stdout */
    bool quiet;              /* --quiet */
    const char *profile;     /* --profile, "" outside `make reproduce` */
    const char *verdicts;    /* --verdicts FILE: where verdict rows go, or NULL */
    const char *ledger;      /* --ledger FILE: paper_notes.md, or NULL */
    size_t shard, num_shards;/* --shard I/N; num_shards 0: all units */
    const char *program;     /* name of the program */
    int argc; char **argv;   /* the command line as given */
};

/* Parses with argp: `options` are the program's own, `parse` gets their keys (as
 * argp's parser does; arg text; use the cli_parse_* helpers), `check` (may be
 * NULL) is called once all are read and says by return value what is wrong
 * (NULL = fine). Never returns on --help, --version or a usage error (exit 2).
 * Sets threads, GSL's error handler off, signals, instruction set. Long options
 * only, no positional arguments. --help prints `doc` and the options; the doc of an
 * option ends with its default, "... (default 16)". */
void cli_parse(int argc, char **argv, const char *doc, const struct argp_option *options,
               error_t (*parse)(int key, char *arg, struct argp_state *state),
               const char *(*check)(void *cfg), struct cli_common *cfg);

/* Each returns 0, or reports "--name: why" as a usage error (exit 2).
 * `state` gives the option's name through cli_option_name. */
int cli_parse_size(struct argp_state *state, int key, const char *arg, size_t min, size_t max, size_t *out);
/* finite, > min_open */
int cli_parse_double(struct argp_state *state, int key, const char *arg, double min_open, double *out);
/* Lists belong to cli and live as long as the program. */
int cli_parse_size_list(struct argp_state *state, int key, const char *arg, size_t min, size_t max,
                        size_t **out, size_t *count);
int cli_parse_double_list(struct argp_state *state, int key, const char *arg, double min_open,
                          double **out, size_t *count);
/* "A-B" with 0 <= A <= B <= 9999. */
int cli_parse_range(struct argp_state *state, int key, const char *arg, int *first, int *last);
/* Index of arg in the NULL-terminated `names`. */
int cli_parse_choice(struct argp_state *state, int key, const char *arg, const char *const *names, int *out);
int cli_parse_choice_list(struct argp_state *state, int key, const char *arg, const char *const *names,
                          int **out, size_t *count);

/* An option called "out" or "...-out" names an output: cli_parse refuses two outputs of one
 * name (exit 2) and one that cannot be written (exit 1) before any work. Flags of an argp_option:
 * CLI_INPUT, a file so called is read; CLI_TABLE, it is a table or other text, which is refused
 * the name of an array, .npy (exit 1). */
enum { CLI_INPUT = 0x100000, CLI_TABLE = 0x200000 };

/* Key of an entry of `options` that is one of the options every program has: its argument, flags
 * and doc take the place of the common ones; without a doc the program does not have the option. */
enum { CLI_COMMON = 0x7d0000 };
/* What a program that decides no rows puts in front of the end of its options. */
#define CLI_NO_VERDICTS { "verdicts", CLI_COMMON, NULL, 0, NULL, 0 }, { "ledger", CLI_COMMON, NULL, 0, NULL, 0 }

/* The option --shard, in the list of a program whose work is units in a journal. */
enum { CLI_SHARD = 0x7e0000 };
#define CLI_SHARD_OPTION                                                                                     \
    { "shard", CLI_SHARD, "I/N", 0,                                                                                   \
      "do only units I, I + N, I + 2N, .. and keep them in OUT.shard-I-of-N, without a table; "                       \
      "the same command without this option takes in what shards are there, does the rest and writes the outputs", 90 }
/* Whether unit `unit` is this run's to do. */
bool cli_is_mine(const struct cli_common *cfg, size_t unit);

/* Name of the option `key`, without dashes. */
const char *cli_option_name(const struct argp_state *state, int key);

/* Whether the command line has the option; known from cli_parse's `check` on. */
bool cli_given(const char *name);
/* A warning for each of `names` (NULL-terminated) that was given and has no effect `because`. */
void cli_warn_unused(const struct cli_common *cfg, const char *because, const char *const *names);

/* One line on stderr: "program: ...". Returns `code`, for `return cli_fail(...)`. */
int cli_fail(const struct cli_common *cfg, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void cli_warn(const struct cli_common *cfg, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* `memory` itself; NULL, which must never become a number in a table, ends the run at once:
 * one line, exit 1, outputs as they were, finished work kept. For the small arrays of a
 * summary; what a user's sizes decide is asked for with a code. */
void *cli_need(void *memory);
/* The same for a GSL status: ends the run on GSL_ENOMEM, returns any other. */
int cli_need_memory(int gsl_status);
/* Exit code of a GSL status that `what` ended with; prints the line when non-zero. */
int cli_status(const struct cli_common *cfg, int gsl_status, const char *what);

/* A message to or from another process of this run (processes.h) failed: one line, which each process
 * may print; the exit code. */
int cli_alone(const struct cli_common *cfg);
/* All processes of the run call it together, each with its own exit code: the code all of them go on or end with. That
 * of process 0 where it has one, else that of the first process that has (a line says which); code with one process. */
int cli_agree(const struct cli_common *cfg, int code);
/* array (count, size bytes each): the part of every process (processes_range) to process 0, on `all` from there to
 * every one. Exit code. */
int cli_collect(const struct cli_common *cfg, void *array, size_t count, size_t size, bool all);
/* EXIT_DONE once standard output is flushed; EXIT_FAILED, the line printed, when a write failed. */
int cli_stdout(const struct cli_common *cfg);

/* Refuses (exit 1, one line) when `bytes` exceed what the machine has. */
int cli_memory(const struct cli_common *cfg, double bytes, const char *what);

/* 0, or 128 + N once the signal N has arrived that ends the program (130 SIGINT, 143
 * SIGTERM, SIGHUP, SIGXCPU; those ignored at the start stay so); poll between units of work and
 * return it from main. A program that has not ended after 3 seconds is ended. */
int cli_interrupted(void);

/* ---- outputs: all of them or none ----------------------------------------- */

/* From here on finished outputs (tables, arrays, verdict rows) wait, each complete and on
 * the disk beside its target, until cli_outputs_end. With code 0 that renames them all, in
 * the order they were finished, and returns 0; when one cannot be renamed the others are
 * taken back, and it returns EXIT_FAILED with the line printed. Otherwise it discards them
 * and returns code. A crash between two renames leaves whole files, old and new; the same
 * command run again makes all of them new. journal_open and
 * samples_load begin, journal_close ends; programs without a journal call both
 * themselves. Without a begin every output is in place once it is finished. */
void cli_outputs_begin(const struct cli_common *cfg);
int cli_outputs_end(const struct cli_common *cfg, int code);
/* One more output than the options name, such as a file in a folder: `what` it is. Exit code, the
 * line printed, when it is one of the others or cannot be written. */
int cli_outputs_add(const struct cli_common *cfg, const char *what, const char *path);

/* ---- arrays from files (by extension .npy or .csv) ---------------------- */

/* The exit code of a reader's status: EXIT_FAILED when memory or the system failed, else EXIT_DATA. */
int cli_input_code(int status);
/* The line and exit code of an input that a reader of common/ or data/ refused with `status`:
 * EXIT_FAILED when memory or the system failed, else EXIT_DATA. */
int cli_bad_input(const struct cli_common *cfg, int status, const char *path, const char *why);

/* A (rows, cols) matrix in double; exit code 0 or 3 with the line printed. */
int cli_read_matrix(const struct cli_common *cfg, const char *path, gsl_matrix **out);
int cli_read_vector(const struct cli_common *cfg, const char *path, gsl_vector **out);
int cli_write_matrix(const struct cli_common *cfg, const char *path, const gsl_matrix *m);
int cli_write_vector(const struct cli_common *cfg, const char *path, const gsl_vector *v);
/* Any shape, of floats or doubles (the other is NULL): NPY, or CSV when path ends in .csv. */
int cli_write_array(const struct cli_common *cfg, const char *path, const float *f32, const double *f64, size_t rank,
                    const size_t *shape);

/* ---- tables -------------------------------------------------------------- */

struct table;
/* Opens `path` (NULL: cfg->out) with the metadata lines and the header row.
 * `columns` is the header, comma separated; both must outlive the table. Returns NULL
 * with the line printed. */
struct table *table_open(const struct cli_common *cfg, const char *path, const char *columns);
void table_note(struct table *t, const char *format, ...)    /* a "# ..." line; before the first row */
    __attribute__((format(printf, 2, 3)));
/* Cells in column order; a non-finite number is written as an empty cell. */
void table_num(struct table *t, double x);                   /* %.17g */
void table_interval(struct table *t, struct interval x);     /* three cells: value, lo, hi */
void table_int(struct table *t, uint64_t x);
void table_text(struct table *t, const char *text);
void table_empty(struct table *t);
void table_end_row(struct table *t);                         /* asserts the number of cells */
/* With code 0 flushes, renames into place and returns 0 (1 if that failed, with
 * the line printed); otherwise discards and returns code. NULL counts as failed. */
int table_close(struct table *t, int code);

/* ---- verdict rows ---------------------------------------------------------- */

struct verdicts;
/* Rows of this program, collected and written by verdicts_close in place of its
 * earlier ones (under a lock). With cfg->verdicts NULL everything is a no-op. The
 * rule of each row is read from the ledger, never from the program. */
struct verdicts *verdicts_open(const struct cli_common *cfg, const char *stem);
/* `claim` "T2", `row` a slug of its own within the claim, unique. Unknown in the
 * ledger: verdicts_close fails. */
void verdicts_add(struct verdicts *v, const char *claim, const char *row, struct interval measured);
void verdicts_not_tested(struct verdicts *v, const char *claim, const char *row);
/* Before any work: whether --verdicts, if given, names a ledger that can be read and gives the row to
 * this run. Exit code, the line printed. verdicts_check, of the ledger alone, is part of cli_parse. */
int verdicts_check(const struct cli_common *cfg);
int verdicts_check_row(const struct cli_common *cfg, const char *stem, const char *claim, const char *row);
/* With code 0 writes the rows and returns 0, or EXIT_FAILED with the line printed: a
 * row that the ledger does not know or gives to another run, a full disk. Otherwise
 * writes nothing and returns code. */
int verdicts_close(struct verdicts *v, int code);

/* ---- progress ---------------------------------------------------------------- */

struct progress;
/* On a terminal one line with time left, else a plain line now and then; silent
 * with --quiet. */
struct progress *progress_start(const struct cli_common *cfg, const char *what, double total);
void progress_to(struct progress *p, double done);           /* thread-safe */
void progress_end(struct progress *p);

double cli_clock_s(void);                                    /* seconds from some start on */

/* ---- state: resume after any kill ---------------------------------------------- */

/* A journal beside --out (OUT.state, or .OUT.prefix-ntk-state where a file of another
 * origin has that name): finished units of work by key, each an array of doubles,
 * appended with a checksum; a torn tail is dropped on reading. Bound to this build of the
 * program, its seed, the instruction set, the BLAS and its core, and all options that
 * change results (`identity`, a string made by the caller); another identity starts
 * afresh. NULL with the line printed when the file cannot be used. With --out "-" or a target
 * that is not a regular file there is no file and nothing is remembered.
 * With --shard the file is OUT.shard-I-of-N and stays there. Without it the finished shards beside
 * --out whose identity agrees are read, too (one that another process writes is refused,
 * others get a warning and are left alone), and removed once the outputs are in place. */
struct journal;
struct journal *journal_open(const struct cli_common *cfg, const char *identity);
/* What binds a state: a hash of all of that. 0, or an errno. */
int journal_identity(const struct cli_common *cfg, const char *identity, uint64_t *out);
/* 1 and fills out[0..n) when `key` is there with n numbers, else 0. */
int journal_get(struct journal *j, const char *key, double *out, size_t n);
/* Appends to the file at once, so that no kill loses it. A later record of a key replaces an earlier one.
 * Thread-safe. Returns 0, or EXIT_FAILED with the line printed. */
int journal_put(struct journal *j, const char *key, const double *x, size_t n);
/* The state within a long unit of work, in a file of its own (OUT.state.HASH) that the
 * next save of the key replaces: fills out[0..n) and returns 1 when the last save of
 * `key` had n numbers, else 0. journal_save returns 0, or EXIT_FAILED with the line
 * printed; journal_forget removes the file of a unit that is done. Different keys may
 * be used by different threads. */
int journal_saved(struct journal *j, const char *key, double *out, size_t n);
size_t journal_saved_size(struct journal *j, const char *key);      /* that number, 0 where there is none */
int journal_save(struct journal *j, const char *key, const double *x, size_t n);
void journal_forget(struct journal *j, const char *key);
/* Ends the outputs (cli_outputs_end) and, once they are in place, removes the files. After
 * a failure or an interruption finished work stays there: the same command resumes, as
 * after a kill. Close it last. Returns code; EXIT_FAILED for NULL with code 0, and when
 * the outputs fail. */
int journal_close(struct journal *j, int code);

#endif
