/* Tasks of pairs of texts: questions about passages (BoolQ), and whether a word has one sense in two examples
 * (WordNet). */
#include "common/hash.h"
#include "common/input_file.h"
#include "data/folder.h"
#include "data/json_file.h"
#include "data/task_internal.h"

#include <ctype.h>
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { PATH_ROOM = PATH_MAX + 64 };

FILE *task_open_cached(const char *set, const char *file_name, struct reason why)
{
    char folder[PATH_MAX], path[PATH_ROOM], cause[160];
    uint64_t bytes;
    data_folder(set, folder);
    snprintf(path, sizeof path, "%s/%s", folder, file_name);
    if (access(path, F_OK)) {
        refuse(why, GSL_EFAILED, "%s is not in the cache (data/fetch.sh %s fetches it)", set, set);
        return NULL;
    }
    FILE *file = input_file_open(path, &bytes, cause, sizeof cause);
    if (!file) refuse(why, GSL_EFAILED, "%s: %s", file_name, cause);
    return file;
}

/* A pair from strings of the caller's; "lead: text" when there is a lead. */
static int add_pair(struct examples *e, const char *lead, const char *text, const char *text2, int32_t label,
                    enum task_split split)
{
    struct example x = { .split = split, .label = label, .text2 = strdup(text2) };
    if (lead && asprintf(&x.text, "%s: %s", lead, text) < 0) x.text = NULL;
    if (!lead) x.text = strdup(text);
    if (!x.text || !x.text2) {
        free(x.text);
        free(x.text2);
        return GSL_ENOMEM;
    }
    x.hash = task_hash_text(x.text, x.text2);
    return examples_add(e, x);
}

/* ---- BoolQ --------------------------------------------------------------------------------------------- */

/* Goes on from `hash` with the text in lower case, stretches of blanks as one, none at the ends. */
static uint64_t hash_folded(uint64_t hash, const char *text)
{
    bool blank = false, begun = false;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (isspace(*p)) {
            blank = begun;
            continue;
        }
        const unsigned char c = (unsigned char)tolower(*p);
        if (blank) hash = hash_bytes(hash, " ", 1);
        hash = hash_bytes(hash, &c, 1);
        blank = false;
        begun = true;
    }
    return hash_bytes(hash, "", 1);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct keys { uint64_t *list; size_t count, room; };

static int add_key(struct keys *keys, uint64_t key)
{
    if (keys->count == keys->room) {
        const size_t room = keys->room ? 2 * keys->room : 1024;
        uint64_t *grown = realloc(keys->list, room * sizeof *grown);
        if (!grown) return GSL_ENOMEM;
        keys->list = grown;
        keys->room = room;
    }
    keys->list[keys->count++] = key;
    return GSL_SUCCESS;
}

/* One row of dev.jsonl: its question and "title -- passage", as combined.jsonl has it. */
static int add_official(const json_t *row, struct keys *keys)
{
    const char *question = json_string_value(json_object_get(row, "question")),
        *title = json_string_value(json_object_get(row, "title")),
               *passage = json_string_value(json_object_get(row, "passage"));
    char *whole;
    if (!question || !title || !passage) return GSL_EINVAL;
    if (asprintf(&whole, "%s -- %s", title, passage) < 0) return GSL_ENOMEM;
    const int status = add_key(keys, hash_folded(hash_folded(HASH_START, question), whole));
    free(whole);
    return status;
}

/* One row of combined.jsonl. Questions share passages, so the validation set is chosen by the passage. */
static int add_question(const json_t *row, const struct keys *official, struct task *task, struct examples *e)
{
    const char *question = json_string_value(json_object_get(row, "question")),
        *passage = json_string_value(json_object_get(row, "passage"));
    const json_t *label = json_object_get(row, "label");
    if (!question || !passage || (label && !json_is_boolean(label))) return GSL_EINVAL;
    if (!label) {
        task->num_dropped++;
        return GSL_SUCCESS;
    }
    const uint64_t key = hash_folded(hash_folded(HASH_START, question), passage);
    const bool test = official->count && bsearch(&key, official->list, official->count, sizeof key, by_value);
    const enum task_split split = test ? TASK_TEST : task_split_of(hash_folded(HASH_START, passage), 0, 10);
    return add_pair(e, NULL, question, passage, json_is_true(label), split);
}

