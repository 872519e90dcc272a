/* Tasks of texts: labelled sentences, WordNet glosses, a user's CSV. */
#include "common/hash.h"
#include "common/input_file.h"
#include "data/folder.h"
#include "data/json_file.h"
#include "data/task_internal.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_ROOM = PATH_MAX + 64 };

static int add_text(struct examples *e, const char *text, int32_t label, enum task_split split)
{
    struct example x = { .split = split, .label = label, .text = strdup(text), .hash = task_hash_text(text, NULL) };
    if (!x.text) return GSL_ENOMEM;
    return examples_add(e, x);
}

/* ---- sentence sentiment ---------------------------------------------------------------------------- */

/* Test: a fifth by hash, or one whole domain; validation: a tenth of the rest. Rows without a text and repeated texts
 * are left out. */
int task_source_sent3(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                      struct reason why)
{
    static const char *const classes[] = { "negative", "positive", NULL };
    static const char *const domains[] = { "amazon", "imdb", "yelp" };
    (void)options;
    const char *cross = strrchr(name, '-');
    char folder[PATH_MAX], path[PATH_ROOM];
    data_folder("sent3", folder);
    if (access(folder, F_OK))
        return refuse(why, GSL_EFAILED, "sent3 is not in the cache (data/fetch.sh sent3 fetches it)");
    task->modality = TASK_TEXT;
    int status = task_set_classes(task, classes);
    for (int d = 0; d < 3 && !status; d++) {
        char cause[160] = "not a list";
        snprintf(path, sizeof path, "%s/%s.json", folder, domains[d]);
        json_t *json;
        status = json_file_read(path, &json, (struct reason){ cause, sizeof cause });
        if (!status && !json_is_array(json)) status = GSL_EINVAL;
        if (status) refuse(why, status, "%s.json: %s", domains[d], cause);
        size_t i;
        json_t *row;
        json_array_foreach(json, i, row) {
            if (status) break;
            const char *text = json_string_value(json_object_get(row, "text"));
            const json_t *label = json_object_get(row, "class");
            if (!text || !json_is_integer(label) || json_integer_value(label) < 0 || json_integer_value(label) > 1) {
                task->num_dropped++;
                continue;
            }
            enum task_split split = task_split_of(task_hash_text(text, NULL), 20, 10);
            if (cross)
                split = !strcmp(cross + 1, domains[d]) ? TASK_TEST : split == TASK_VALIDATION ? TASK_VALIDATION
                    : TASK_TRAIN;
            if (add_text(e, text, (int32_t)json_integer_value(label), split))
                status = refuse(why, GSL_ENOMEM, "out of memory");
        }
        json_decref(json);
    }
    return status ? status : examples_drop_repeats(e, &task->num_dropped);
}

/* ---- WordNet ------------------------------------------------------------------------------------------- */

static const char *const verb_classes[] = { "body", "change", "cognition", "communication", "competition",
                                            "consumption", "contact", "creation", "emotion", "motion", "perception",
                                            "possession", "social", "stative", "weather", NULL };
static const char *const noun_classes[] = { "act", "animal", "artifact", "attribute", "body", "cognition",
                                            "communication", "event", "feeling", "food", "group", "location", "motive",
                                            "object", "person", "phenomenon", "plant", "possession", "process",
                                            "quantity", "relation", "shape", "state", "substance", "time", NULL };

/* The definition of a synset line, without its examples: cut in place; NULL when there is none. */
static char *definition_of(char *line)
{
    char *bar = strstr(line, " | ");
    if (!bar) return NULL;
    char *gloss = bar + 3, *example = strstr(gloss, "; \"");
    if (example) *example = '\0';
    size_t n = strlen(gloss);
    while (n && (gloss[n - 1] == ' ' || gloss[n - 1] == '\n' || gloss[n - 1] == '\r')) gloss[--n] = '\0';
    return n ? gloss : NULL;
}

