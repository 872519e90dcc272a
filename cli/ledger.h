/* paper_notes.md, the ledger, as data: sections, entries and the rows that each
 * state one decision. Format:
 *
 *   # Section
 *   ## Subsection
 *   ### T2. Title
 *   **Statement.** ...   **Source.** recalled; ...   **Reading.** ...   **Measured.** ...
 *   | row | quantity | rule | verdict | measured | run |
 *   |---|---|---|---|---|---|
 *   | slope-random | slope of log error | in [-0.55, -0.45] | supported | -0.50 [-0.51, -0.49] | ntk_convergence |
 *
 * A "|" inside a cell is written "\|"; a cell keeps that form. Rows that are not preregistered, and rows
 * that measure what another row measures, are named in a paragraph of their entry, with reasons in
 * parentheses as wanted:
 *
 *   **Class.** exact (by construction): `bound`, `count`; exploratory: `slope`; same as F30 exponent: `held-out`. */
#ifndef CLI_LEDGER_H
#define CLI_LEDGER_H
#include <stddef.h>

/* preregistered: rule and instance were committed before a value was seen. exact: an identity, a
 * guarantee or a count, with nothing random that could decide otherwise; tests check it. exploratory: rule
 * or instance was settled on a value of the row. */
enum row_class { ROW_PREREGISTERED, ROW_EXACT, ROW_EXPLORATORY, NUM_ROW_CLASSES };

const char *row_class_name(enum row_class class);

struct ledger_row {
    const char *claim, *row, *quantity, *rule, *verdict, *measured, *run;  /* trimmed, "" when blank */
    size_t line;               /* of the file, from 1 */
    enum row_class class;
    const char *same_claim, *same_row;     /* the row that measures the same and is counted, "" when this one is */
};

struct ledger_entry {
    const char *section, *subsection;  /* subsection "" when there is none */
    const char *id, *title;
    const char *source;        /* "read", "recalled" or "ours" */
    const char *text;          /* everything between heading and table, Markdown */
    size_t first_row, num_rows;        /* its part of rows */
};

struct ledger {
    struct ledger_entry *entries;
    size_t num_entries;
    struct ledger_row *rows;
    size_t num_rows;
    char *storage;             /* what the strings above point into */
};

/* Reads and checks the file: ids and rows unique, every rule a margin, every
 * verdict a known one or blank. Returns NULL and, in error (error_size bytes), one
 * line naming file and line; errno is for text_file_code. The caller frees with ledger_free. */
struct ledger *ledger_read(const char *path, char *error, size_t error_size);
void ledger_free(struct ledger *l);

/* NULL when there is none. */
const struct ledger_row *ledger_find(const struct ledger *l, const char *claim, const char *row);
const struct ledger_entry *ledger_entry(const struct ledger *l, const char *claim);

#endif