/* JSON lines of either file; `e` NULL: the official validation set. */
static int read_boolq(const char *file_name, struct keys *official, struct task *task, struct examples *e,
                      struct reason why)
{
    FILE *file = task_open_cached("boolq", file_name, why);
    if (!file) return GSL_EFAILED;
    int status = GSL_SUCCESS;
    char *line = NULL;
    size_t room = 0, number = 0;
    while (!status && getline(&line, &room, file) > 0) {
        number++;
        json_t *row;
        status = json_text_read(line, strlen(line), &row, why);
        if (!status) status = e ? add_question(row, official, task, e) : add_official(row, official);
        json_decref(row);
    }
    if (status == GSL_ENOMEM) refuse(why, status, "out of memory");
    else if (status) refuse(why, status, "%s: line %zu is no question", file_name, number);
    else if (!feof(file)) status = refuse(why, REASON_SYSTEM, "%s: %s", file_name, strerror(errno));
    free(line);
    fclose(file);
    return status;
}

/* The official validation set is our test set (the official test set has no labels); ours is a tenth of the official
 * training passages, by hash. */
int task_source_boolq(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                      struct reason why)
{
    static const char *const classes[] = { "no", "yes", NULL };
    (void)name;
    (void)options;
    struct keys official = { NULL, 0, 0 };
    task->modality = TASK_TEXT;
    int status = task_set_classes(task, classes) ? refuse(why, GSL_ENOMEM, "out of memory") : GSL_SUCCESS;
    if (!status) status = read_boolq("dev.jsonl", &official, task, NULL, why);
    if (!status && official.count) qsort(official.list, official.count, sizeof *official.list, by_value);
    if (!status) status = read_boolq("combined.jsonl", &official, task, e, why);
    free(official.list);
    return status;
}

/* ---- one sense or two ------------------------------------------------------------------------------------ */

enum { PARTS = 4, MAX_WORDS = 64, PAIRS_PER_WORD = 4, MAX_LEMMA = 40 };
static const char *const parts[PARTS] = { "noun", "verb", "adj", "adv" };

/* An example of a synset in which one of its words stands. */
struct use { char lemma[MAX_LEMMA]; int part; size_t synset; char *text; };
struct uses { struct use *list; size_t count, room; };

static int add_use(struct uses *uses, const struct use *use, const char *text)
{
    if (uses->count == uses->room) {
        const size_t room = uses->room ? 2 * uses->room : 4096;
        struct use *grown = realloc(uses->list, room * sizeof *grown);
        if (!grown) return GSL_ENOMEM;
        uses->list = grown;
        uses->room = room;
    }
    struct use *at = &uses->list[uses->count];
    *at = *use;
    if (!(at->text = strdup(text))) return GSL_ENOMEM;
    uses->count++;
    return GSL_SUCCESS;
}

/* Whether the `len` letters at `word` (any case) are the lemma or a regular form of it. */
static bool is_form_of(const char *word, size_t len, const char *lemma)
{
    static const char *const endings[] = { "", "s", "es", "d", "ed", "ing" };
    const size_t n = strlen(lemma);
    const char last = lemma[n - 1];
    char form[2 * MAX_LEMMA];
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (len == n + strlen(endings[i]) && !strncasecmp(word, lemma, n) && !strncasecmp(word + n, endings[i],
            len - n))
            return true;
    /* make -> making, carry -> carries, carried, stop -> stopped, stopping */
    const struct { bool holds; size_t stem; const char *ending; } changed[] = {
        { last == 'e', n - 1, "ing" }, { last == 'y', n - 1, "ies" }, { last == 'y', n - 1, "ied" },
    };
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        if (!changed[i].holds) continue;
        snprintf(form, sizeof form, "%.*s%s", (int)changed[i].stem, lemma, changed[i].ending);
        if (strlen(form) == len && !strncasecmp(word, form, len)) return true;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(form, sizeof form, "%s%c%s", lemma, last, i ? "ing" : "ed");
        if (strlen(form) == len && !strncasecmp(word, form, len)) return true;
    }
    return false;
}