/* Test: a fifth by the hash of the gloss; validation: a tenth. The first of equal glosses stays. */
int task_source_wordnet(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                        struct reason why)
{
    (void)options;
    const bool verbs = !strcmp(name, "super-verb");
    const long first = verbs ? 29 : 4, count = verbs ? 15 : 25;
    char folder[PATH_MAX], path[PATH_ROOM];
    uint64_t bytes;
    data_folder("wordnet", folder);
    snprintf(path, sizeof path, "%s/data.%s", folder, verbs ? "verb" : "noun");
    if (access(path, F_OK))
        return refuse(why, GSL_EFAILED, "wordnet is not in the cache (data/fetch.sh wordnet fetches it)");
    FILE *file = input_file_open(path, &bytes, why.text, why.size);
    if (!file) return input_file_status(errno);
    task->modality = TASK_TEXT;
    int status = task_set_classes(task, verbs ? verb_classes : noun_classes);
    char *line = NULL;
    size_t room = 0;
    while (!status && getline(&line, &room, file) > 0) {
        if (*line == ' ') continue;             /* the licence */
        char *end;
        strtol(line, &end, 10);
        const long lexicographer = strtol(end, &end, 10);
        char *gloss = definition_of(end);
        if (!gloss || lexicographer < first || lexicographer >= first + count) {
            task->num_dropped++;
            continue;
        }
        status = add_text(e, gloss, (int32_t)(lexicographer - first), task_split_of(task_hash_text(gloss, NULL), 20,
                                                                                    10));
    }
    if (!status && !feof(file))
        status = refuse(why, REASON_SYSTEM, "data.%s: %s", verbs ? "verb" : "noun", strerror(errno));
    else if (status) refuse(why, status, "out of memory");
    free(line);
    fclose(file);
    return status ? status : examples_drop_repeats(e, &task->num_dropped);
}

/* ---- a user's CSV ------------------------------------------------------------------------------------------ */

/* The file as one string under a cursor. */
struct csv { char *text, *at; size_t line; };

enum csv_end { CSV_CELL, CSV_ROW, CSV_FILE, CSV_BAD };

/* The next cell, unquoted in place (RFC 4180); says what ended it. */
static enum csv_end next_cell(struct csv *c, char **cell)
{
    char *to = c->at, *from = c->at;
    *cell = to;
    if (*from == '"') {
        from++;
        for (;; from++) {
            if (!*from) return CSV_BAD;
            if (*from == '\n') c->line++;
            if (*from == '"' && *++from != '"') break;
            *to++ = *from;
        }
    } else {
        while (*from && *from != ',' && *from != '\n' && *from != '"') *to++ = *from++;
        if (to > *cell && to[-1] == '\r' && *from == '\n') to--;
    }
    if (*from == '\r' && from[1] == '\n') from++;
    const char end = *from;
    if (end && end != ',' && end != '\n') return CSV_BAD;
    c->at = from + (end != '\0');
    *to = '\0';
    if (end == '\n') c->line++;
    return end == ',' ? CSV_CELL : end == '\n' ? CSV_ROW : CSV_FILE;
}

enum { COLUMN_TEXT, COLUMN_TEXT2, COLUMN_LABEL, NUM_COLUMNS, MAX_COLUMNS = 64 };

/* Which column is which; -1: none. */
struct columns { int place[NUM_COLUMNS]; int count; };

static int read_header(struct csv *c, struct columns *columns, struct reason why)
{
    static const char *const names[] = { "text", "text2", "label" };
    for (int k = 0; k < NUM_COLUMNS; k++) columns->place[k] = -1;
    columns->count = 0;
    enum csv_end end = CSV_CELL;
    while (end == CSV_CELL) {
        char *cell;
        end = next_cell(c, &cell);
        if (end == CSV_BAD || columns->count == MAX_COLUMNS)
            return refuse(why, GSL_EINVAL, "line 1: a malformed header");
        for (int k = 0; k < NUM_COLUMNS; k++)
            if (!strcmp(cell, names[k])) {
                if (columns->place[k] >= 0) return refuse(why, GSL_EINVAL, "line 1: column %s twice", names[k]);
                columns->place[k] = columns->count;
            }
        columns->count++;
    }
    if (columns->place[COLUMN_TEXT] < 0 || columns->place[COLUMN_LABEL] < 0)
        return refuse(why, GSL_EINVAL, "line 1: no column named %s (the header is text[,text2],label)",
                      names[columns->place[COLUMN_TEXT] < 0 ? 0 : 2]);
    return end == CSV_FILE ? refuse(why, GSL_EINVAL, "no row after the header") : GSL_SUCCESS;
}

/* The number of a label; a new one only from the training file. -1: not known, -2: no memory. */
static int32_t class_of(struct task *task, const char *label, bool may_add)
{
    for (size_t c = 0; c < task->num_classes; c++)
        if (!strcmp(task->class_names[c], label)) return (int32_t)c;
    if (!may_add) return -1;
    char **grown = realloc(task->class_names, (task->num_classes + 1) * sizeof *grown);
    if (!grown) return -2;
    task->class_names = grown;
    if (!(grown[task->num_classes] = strdup(label))) return -2;
    return (int32_t)task->num_classes++;
}

