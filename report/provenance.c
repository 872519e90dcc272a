/* Where the numbers come from: the machine and tools of the profile, the options of every run. */
#include "report/page.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>


enum { MAX_FIELDS = 64 };

struct field { const char *key, *value; };

/* key=value and key="several words" in the leading "#" lines, and the line of
 * options; cut in place. */
static size_t read_fields(char *text, struct field *field)
{
    size_t n = 0;
    char *next;
    for (char *line = text; line && *line == '#'; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        static const char options_mark[] = "# options: ";
        if (!strncmp(line, options_mark, sizeof options_mark - 1) && n < MAX_FIELDS) {
            field[n++] = (struct field){ "options", line + sizeof options_mark - 1 };
            continue;
        }
        for (char *c = line + 1; *c && n < MAX_FIELDS;) {
            c += strspn(c, " \t");
            char *key = c;
            while (isalnum((unsigned char)*c) || *c == '_') c++;
            if (*c != '=' || c == key) break;       /* a sentence, not fields */
            *c++ = '\0';
            const bool quoted = *c == '"';
            c += quoted;
            char *value = c;
            c += strcspn(c, quoted ? "\"" : " \t");
            if (*c) *c++ = '\0';
            field[n++] = (struct field){ key, value };
        }
    }
    return n;
}

static const char *field_value(const struct field *field, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) if (!strcmp(field[i].key, key)) return field[i].value;
    return NULL;
}

/* A member and its name: text, number, or an object of them as "a x, b y". */
static void put_member(const struct page *p, const char *key, json_t *value)
{
    const char *name;
    json_t *inner;
    fprintf(p->out, "- %s:", key);
    if (json_is_object(value)) {
        const char *before = "";
        json_object_foreach(value, name, inner) {
            if (json_is_string(inner)) fprintf(p->out, "%s %s `%s`", before, name, json_string_value(inner));
            else if (json_is_number(inner)) fprintf(p->out, "%s %s %.10g", before, name, json_number_value(inner));
            before = ",";
        }
    } else if (json_is_string(value)) {
        fprintf(p->out, " `%s`", json_string_value(value));
    } else if (json_is_number(value)) {
        fprintf(p->out, " %.10g", json_number_value(value));
    }
    fputs("\n", p->out);
}

/* provenance.json as a list, the seconds of the runs left to their own lines. */
static void put_machine(const struct page *p)
{
    const char *key;
    json_t *value;
    if (!p->provenance) return;
    fputs("::: provenance\n", p->out);
    json_object_foreach(p->provenance, key, value) {
        if (strcmp(key, "runs") && strcmp(key, "peak_bytes")) put_member(p, key, value);
    }
    fputs(":::\n\nThe same, with the seconds and the memory of every run, is in `provenance.json` beside the "
          "tables.\n\n", p->out);
}

/* The fields of every run's table. */
struct tables {
    struct field field[PAGE_MAX_RUNS][MAX_FIELDS];
    size_t num[PAGE_MAX_RUNS];          /* 0 without a table */
    char *text[PAGE_MAX_RUNS];          /* what the fields point into */
    size_t first;                       /* the first run with a table, num_runs when none has */
};

static void read_tables(const struct page *p, struct tables *t)
{
    t->first = p->num_runs;
    for (size_t i = 0; i < p->num_runs; i++) {
        char path[PAGE_PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s.csv", p->results, p->run[i]);
        t->text[i] = page_text(p, path);
        t->num[i] = t->text[i] ? read_fields(t->text[i], t->field[i]) : 0;
        if (t->num[i] && t->first == p->num_runs) t->first = i;
    }
}

/* Fields that every table has with one value, which are then blanked. */
static void put_common(const struct page *p, struct tables *t)
{
    for (size_t k = 0; k < t->num[t->first]; k++) {
        const struct field f = t->field[t->first][k];
        bool common = true;
        for (size_t i = 0; i < p->num_runs; i++) {
            const char *value = t->num[i] ? field_value(t->field[i], t->num[i], f.key) : f.value;
            common = common && value && !strcmp(value, f.value);
        }
        if (!common) continue;
        fprintf(p->out, "- %s: `%s`\n", f.key, f.value);
        for (size_t i = 0; i < p->num_runs; i++)
            for (size_t j = 0; j < t->num[i]; j++)
                if (!strcmp(t->field[i][j].key, f.key)) t->field[i][j].value = NULL;
    }
}

/* A number of an object of provenance.json by run, NaN-free: 0 when it has none. */
static double of_run(const struct page *p, const char *object, const char *run)
{
    return json_number_value(json_object_get(json_object_get(p->provenance, object), run));
}

static void put_runs(const struct page *p, const struct tables *t)
{
    for (size_t i = 0; i < p->num_runs; i++) {
        if (!t->num[i]) continue;
        fprintf(p->out, "- [%s]{#run-%s} ([table](../results/%s.csv)", p->run[i], p->run[i], p->run[i]);
        const double seconds = of_run(p, "runs", p->run[i]), bytes = of_run(p, "peak_bytes", p->run[i]);
        if (json_object_get(json_object_get(p->provenance, "runs"), p->run[i])) fprintf(p->out, ", %.0f s", seconds);
        if (bytes > 0.0) fprintf(p->out, ", %.0f MB", bytes / 1e6);
        fputs("):", p->out);
        for (size_t j = 0; j < t->num[i]; j++)
            if (t->field[i][j].value) fprintf(p->out, " %s `%s`", t->field[i][j].key, t->field[i][j].value);
        fputs("\n", p->out);
    }
}

void put_provenance(const struct page *p)
{
    struct tables *t = calloc(1, sizeof *t);
    fputs("\n# Where the numbers come from {#provenance}\n\n", p->out);
    put_machine(p);
    if (!t) {
        page_out_of_memory(p);
        return;
    }
    read_tables(p, t);
    if (t->first == p->num_runs) {
        fputs("No run has left a table.\n", p->out);
    } else {
        fputs("The same in all runs:\n\n", p->out);
        put_common(p, t);
        fputs("\nBy run:\n\n::: provenance\n", p->out);
        put_runs(p, t);
        fputs(":::\n", p->out);
    }
    for (size_t i = 0; i < p->num_runs; i++) free(t->text[i]);
    free(t);
}
