#include "cli/ledger.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/stats.h"
#include "cli/ledger_classes.h"
#include "cli/text_file.h"

enum { NUM_CELLS = 6 };

static const char *const sources[] = { "read", "recalled", "ours", NULL };

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) *--end = '\0';
    return s;
}

/* Cuts "| a | b |" in place. Returns the number of cells, at most max + 1. */
static size_t split_cells(char *line, char **cells, size_t max)
{
    size_t n = 0;
    char *p = strchr(line, '|');
    while (p && n <= max) {
        char *start = ++p;
        while (*p && !(*p == '|' && p[-1] != '\\')) p++;
        if (!*p) break;          /* nothing but blanks may follow the last bar */
        *p = '\0';
        if (n < max) cells[n] = trim(start);
        n++;
    }
    return n;
}

static bool known_verdict(const char *word)
{
    if (!*word) return true;
    for (int v = VERDICT_NOT_TESTED; v <= VERDICT_INCONCLUSIVE; v++)
        if (!strcmp(word, verdict_name((enum verdict)v))) return true;
    return false;
}

/* The first word after "**Source.**", or NULL when it is none of the three. */
static const char *source_of(const char *text)
{
    static const char mark[] = "**Source.**";
    const char *p = strstr(text, mark);
    if (!p) return NULL;
    p += strlen(mark);
    p += strspn(p, " \n");
    for (size_t i = 0; sources[i]; i++) {
        const size_t n = strlen(sources[i]);
        if (!strncmp(p, sources[i], n) && !isalnum((unsigned char)p[n])) return sources[i];
    }
    return NULL;
}

struct parser {
    struct ledger *l;
    const char *path;
    char *error;
    size_t error_size, line;
    size_t entry_room, row_room;
    const char *section, *subsection;
    bool in_entry, in_table;
};