static bool has_word(const char *text, const char *lemma)
{
    for (const char *p = text; *p;) {
        size_t len = 0;
        while (isalpha((unsigned char)p[len])) len++;
        if (len && is_form_of(p, len, lemma)) return true;
        p += len ? len : 1;
    }
    return false;
}

/* The words of a synset line made of letters alone, in lower case, each once: how many. */
static size_t read_words(const char *line, char words[MAX_WORDS][MAX_LEMMA])
{
    int at = 0;
    unsigned count = 0;
    size_t kept = 0;
    if (sscanf(line, "%*s %*d %*c %x %n", &count, &at) < 1 || !at) return 0;
    for (unsigned w = 0; w < count; w++) {
        const char *word = line + at;
        size_t len = strcspn(word, " ");
        at += (int)len;
        if (line[at]) at += 1 + (int)strcspn(line + at + 1, " ");       /* its sense number */
        if (line[at]) at++;
        /* where an adjective may stand: "galore(ip)" */
        const char *marker = memchr(word, '(', len);
        if (marker) len = (size_t)(marker - word);
        size_t letters = 0;
        while (letters < len && isalpha((unsigned char)word[letters])) letters++;
        if (!len || letters < len || len >= MAX_LEMMA || kept == MAX_WORDS) continue;
        for (size_t i = 0; i < len; i++) words[kept][i] = (char)tolower((unsigned char)word[i]);
        words[kept][len] = '\0';
        bool twice = false;
        for (size_t k = 0; k < kept; k++) twice |= !strcmp(words[k], words[kept]);
        kept += !twice;
    }
    return kept;
}

/* The quoted examples of a synset's gloss, each with every word of the synset that stands in it. */
static int read_uses(char *line, int part, size_t synset, struct uses *uses)
{
    char words[MAX_WORDS][MAX_LEMMA];
    char *at = strstr(line, " | ");
    if (!at) return GSL_SUCCESS;
    const size_t num_words = read_words(line, words);
    for (at = strchr(at, '"'); at; at = strchr(at, '"')) {
        char *text = at + 1, *end = strchr(text, '"');
        if (!end) break;
        *end = '\0';
        at = end + 1;
        for (size_t w = 0; w < num_words; w++) {
            struct use use = { .part = part, .synset = synset };
            if (!has_word(text, words[w])) continue;
            strcpy(use.lemma, words[w]);
            if (add_use(uses, &use, text)) return GSL_ENOMEM;
        }
    }
    return GSL_SUCCESS;
}

static int by_word(const void *a, const void *b)
{
    const struct use *x = a, *y = b;
    const int order = strcmp(x->lemma, y->lemma);
    if (order) return order;
    if (x->part != y->part) return x->part - y->part;
    if (x->synset != y->synset) return x->synset < y->synset ? -1 : 1;
    return strcmp(x->text, y->text);
}

struct choice { uint64_t hash; size_t first, second; };

static int by_hash(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->second < y->second ? -1 : x->second > y->second;
}

/* Pairs of the uses first..end of one word: up to PAIRS_PER_WORD with one sense, and as many with two, the lowest by
 * hash; the hash also says which text comes first. The word decides the split. */
