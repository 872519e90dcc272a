#include "cli/verdict_rows.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/csv_record.h"
#include "cli/text_file.h"

enum {
    CLAIM, ROW, QUANTITY, RULE, VALUE, CI_LO, CI_HI, COUNT, VERDICT, SOURCE, PROGRAM, FIGURE, CLASS, SAME_AS,
        NUM_COLUMNS
};
/* Tables written before the last two columns were. */
enum { NUM_FIRST_COLUMNS = CLASS };

/* A larger number of trials is no count: 2^53, to which doubles count. */
static const double MOST_COUNT = 9007199254740992.0;

static const char first_columns[] = "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure";
static const char header[] = "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure,class,same_as";

static bool number(const char *text, double empty, double *out)
{
    if (!*text) { *out = empty; return true; }
    char *end;
    *out = strtod(text, &end);
    return !*end && isfinite(*out);
}

static int parse(struct verdict_rows *v, const char *path, char *error, size_t error_size)
{
    size_t room = 0, line = 0, num_columns = 0;
    for (char *p = v->storage, *next; p && *p; p = next) {
        line++;
        if (*p == '#') {
            next = strchr(p, '\n');
            if (next) next++;
            continue;
        }
        if (!num_columns) {
            next = strchr(p, '\n');
            if (next) *next++ = '\0';
            if (!strcmp(p, header)) num_columns = NUM_COLUMNS;
            else if (!strcmp(p, first_columns)) num_columns = NUM_FIRST_COLUMNS;
            if (num_columns) continue;
            snprintf(error, error_size, "%s:%zu: the header is not %s", path, line, header);
            return -1;
        }
        char *cell[NUM_COLUMNS];
        size_t cells;
        double count;
        next = csv_record_split(p, cell, NUM_COLUMNS, &cells);
        if (v->num_rows == room) {
            room = room ? 2 * room : 64;
            struct verdict_row *more = realloc(v->rows, room * sizeof *more);
            if (!more) { snprintf(error, error_size, "%s: out of memory", path); return -1; }
            v->rows = more;
        }
        struct verdict_row *r = &v->rows[v->num_rows];
        if (cells != num_columns || !number(cell[VALUE], NAN, &r->measured.value)
            || !number(cell[CI_LO], -INFINITY, &r->measured.lo) ||
            !number(cell[CI_HI], INFINITY, &r->measured.hi) || !number(cell[COUNT], 0.0, &count)
            || !(count >= 0.0 && count <= MOST_COUNT)) {
            snprintf(error, error_size, "%s:%zu: not a verdict row", path, line);
            return -1;
        }
        r->measured.n = (size_t)count;
        r->claim = cell[CLAIM];
        r->row = cell[ROW];
        r->quantity = cell[QUANTITY];
        r->rule = cell[RULE];
        r->verdict = cell[VERDICT];
        r->source = cell[SOURCE];
        r->program = cell[PROGRAM];
        r->class = cells == NUM_COLUMNS ? cell[CLASS] : "";
        r->same_as = cells == NUM_COLUMNS ? cell[SAME_AS] : "";
        char *suffix = strrchr(cell[FIGURE], '.');
        if (suffix) *suffix = '\0';
        r->run = cell[FIGURE];
        if (verdict_rows_find(v, r->claim, r->row)) {
            snprintf(error, error_size, "%s:%zu: %s %s stands there twice", path, line, r->claim, r->row);
            return -1;
        }
        v->num_rows++;
    }
    return 0;
}

struct verdict_rows *verdict_rows_read(const char *path, char *error, size_t error_size)
{
    struct verdict_rows *v = calloc(1, sizeof *v);
    if (!v) {
        snprintf(error, error_size, "%s: out of memory", path);
        return NULL;
    }
    v->storage = text_file_read(path);
    if (!v->storage && errno == ENOENT) return v;
    if (!v->storage) snprintf(error, error_size, "%s: %s", path, strerror(errno));
    else errno = EINVAL;
    if (!v->storage || parse(v, path, error, error_size)) {
        verdict_rows_free(v);
        return NULL;
    }
    return v;
}

void verdict_rows_free(struct verdict_rows *v)
{
    if (!v) return;
    free(v->rows);
    free(v->storage);
    free(v);
}

const struct verdict_row *verdict_rows_find(const struct verdict_rows *v, const char *claim, const char *row)
{
    for (size_t i = 0; i < v->num_rows; i++)
        if (!strcmp(v->rows[i].claim, claim) && !strcmp(v->rows[i].row, row)) return &v->rows[i];
    return NULL;
}

bool run_is_listed(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = list; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !strncmp(p, name, n)) return true;
    return !list;
}

/* x with `digits` significant ones, counted at the magnitude 10^top. */
static void number_format(double x, int top, int digits, bool scientific, char *text, size_t size)
{
    if (isnan(x)) snprintf(text, size, "?");
    else if (isinf(x)) snprintf(text, size, "%s", x < 0.0 ? "-∞" : "∞");
    else if (x == 0.0) snprintf(text, size, "0");
    else if (!scientific) {
        const int decimals = digits - 1 - top > 0 ? digits - 1 - top : 0;
        /* What rounds to 0 has no sign. */
        snprintf(text, size, "%.*f", decimals, fabs(x) < 0.5 * pow(10.0, -decimals) ? 0.0 : x);
    } else {
        char raw[48];
        snprintf(raw, sizeof raw, "%.*e", digits - 1, x);
        char *e = strchr(raw, 'e');
        const int exponent = atoi(e + 1);
        *e = '\0';
        snprintf(text, size, "%se%d", raw, exponent);
    }
}

void interval_format(struct interval x, char *text, size_t size)
{
    if (size) *text = '\0';
    if (isnan(x.value)) return;
    double largest = fabs(x.value);
    if (isfinite(x.lo)) largest = fmax(largest, fabs(x.lo));
    if (isfinite(x.hi)) largest = fmax(largest, fabs(x.hi));
    const int top = largest > 0.0 && isfinite(largest) ? (int)floor(log10(largest)) : 0;
    const double half = 0.5 * (x.hi - x.lo);
    int digits = half > 0.0 && isfinite(half) ? top - (int)floor(log10(half)) + 2 : 4;
    digits = digits < 2 ? 2 : digits > 6 ? 6 : digits;
    const bool scientific = top < -3 || top > 5;
    char value[64], lo[64], hi[64];
    number_format(x.value, top, digits, scientific, value, sizeof value);
    number_format(x.lo, top, digits, scientific, lo, sizeof lo);
    number_format(x.hi, top, digits, scientific, hi, sizeof hi);
    if (x.lo == x.value && x.hi == x.value) snprintf(text, size, "%s", value);
    else snprintf(text, size, "%s [%s, %s]", value, lo, hi);
}
