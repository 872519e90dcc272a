/* verdicts.csv as data, and numbers as a person reads them. */
#ifndef CLI_VERDICT_ROWS_H
#define CLI_VERDICT_ROWS_H
#include <stdbool.h>
#include <stddef.h>
#include "common/stats.h"

struct verdict_row {
    const char *claim, *row, *quantity, *rule, *verdict, *source, *program;
    const char *run;           /* the stem of its figure */
    const char *class, *same_as;       /* "" in tables written without these columns */
    struct interval measured;  /* an empty bound is an open one; an empty value is NaN */
};

struct verdict_rows {
    struct verdict_row *rows;
    size_t num_rows;
    char *storage;             /* what the strings point into */
};

/* Reads the file; one that does not exist has no rows. Returns NULL and, in error
 * (error_size bytes), one line naming file and line when it is malformed. */
struct verdict_rows *verdict_rows_read(const char *path, char *error, size_t error_size);
void verdict_rows_free(struct verdict_rows *v);

/* NULL when there is none. */
const struct verdict_row *verdict_rows_find(const struct verdict_rows *v, const char *claim, const char *row);

/* Whether `name` is one of the words of a comma-separated list; NULL lists all. */
bool run_is_listed(const char *list, const char *name);

/* "0.498 [0.491, 0.505]": as many digits as the interval's width supports, at most
 * six; the number alone when the interval is a point; "" when there is no number.
 * Writes at most `size` bytes. */
void interval_format(struct interval x, char *text, size_t size);

#endif