static int add_pairs(const struct uses *uses, size_t first, size_t end, struct examples *e)
{
    const size_t n = end - first;
    const struct use *list = uses->list;
    struct choice *pairs = malloc((n * n + 1) * sizeof *pairs);
    if (!pairs) return GSL_ENOMEM;
    const enum task_split split = task_split_of(task_hash_text(list[first].lemma, NULL), 20, 10);
    int status = GSL_SUCCESS;
    for (int same = 1; same >= 0; same--) {
        size_t count = 0;
        for (size_t i = first; i < end; i++)
            for (size_t j = i + 1; j < end; j++)
                if ((list[i].synset == list[j].synset) == same && strcmp(list[i].text, list[j].text))
                    pairs[count++] = (struct choice){ task_hash_text(list[i].text, list[j].text), i, j };
        qsort(pairs, count, sizeof *pairs, by_hash);
        for (size_t k = 0; k < count && k < PAIRS_PER_WORD && !status; k++) {
            const bool turned = pairs[k].hash >> 40 & 1;
            const struct use *a = &list[turned ? pairs[k].second : pairs[k].first],
                *b = &list[turned ? pairs[k].first : pairs[k].second];
            status = add_pair(e, a->lemma, a->text, b->text, same, split);
        }
    }
    free(pairs);
    return status;
}

/* Leaves as many of either label in every split: the last of the surplus by hash go. */
static int balance(struct examples *e, size_t *dropped)
{
    struct choice *order = malloc((e->count + 1) * sizeof *order);
    if (!order) return GSL_ENOMEM;
    size_t kept = 0;
    for (int split = 0; split < NUM_TASK_SPLITS; split++) {
        size_t counts[2] = { 0, 0 }, n = 0;
        for (size_t i = 0; i < e->count; i++)
            if (e->list[i].split == (enum task_split)split) counts[e->list[i].label]++;
        const int more = counts[1] > counts[0];
        for (size_t i = 0; i < e->count; i++)
            if (e->list[i].split == (enum task_split)split && e->list[i].label == more)
                order[n++] = (struct choice){ e->list[i].hash, i, 0 };
        qsort(order, n, sizeof *order, by_hash);
        for (size_t i = counts[1 - more]; i < n; i++) e->list[order[i].first].label = -1;
    }
    for (size_t i = 0; i < e->count; i++) {
        if (e->list[i].label >= 0) {
            e->list[kept++] = e->list[i];
            continue;
        }
        free(e->list[i].text);
        free(e->list[i].text2);
    }
    *dropped += e->count - kept;
    e->count = kept;
    free(order);
    return GSL_SUCCESS;
}

static int read_part(int part, struct uses *uses, struct reason why)
{
    char name[16];
    snprintf(name, sizeof name, "data.%s", parts[part]);
    FILE *file = task_open_cached("wordnet", name, why);
    if (!file) return GSL_EFAILED;
    int status = GSL_SUCCESS;
    char *line = NULL;
    size_t room = 0, synset = 0;
    while (!status && getline(&line, &room, file) > 0)
        if (*line != ' ') status = read_uses(line, part, synset++, uses);
    if (status) refuse(why, status, "out of memory");
    else if (!feof(file)) status = refuse(why, REASON_SYSTEM, "%s: %s", name, strerror(errno));
    free(line);
    fclose(file);
    return status;
}

int task_source_wic(const char *name, const struct task_options *options, struct task *task, struct examples *e,
                    struct reason why)
{
    static const char *const classes[] = { "two senses", "one sense", NULL };
    (void)name;
    (void)options;
    struct uses uses = { NULL, 0, 0 };
    task->modality = TASK_TEXT;
    int status = task_set_classes(task, classes) ? refuse(why, GSL_ENOMEM, "out of memory") : GSL_SUCCESS;
    for (int part = 0; part < PARTS && !status; part++) status = read_part(part, &uses, why);
    if (uses.count) qsort(uses.list, uses.count, sizeof *uses.list, by_word);
    for (size_t first = 0, end; first < uses.count && !status; first = end) {
        for (end = first; end < uses.count && uses.list[end].part == uses.list[first].part
             && !strcmp(uses.list[end].lemma, uses.list[first].lemma);)
            end++;
        if ((status = add_pairs(&uses, first, end, e))) refuse(why, status, "out of memory");
    }
    for (size_t i = 0; i < uses.count; i++) free(uses.list[i].text);
    free(uses.list);
    if (!status && (examples_drop_repeats(e, &task->num_dropped) || balance(e, &task->num_dropped)))
        status = refuse(why, GSL_ENOMEM, "out of memory");
    return status;
}
