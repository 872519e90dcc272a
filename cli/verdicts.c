#include "cli/cli.h"

#include "cli/outputs.h"
#include "cli/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* Tables without the last two columns, as they were written before, are read and completed. */
static const char first_columns[] = "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure";
static const char header[] = "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure,class,same_as";
enum { FIGURE_COLUMN = 11, NUM_COLUMNS = 14 };

struct verdict_row { char *claim, *row; struct interval measured; bool tested; };

struct verdicts {
    const struct cli_common *cfg;
    char *figure;                /* "STEM.svg": marks the rows of this run */
    const char *stem;
    struct verdict_row *rows;
    size_t count, room;
    bool failed;
};

/* What every run without --verdicts gets. */
static struct verdicts inactive;

static void verdicts_free(struct verdicts *v)
{
    for (size_t i = 0; i < v->count; i++) {
        free(v->rows[i].claim);
        free(v->rows[i].row);
    }
    free(v->rows);
    free(v->figure);
    free(v);
}

struct verdicts *verdicts_open(const struct cli_common *cfg, const char *stem)
{
    if (!cfg->verdicts) return &inactive;
    struct verdicts *v = calloc(1, sizeof *v);
    if (!v || asprintf(&v->figure, "%s.svg", stem) < 0) {
        free(v);
        cli_fail(cfg, EXIT_FAILED, "%s: out of memory", cfg->verdicts);
        return NULL;
    }
    v->cfg = cfg;
    v->stem = stem;
    return v;
}

static void add(struct verdicts *v, const char *claim, const char *row, struct interval measured, bool tested)
{
    if (!v || v == &inactive || v->failed) return;
    for (size_t i = 0; i < v->count; i++)
        if (!strcmp(v->rows[i].claim, claim) && !strcmp(v->rows[i].row, row)) {
            cli_fail(v->cfg, EXIT_FAILED, "verdict %s %s: decided twice", claim, row);
            v->failed = true;
            return;
        }
    if (v->count == v->room) {
        const size_t room = v->room ? 2 * v->room : 16;
        struct verdict_row *grown = realloc(v->rows, room * sizeof *grown);
        if (!grown) goto no_memory;
        v->rows = grown;
        v->room = room;
    }
    struct verdict_row added = { strdup(claim), strdup(row), measured, tested };
    if (added.claim && added.row) {
        v->rows[v->count++] = added;
        return;
    }
    free(added.claim);
    free(added.row);
no_memory:
    cli_fail(v->cfg, EXIT_FAILED, "%s: out of memory", v->cfg->verdicts);
    v->failed = true;
}

void verdicts_add(struct verdicts *v, const char *claim, const char *row, struct interval measured)
{
    add(v, claim, row, measured, true);
}

void verdicts_not_tested(struct verdicts *v, const char *claim, const char *row)
{
    add(v, claim, row, (struct interval){ NAN, NAN, NAN, 0 }, false);
}

static void put_text(FILE *stream, const char *text)
{
    const bool quoted = strpbrk(text, ",\"\r\n") != NULL;
    if (quoted) fputc('"', stream);
    for (; *text; text++) {
        if (*text == '"') fputc('"', stream);
        fputc(*text, stream);
    }
    if (quoted) fputc('"', stream);
}

static void put_number(FILE *stream, double x)
{
    if (isfinite(x)) fprintf(stream, "%.17g,", x);
    else fputc(',', stream);
}

static int other_run(const struct cli_common *cfg, const struct ledger_row *row, const char *stem)
{
    return cli_fail(cfg, EXIT_FAILED, "%s:%zu: row %s of %s belongs to the run '%s', not to '%s'", cfg->ledger,
                    row->line, row->row, row->claim, row->run, stem);
}

/* One line by the rule of the ledger; a row the ledger does not know is an error. */
static int put_row(const struct verdicts *v, const struct verdict_row *r, const struct ledger *ledger, FILE *stream)
{
    const struct cli_common *cfg = v->cfg;
    const struct ledger_row *known = ledger_find(ledger, r->claim, r->row);
    const struct ledger_entry *entry = ledger_entry(ledger, r->claim);
    struct margin margin;
    if (!known || !entry) return cli_fail(cfg, EXIT_FAILED, "%s: no row %s in %s", cfg->ledger, r->row, r->claim);
    if (strcmp(known->run, v->stem)) return other_run(cfg, known, v->stem);
    if (margin_parse(known->rule, &margin))
        return cli_fail(cfg, EXIT_FAILED, "%s:%zu: '%s' is not a rule", cfg->ledger, known->line, known->rule);
    const enum verdict verdict = r->tested ? verdict_by_margin(r->measured, margin) : VERDICT_NOT_TESTED;
    const char *const texts[] = { r->claim, r->row, known->quantity, known->rule };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_text(stream, texts[i]);
        fputc(',', stream);
    }
    put_number(stream, r->measured.value);
    put_number(stream, r->measured.lo);
    put_number(stream, r->measured.hi);
    if (r->tested) fprintf(stream, "%zu", r->measured.n);
    fprintf(stream, ",%s,%s,", verdict_name(verdict), entry->source);
    put_text(stream, cfg->program);
    fputc(',', stream);
    put_text(stream, v->figure);
    fprintf(stream, ",%s,%s%s%s\n", row_class_name(known->class), known->same_claim, *known->same_claim ? " " : "",
            known->same_row);
    return EXIT_DONE;
}

