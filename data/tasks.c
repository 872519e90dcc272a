#include "data/tasks.h"

#include "common/hash.h"
#include "common/nearest.h"
#include "common/random.h"
#include "data/task_internal.h"

#include <gsl/gsl_errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct { struct task_entry entry; task_source *source; } registry[] = {
    { { "shapes", "ten shapes drawn from a seed, 28x28 grey; needs no file", NULL }, task_source_shapes },
    { { "mnist", "handwritten digits, official split", "mnist" }, task_source_idx },
    { { "fashion", "Fashion-MNIST, official split", "fashion" }, task_source_idx },
    { { "emoji9", "emoji of two vendors, 9 categories, split by code point", "emoji9" }, task_source_emoji },
    { { "emoji9-cross", "the same, trained on Google's, tested on Twitter's", "emoji9" }, task_source_emoji },
    { { "clip25", "drawings of Open Clip Art, 25 folders, 112x112, split by hash", "clip25" }, task_source_clipart },
    { { "sent3", "sentence sentiment (Amazon, IMDb, Yelp), split by hash", "sent3" }, task_source_sent3 },
    { { "sent3-cross-amazon", "the same, tested on Amazon alone", "sent3" }, task_source_sent3 },
    { { "sent3-cross-imdb", "the same, tested on IMDb alone", "sent3" }, task_source_sent3 },
    { { "sent3-cross-yelp", "the same, tested on Yelp alone", "sent3" }, task_source_sent3 },
    { { "super-verb", "WordNet gloss of a verb to one of 15 lexicographer classes, split by hash", "wordnet" },
      task_source_wordnet },
    { { "super-noun", "WordNet gloss of a noun to one of 25 lexicographer classes, split by hash", "wordnet" },
      task_source_wordnet },
    { { "wic-wn", "whether a word has one sense in two WordNet examples, split by word", "wordnet" }, task_source_wic },
    { { "word-order", "whether two neighbouring words of a WordNet example were exchanged, split by hash", "wordnet" },
      task_source_word_order },
    { { "boolq", "BoolQ: yes or no, a question and a passage; its official validation set is the test set", "boolq" },
      task_source_boolq },
    { { "asdiv", "word problems of ASDiv with a number for an answer, split by hash; for decoders", "asdiv" },
      task_source_answers },
    { { "gsm8k", "GSM8K's test set, solutions to write out, split again by hash; for decoders", "gsm8k" },
      task_source_answers },
    { { "brown15", "genre of a window of 64 words of the Brown corpus, 15 genres, split by document", "brown15" },
      task_source_brown },
};
enum { NUM_TASKS = sizeof registry / sizeof *registry };

const struct task_entry *task_list(size_t *count)
{
    static struct task_entry entries[NUM_TASKS];
    for (size_t i = 0; i < NUM_TASKS; i++) entries[i] = registry[i].entry;
    *count = NUM_TASKS;
    return entries;
}

const char *task_split_name(enum task_split split)
{
    static const char *const names[] = { "train", "validation", "test" };
    return names[split];
}

/* ---- examples ---------------------------------------------------------------------------------------- */

static void example_free(struct example *x)
{
    free(x->text);
    free(x->text2);
    free(x->image);
}

int examples_add(struct examples *e, struct example x)
{
    if (e->count == e->room) {
        const size_t room = e->room ? 2 * e->room : 1024;
        struct example *grown = realloc(e->list, room * sizeof *grown);
        if (!grown) {
            example_free(&x);
            return GSL_ENOMEM;
        }
        e->list = grown;
        e->room = room;
    }
    e->list[e->count++] = x;
    return GSL_SUCCESS;
}

void examples_free(struct examples *e)
{
    for (size_t i = 0; i < e->count; i++) example_free(&e->list[i]);
    free(e->list);
    *e = (struct examples){ NULL, 0, 0 };
}

uint64_t task_hash_text(const char *text, const char *text2)
{
    uint64_t hash = hash_bytes(HASH_START, text, strlen(text));
    if (text2) {
        hash = hash_bytes(hash, "", 1);
        hash = hash_bytes(hash, text2, strlen(text2));
    }
    return hash;
}

enum task_split task_split_of(uint64_t hash, unsigned tests, unsigned validations)
{
    /* The low bits of FNV-1a follow the last bytes; the high half is better mixed. */
    const unsigned percent = (unsigned)((hash >> 32) % 100);
    return percent < tests ? TASK_TEST : percent < tests + validations ? TASK_VALIDATION : TASK_TRAIN;
}