/* UTF-8 without overlong forms, surrogates and beyond U+10FFFF. */
static bool is_utf8(const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        int more = *p < 0x80 ? 0 : *p >= 0xC2 && *p < 0xE0 ? 1 : *p >= 0xE0 && *p < 0xF0 ? 2 : *p >= 0xF0 && *p < 0xF5
            ? 3 : -1;
        if (more < 0 || (*p == 0xE0 && p[1] < 0xA0) || (*p == 0xED && p[1] > 0x9F) || (*p == 0xF0 && p[1] < 0x90)
            || (*p == 0xF4 && p[1] > 0x8F))
            return false;
        for (p++; more; more--, p++)
            if ((*p & 0xC0) != 0x80) return false;
    }
    return true;
}

static int read_row(struct csv *c, const struct columns *columns, bool test, struct task *task, struct examples *e,
                    bool *last, struct reason why)
{
    char *cells[MAX_COLUMNS];
    int n = 0;
    const size_t line = c->line;
    enum csv_end end = CSV_CELL;
    while (end == CSV_CELL) {
        char *cell;
        if ((end = next_cell(c, &cell)) == CSV_BAD)
            return refuse(why, GSL_EINVAL, "line %zu: a quote that is out of place or not closed", line);
        if (n == columns->count) return refuse(why, GSL_EINVAL, "line %zu: more cells than the header", line);
        cells[n++] = cell;
    }
    *last = end == CSV_FILE || !*c->at;
    if (n != columns->count)
        return refuse(why, GSL_EINVAL, "line %zu: %d cells, the header has %d", line, n, columns->count);
    const char *text = cells[columns->place[COLUMN_TEXT]], *label = cells[columns->place[COLUMN_LABEL]],
               *text2 = columns->place[COLUMN_TEXT2] < 0 ? NULL : cells[columns->place[COLUMN_TEXT2]];
    if (!*label) return refuse(why, GSL_EINVAL, "line %zu: no label", line);
    if (!is_utf8(text) || !is_utf8(label) || (text2 && !is_utf8(text2)))
        return refuse(why, GSL_EINVAL, "line %zu: not UTF-8", line);
    const int32_t class = class_of(task, label, !test);
    if (class == -1) return refuse(why, GSL_EINVAL, "line %zu: label %.40s is none of the training file", line, label);
    const uint64_t hash = task_hash_text(text, text2);
    struct example x = { .split = test ? TASK_TEST : task_split_of(hash, 0, 10), .label = class, .text = strdup(text),
                         .hash = hash };
    if (text2) x.text2 = strdup(text2);
    if (class < 0 || !x.text || (text2 && !x.text2)) {
        free(x.text);
        free(x.text2);
        return refuse(why, GSL_ENOMEM, "out of memory");
    }
    return examples_add(e, x) ? refuse(why, GSL_ENOMEM, "out of memory") : GSL_SUCCESS;
}

static int read_csv(const char *path, bool test, struct task *task, struct examples *e, bool *pairs, struct reason why)
{
    struct csv c = { NULL, NULL, 1 };
    struct columns columns;
    size_t size;
    int status = input_file_text(path, &c.text, &size, why);
    if (status) return status;
    c.at = c.text + (strncmp(c.text, "\xEF\xBB\xBF", 3) ? 0 : 3);
    status = read_header(&c, &columns, why);
    *pairs = columns.place[COLUMN_TEXT2] >= 0;
    if (!status && !*c.at) status = refuse(why, GSL_EINVAL, "no row after the header");
    bool last = false;
    while (!status && !last) status = read_row(&c, &columns, test, task, e, &last, why);
    free(c.text);
    return status;
}

int task_source_csv(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                    struct reason why)
{
    (void)name;
    char cause[160];
    bool pairs[2] = { false, false };
    const char *const files[] = { options->train_file, options->test_file };
    task->modality = TASK_TEXT;
    for (int f = 0; f < 2; f++) {
        const int status = read_csv(files[f], f == 1, task, e, &pairs[f], (struct reason){ cause, sizeof cause });
        if (status) return refuse(why, status, "%.150s: %s", files[f], cause);
        if (f == 0 && task->num_classes < 2) return refuse(why, GSL_EINVAL, "%.150s: a single label", files[f]);
    }
    if (pairs[0] != pairs[1]) return refuse(why, GSL_EINVAL, "%.150s: one of the two files has text2", files[1]);
    return GSL_SUCCESS;
}