/* Whether the column `figure` of a line is this; -1 when the number of columns is wrong. *columns is the number. */
static int line_is_of(const char *line, const char *figure, size_t *columns)
{
    size_t column = 0;
    bool quoted = false;
    const char *cell = line;
    for (const char *c = line; *c; c++) {
        if (*c == '"') quoted = !quoted;
        if (*c == ',' && !quoted && ++column == FIGURE_COLUMN) cell = c + 1;
    }
    *columns = column + 1;
    if ((*columns != FIGURE_COLUMN + 1 && *columns != NUM_COLUMNS) || quoted) return -1;
    const size_t len = strlen(figure);
    return strcspn(cell, ",") == len && !strncmp(cell, figure, len);
}

/* Copies the rows of other runs. */
static int copy_others(const struct verdicts *v, FILE *stream)
{
    const char *path = v->cfg->verdicts;
    FILE *old = fopen(path, "re");
    if (!old) return errno == ENOENT ? EXIT_DONE : cli_fail(v->cfg, EXIT_FAILED, "%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t room = 0, number = 0;
    int code = EXIT_DONE;
    errno = 0;
    while (!code && getline(&line, &room, old) > 0) {
        line[strcspn(line, "\r\n")] = '\0';
        size_t columns = NUM_COLUMNS;
        const int mine = number++ ? line_is_of(line, v->figure, &columns)
                         : strcmp(line, header) && strcmp(line, first_columns) ? -1 : 1;
        if (mine < 0) code = cli_fail(v->cfg, EXIT_FAILED, "%s:%zu: not a line of a verdict table", path, number);
        else if (!mine) fprintf(stream, "%s%s\n", line, columns == NUM_COLUMNS ? "" : ",,");
    }
    /* A failed read looks like the end of the file: the rows behind it would be lost. */
    if (!code && (ferror(old) || !feof(old)))
        code = cli_fail(v->cfg, EXIT_FAILED, "%s: %s", path, errno == ENOMEM ? "out of memory"
                        : strerror(errno ? errno : EIO));
    free(line);
    fclose(old);
    return code;
}

static int write_rows(const struct verdicts *v, const struct ledger *ledger, int lock)
{
    char why[256];
    struct atomic_file *file;
    const char *path = v->cfg->verdicts;
    if (atomic_file_open(path, &file, why, sizeof why)) {
        close(lock);
        return cli_fail(v->cfg, EXIT_FAILED, "%s: %s", path, why);
    }
    FILE *stream = atomic_file_stream(file);
    fprintf(stream, "%s\n", header);
    int code = copy_others(v, stream);
    for (size_t i = 0; i < v->count && !code; i++) code = put_row(v, &v->rows[i], ledger, stream);
    if (code) {
        atomic_file_discard(file);
        close(lock);
        return code;
    }
    return outputs_finish(v->cfg, path, file, lock);
}

/* Waits until no other program is writing verdicts. The lock goes with the descriptor, once
 * the rows are in place. */
int verdicts_lock(const char *path)
{
    char *name;
    if (asprintf(&name, "%s.lock", path) < 0) return -1;
    const int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    free(name);
    while (fd >= 0 && flock(fd, LOCK_EX)) {
        if (errno == EINTR) continue;
        close(fd);
        return -1;
    }
    return fd;
}

int verdicts_check(const struct cli_common *cfg)
{
    return verdicts_check_row(cfg, NULL, NULL, NULL);
}

int verdicts_check_row(const struct cli_common *cfg, const char *stem, const char *claim, const char *row)
{
    char why[512];
    if (!cfg->verdicts) return EXIT_DONE;
    struct ledger *ledger = ledger_read(cfg->ledger, why, sizeof why);
    if (!ledger) return cli_fail(cfg, EXIT_FAILED, "%s", why);
    const struct ledger_row *known = claim ? ledger_find(ledger, claim, row) : NULL;
    int code = EXIT_DONE;
    if (claim && !known) code = cli_fail(cfg, EXIT_FAILED, "%s: no row %s in %s", cfg->ledger, row, claim);
    else if (claim && strcmp(known->run, stem)) code = other_run(cfg, known, stem);
    ledger_free(ledger);
    return code;
}

int verdicts_close(struct verdicts *v, int code)
{
    if (!v) return code ? code : EXIT_FAILED;
    if (v == &inactive) return code;
    if (!code && v->failed) code = EXIT_FAILED;
    if (!code) {
        char why[512];
        struct ledger *ledger = ledger_read(v->cfg->ledger, why, sizeof why);
        const int lock = ledger ? verdicts_lock(v->cfg->verdicts) : -1;
        if (!ledger) code = cli_fail(v->cfg, EXIT_FAILED, "%s", why);
        else if (lock < 0) code = cli_fail(v->cfg, EXIT_FAILED, "%s.lock: %s", v->cfg->verdicts, strerror(errno));
        else code = write_rows(v, ledger, lock);
        ledger_free(ledger);
    }
    verdicts_free(v);
    return code;
}