struct ordered { uint64_t key; size_t index; };

static int by_key(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Of two examples with equal hashes; pictures are taken for equal then. */
static bool is_same(const struct example *x, const struct example *y)
{
    if (!x->text || !y->text) return !x->text && !y->text;
    return !strcmp(x->text, y->text) && !x->text2 == !y->text2 && (!x->text2 || !strcmp(x->text2, y->text2));
}

int examples_drop_repeats(struct examples *e, size_t *dropped)
{
    struct ordered *order = malloc((e->count + 1) * sizeof *order);
    bool *repeats = calloc(e->count + 1, sizeof *repeats);
    const int status = order && repeats ? GSL_SUCCESS : GSL_ENOMEM;
    size_t kept = 0;
    if (!status) {
        for (size_t i = 0; i < e->count; i++) order[i] = (struct ordered){ e->list[i].hash, i };
        qsort(order, e->count, sizeof *order, by_key);
        for (size_t i = 1; i < e->count; i++)
            if (order[i].key == order[i - 1].key && is_same(&e->list[order[i].index], &e->list[order[i - 1].index]))
                repeats[order[i].index] = true;
        for (size_t i = 0; i < e->count; i++) {
            if (repeats[i]) example_free(&e->list[i]);
            else e->list[kept++] = e->list[i];
        }
        *dropped += e->count - kept;
        e->count = kept;
    }
    free(repeats);
    free(order);
    return status;
}

int task_set_classes(struct task *task, const char *const *names)
{
    size_t count = 0;
    while (names[count]) count++;
    task->class_names = calloc(count + 1, sizeof *task->class_names);
    if (!task->class_names) return GSL_ENOMEM;
    task->num_classes = count;
    for (size_t c = 0; c < count; c++)
        if (!(task->class_names[c] = strdup(names[c]))) return GSL_ENOMEM;
    return GSL_SUCCESS;
}

/* ---- layout ---------------------------------------------------------------------------------------------- */

/* A permutation that takes the classes in turn, each in a random order, so that every prefix of it is balanced and
 * smaller sets are nested in larger ones. */
static void deal_classes(const struct task *task, const struct examples *e, enum task_split split, uint64_t seed,
                         struct ordered *order, size_t n)
{
    double u;
    for (size_t k = 0; k < n; k++) {
        random_uniform(seed, RANDOM_OTHER, (uint64_t)split, order[k].index, &u, 1);
        order[k].key = ((uint64_t)e->list[order[k].index].label << 48) | (uint64_t)(u * 281474976710655.0);
    }
    qsort(order, n, sizeof *order, by_key);
    /* Now by how many of its class come before an example, then by class. */
    size_t rank = 0;
    for (size_t k = 0; k < n; k++) {
        const uint64_t label = (uint64_t)e->list[order[k].index].label;
        rank = k && (uint64_t)e->list[order[k - 1].index].label == label ? rank + 1 : 0;
        order[k].key = (uint64_t)rank * task->num_classes + label;
    }
    qsort(order, n, sizeof *order, by_key);
}

static int lay_out(struct task *task, struct examples *e, enum task_split split, size_t wanted, uint64_t seed)
{
    struct ordered *order = malloc((e->count + 1) * sizeof *order);
    if (!order) return GSL_ENOMEM;
    size_t n = 0;
    for (size_t i = 0; i < e->count; i++)
        if (e->list[i].split == split) order[n++] = (struct ordered){ 0, i };
    /* A whole set that is only evaluated stays in the order of its source: predictions are numbered by it. */
    if (split == TASK_TRAIN || (wanted && wanted < n)) deal_classes(task, e, split, seed, order, n);
    if (wanted && wanted < n) n = wanted;
    struct task_set *set = &task->sets[split];
    const size_t pixels = task->height * task->width * task->channels;
    bool pairs = false;
    for (size_t i = 0; i < e->count; i++) pairs |= e->list[i].text2 != NULL;
    set->count = n;
    set->labels = malloc((n + 1) * sizeof *set->labels);
    if (task->modality == TASK_TEXT) {
        set->texts = calloc(n + 1, sizeof *set->texts);
        if (pairs) set->texts2 = calloc(n + 1, sizeof *set->texts2);
    } else {
        set->images = malloc(n * pixels + 1);
    }
    int status = set->labels && (task->modality == TASK_TEXT ? set->texts && (!pairs || set->texts2)
                                 : set->images != NULL) ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t k = 0; k < n && !status; k++) {
        struct example *x = &e->list[order[k].index];
        set->labels[k] = x->label;
        task->checksum = hash_bytes(task->checksum, &x->label, sizeof x->label);
        if (task->modality == TASK_IMAGE) {
            memcpy(set->images + k * pixels, x->image, pixels);
            task->checksum = hash_bytes(task->checksum, x->image, pixels);
            continue;
        }
        set->texts[k] = x->text;
        x->text = NULL;
        if (pairs) set->texts2[k] = x->text2;
        x->text2 = NULL;
        task->checksum = hash_bytes(task->checksum, set->texts[k], strlen(set->texts[k]) + 1);
        if (pairs) task->checksum = hash_bytes(task->checksum, set->texts2[k], strlen(set->texts2[k]) + 1);
    }
    free(order);
    return status;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcasecmp(text + n - m, end);
}

