#include "cli/caption.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli/csv_record.h"
#include "cli/text_file.h"

enum { MAX_COLUMNS = 64, MAX_VALUES = 24 };

struct column { double value[MAX_VALUES], min, max; size_t num_values; };

/* Keeps `value` ascending and without repeats, as far as there is room. */
static void add(struct column *c, double x)
{
    c->min = fmin(c->min, x);
    c->max = fmax(c->max, x);
    size_t at = 0;
    while (at < c->num_values && c->value[at] < x) at++;
    if ((at < c->num_values && c->value[at] == x) || c->num_values == MAX_VALUES) return;
    memmove(c->value + at + 1, c->value + at, (c->num_values - at) * sizeof *c->value);
    c->value[at] = x;
    c->num_values++;
}

/* The numbers of the column whose name is the n characters at `name`; none where the table has no such column. */
static struct column read_column(const char *path, const char *name, size_t n)
{
    struct column c = { .min = INFINITY, .max = -INFINITY };
    char *text = text_file_read(path), *cell[MAX_COLUMNS];
    size_t cells, at = MAX_COLUMNS;
    bool header = true;
    for (char *p = text, *next; p && *p; p = next) {
        if (*p == '#') {
            next = strchr(p, '\n');
            if (next) next++;
            continue;
        }
        next = csv_record_split(p, cell, MAX_COLUMNS, &cells);
        if (cells > MAX_COLUMNS) break;
        for (size_t i = 0; i < cells && header; i++)
            if (strlen(cell[i]) == n && !strncmp(cell[i], name, n)) at = i;
        if (!header && at < cells) {
            char *end;
            const double x = strtod(cell[at], &end);
            if (end != cell[at] && !*end && isfinite(x)) add(&c, x);
        }
        header = false;
    }
    free(text);
    return c;
}

size_t caption_put(const char *text, const char *table_path, FILE *out)
{
    static const char *const kinds[] = { "@min(", "@max(", "@values(" };
    size_t missing = 0;
    while (*text) {
        size_t kind = 0;
        while (kind < 3 && strncmp(text, kinds[kind], strlen(kinds[kind]))) kind++;
        const char *name = kind < 3 ? text + strlen(kinds[kind]) : text, *end = kind < 3 ? strchr(name, ')') : NULL;
        if (!end) {
            fputc(*text++, out);
            continue;
        }
        const struct column c = read_column(table_path, name, (size_t)(end - name));
        if (!c.num_values) {
            fputc('?', out);
            missing++;
        } else if (kind < 2) {
            fprintf(out, "%.6g", kind ? c.max : c.min);
        } else {
            for (size_t i = 0; i < c.num_values; i++) fprintf(out, "%s%.6g", i ? ", " : "", c.value[i]);
        }
        text = end + 1;
    }
    return missing;
}