static int refuse(struct parser *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(struct parser *p, const char *format, ...)
{
    const int n = snprintf(p->error, p->error_size, "%s:%zu: ", p->path, p->line);
    if (n >= 0 && (size_t)n < p->error_size) {
        va_list args;
        va_start(args, format);
        vsnprintf(p->error + n, p->error_size - (size_t)n, format, args);
        va_end(args);
    }
    return -1;
}

static void *grow(void *array, size_t used, size_t *room, size_t size)
{
    if (used < *room) return array;
    const size_t more = *room ? 2 * *room : 64;
    void *p = realloc(array, more * size);
    if (p) *room = more;
    return p;
}

static int add_entry(struct parser *p, char *heading)
{
    struct ledger *l = p->l;
    char *dot = strchr(heading, '.');
    if (!dot || dot == heading) return refuse(p, "an entry's heading is \"### ID. Title\"");
    *dot = '\0';
    for (const char *c = heading; *c; c++)
        if (!isalnum((unsigned char)*c)) return refuse(p, "\"%s\" is not an id", heading);
    if (ledger_entry(l, heading)) return refuse(p, "entry %s stands there twice", heading);
    struct ledger_entry *more = grow(l->entries, l->num_entries, &p->entry_room, sizeof *more);
    if (!more) return refuse(p, "out of memory");
    l->entries = more;
    l->entries[l->num_entries++] = (struct ledger_entry){
        .section = p->section, .subsection = p->subsection, .id = heading, .title = trim(dot + 1),
        .text = "", .first_row = l->num_rows };
    p->in_entry = true;
    p->in_table = false;
    return 0;
}

static int add_row(struct parser *p, char *line)
{
    struct ledger *l = p->l;
    struct ledger_entry *e = &l->entries[l->num_entries - 1];
    char *cell[NUM_CELLS];
    if (split_cells(line, cell, NUM_CELLS) != NUM_CELLS)
        return refuse(p, "a row has %d cells", (int)NUM_CELLS);
    if (!*cell[0]) return refuse(p, "a row without a name");
    for (const char *c = cell[0]; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_' && *c != '.')
            return refuse(p, "row name \"%s\" has a character other than letters, digits and -_.", cell[0]);
    if (ledger_find(l, e->id, cell[0])) return refuse(p, "row %s of %s stands there twice", cell[0], e->id);
    struct margin margin;
    if (margin_parse(cell[2], &margin)) return refuse(p, "\"%s\" is not a rule", cell[2]);
    if (!known_verdict(cell[3])) return refuse(p, "\"%s\" is not a verdict", cell[3]);
    struct ledger_row *more = grow(l->rows, l->num_rows, &p->row_room, sizeof *more);
    if (!more) return refuse(p, "out of memory");
    l->rows = more;
    l->rows[l->num_rows++] = (struct ledger_row){
        .claim = e->id, .row = cell[0], .quantity = cell[1], .rule = cell[2],
        .verdict = cell[3], .measured = cell[4], .run = cell[5], .line = p->line,
        .class = ROW_PREREGISTERED, .same_claim = "", .same_row = "" };
    e->num_rows++;
    return 0;
}

/* `text` is cut in place. The text of an entry is closed with a NUL at its table. */
static int parse(struct parser *p, char *text)
{
    struct ledger *l = p->l;
    char *next;
    for (char *line = text; line; line = next) {
        next = strchr(line, '\n');
        char *end = next ? next : line + strlen(line);
        if (next) next++;
        p->line++;
        const bool heading = line[0] == '#';
        if (heading || line[0] == '|') {
            /* Closing the line also closes the text of the entry above it. */
            if (*end) *end = '\0';
            if (line > text && line[-1] == '\n') line[-1] = '\0';
        }
        int status = 0;
        if (!strncmp(line, "### ", 4)) {
            status = add_entry(p, line + 4);
            if (!status && next) l->entries[l->num_entries - 1].text = next;
        } else if (!strncmp(line, "## ", 3)) {
            p->subsection = trim(line + 3);
            p->in_entry = p->in_table = false;
        } else if (!strncmp(line, "# ", 2)) {
            p->section = trim(line + 2);
            p->subsection = "";
            p->in_entry = p->in_table = false;
        } else if (line[0] == '|' && p->in_entry && !p->in_table) {
            char *cell[NUM_CELLS];
            static const char *const head[NUM_CELLS] = { "row", "quantity", "rule", "verdict", "measured", "run" };
            bool same = split_cells(line, cell, NUM_CELLS) == NUM_CELLS;
            for (size_t i = 0; same && i < NUM_CELLS; i++) same = !strcmp(cell[i], head[i]);
            if (!same)
                status = refuse(p, "the table of an entry has the columns row, quantity, rule, verdict, measured, run");
            p->in_table = true;
        } else if (line[0] == '|' && p->in_table && strncmp(line, "|--", 3)) {
            status = add_row(p, line);
        } else if (p->in_table && line[0] != '|' && end > line + strspn(line, " ")) {
            status = refuse(p, "text after the table of %s", l->entries[l->num_entries - 1].id);
        }
        if (status) return status;
    }
    return 0;
}

static int check_sources(struct parser *p)
{
    for (size_t i = 0; i < p->l->num_entries; i++) {
        struct ledger_entry *e = &p->l->entries[i];
        e->source = source_of(e->text);
        if (!e->source) {
            snprintf(p->error, p->error_size, "%s: the source of %s does not begin with read, recalled or ours",
                     p->path, e->id);
            return -1;
        }
    }
    return 0;
}

/* What the paragraphs "Class." say, and whether the rows they name exist. */
static int check_classes(struct parser *p)
{
    char why[128];
    for (size_t i = 0; i < p->l->num_entries; i++)
        if (ledger_classes_read(p->l, &p->l->entries[i], why, sizeof why)) {
            snprintf(p->error, p->error_size, "%s: the classes of %s: %s", p->path, p->l->entries[i].id, why);
            return -1;
        }
    return 0;
}

struct ledger *ledger_read(const char *path, char *error, size_t error_size)
{
    struct ledger *l = calloc(1, sizeof *l);
    errno = 0;
    char *text = l ? text_file_read(path) : NULL;
    if (!text) {
        snprintf(error, error_size, "%s: %s", path, strerror(errno ? errno : ENOMEM));
        free(l);
        return NULL;
    }
    l->storage = text;
    struct parser p = { .l = l, .path = path, .error = error, .error_size = error_size,
                        .section = "", .subsection = "" };
    errno = EINVAL;
    if (parse(&p, text) || check_sources(&p) || check_classes(&p)) {
        ledger_free(l);
        return NULL;
    }
    return l;
}

void ledger_free(struct ledger *l)
{
    if (!l) return;
    free(l->entries);
    free(l->rows);
    free(l->storage);
    free(l);
}

const struct ledger_row *ledger_find(const struct ledger *l, const char *claim, const char *row)
{
    for (size_t i = 0; i < l->num_rows; i++)
        if (!strcmp(l->rows[i].claim, claim) && !strcmp(l->rows[i].row, row)) return &l->rows[i];
    return NULL;
}

const struct ledger_entry *ledger_entry(const struct ledger *l, const char *claim)
{
    for (size_t i = 0; i < l->num_entries; i++)
        if (!strcmp(l->entries[i].id, claim)) return &l->entries[i];
    return NULL;
}