static task_source *find_source(const char *name, const struct task_options *options, struct reason why)
{
    if (!name) {
        if (!options->train_file || !options->test_file) {
            refuse(why, GSL_EINVAL, "a task's name, or a training and a test file");
            return NULL;
        }
        return ends_with(options->train_file, ".npy") ? task_source_npy : task_source_csv;
    }
    for (size_t i = 0; i < NUM_TASKS; i++)
        if (!strcmp(name, registry[i].entry.name)) return registry[i].source;
    struct nearest near = nearest_start(name, strlen(name));
    for (size_t i = 0; i < NUM_TASKS; i++) nearest_try(&near, registry[i].entry.name);
    refuse(why, GSL_EINVAL, "%.60s: no such task%s%s%s", name, near.name ? "; is it " : "", near.name ? near.name : "",
           near.name ? "?" : "");
    return NULL;
}

int task_open(const char *name, const struct task_options *options, struct task **out, struct reason why)
{
    task_source *source = find_source(name, options, why);
    if (!source) return GSL_EINVAL;
    struct examples e = { NULL, 0, 0 };
    struct task *task = calloc(1, sizeof *task);
    if (!task || !(task->name = strdup(name ? name : "files"))) {
        free(task);
        return refuse(why, GSL_ENOMEM, "out of memory");
    }
    task->checksum = HASH_START;
    int status = source(name, options, task, &e, why);
    const size_t wanted[NUM_TASK_SPLITS] = { options->train_size, options->validation_size, options->test_size };
    for (int split = 0; split < NUM_TASK_SPLITS && !status; split++) {
        status = lay_out(task, &e, (enum task_split)split, wanted[split], split == TASK_TRAIN ? options->seed : 0);
        if (status) refuse(why, status, "out of memory");
        else if (!task->sets[split].count)
            status = refuse(why, GSL_EINVAL, "%s: no example for the %s set", task->name,
                            task_split_name((enum task_split)split));
    }
    if (!status && options->train_size > task->sets[TASK_TRAIN].count)
        status = refuse(why, GSL_EINVAL, "%s: %zu training examples of %zu", task->name, options->train_size,
                        task->sets[TASK_TRAIN].count);
    examples_free(&e);
    if (status) task_free(task);
    else *out = task;
    return status;
}

void task_free(struct task *task)
{
    if (!task) return;
    for (int split = 0; split < NUM_TASK_SPLITS; split++) {
        struct task_set *set = &task->sets[split];
        for (size_t i = 0; i < set->count; i++) {
            if (set->texts) free(set->texts[i]);
            if (set->texts2) free(set->texts2[i]);
        }
        free(set->texts);
        free(set->texts2);
        free(set->labels);
        free(set->images);
    }
    for (size_t c = 0; task->class_names && c < task->num_classes; c++) free(task->class_names[c]);
    free(task->class_names);
    free(task->name);
    free(task);
}

double task_majority(const struct task *task, int32_t *label)
{
    const struct task_set *train = &task->sets[TASK_TRAIN], *test = &task->sets[TASK_TEST];
    size_t best = 0, hits = 0;
    *label = 0;
    for (size_t c = 0; c < task->num_classes; c++) {
        size_t count = 0;
        for (size_t i = 0; i < train->count; i++) count += train->labels[i] == (int32_t)c;
        if (count > best) {
            best = count;
            *label = (int32_t)c;
        }
    }
    for (size_t i = 0; i < test->count; i++) hits += test->labels[i] == *label;
    return (double)hits / (double)test->count;
}
