/* Tasks: splits that share nothing, nested subsamples, a user's files, every malformed one refused. */
#include "common/npy.h"
#include "data/tasks.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char why[512];
static const struct reason reason = { why, sizeof why };

static struct task *opened(const char *name, struct task_options options)
{
    struct task *task = NULL;
    if (task_open(name, &options, &task, reason)) fail_msg("%s: %s", name ? name : "files", why);
    return task;
}

static void refuses(const char *name, struct task_options options, int code, const char *says)
{
    struct task *task = NULL;
    why[0] = '\0';
    const int status = task_open(name, &options, &task, reason);
    if (status != code) fail_msg("%d (%s), expected %d with '%s'", status, why, code, says);
    assert_null(task);
    if (!strstr(why, says) || strchr(why, '\n')) fail_msg("expected '%s' in one line, not '%s'", says, why);
}

/* ---- splits ------------------------------------------------------------------------------------------- */

/* What example i of a set is, as bytes. */
static const void *content(const struct task *task, const struct task_set *set, size_t i, size_t *size)
{
    static char pair[1 << 20];
    if (task->modality == TASK_IMAGE) {
        *size = task->height * task->width * task->channels;
        return set->images + i * *size;
    }
    *size = (size_t)snprintf(pair, sizeof pair, "%s%c%s", set->texts[i], 0, set->texts2 ? set->texts2[i] : "");
    assert_true(*size < sizeof pair);
    return pair;
}

struct place { uint64_t hash; int split; };

static int by_hash(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->split - y->split;
}

/* How many examples of the task are equal to one of another split. */
static size_t count_shared(const struct task *task)
{
    size_t total = 0, n = 0, shared = 0;
    for (int s = 0; s < NUM_TASK_SPLITS; s++) total += task->sets[s].count;
    struct place *places = malloc(total * sizeof *places);
    assert_non_null(places);
    for (int s = 0; s < NUM_TASK_SPLITS; s++)
        for (size_t i = 0; i < task->sets[s].count; i++) {
            size_t size;
            const unsigned char *bytes = content(task, &task->sets[s], i, &size);
            uint64_t hash = 0;
            for (size_t b = 0; b < size; b++) hash = (hash ^ bytes[b]) * UINT64_C(0x9E3779B97F4A7C15) + (hash >> 29);
            places[n++] = (struct place){ hash, s };
        }
    qsort(places, n, sizeof *places, by_hash);
    for (size_t i = 1; i < n; i++)
        shared += places[i].hash == places[i - 1].hash && places[i].split != places[i - 1].split;
    free(places);
    return shared;
}

static void check_whole(const struct task *task)
{
    for (int s = 0; s < NUM_TASK_SPLITS; s++) {
        const struct task_set *set = &task->sets[s];
        size_t *counts = calloc(task->num_classes, sizeof *counts);
        assert_true(set->count > 0);
        for (size_t i = 0; i < set->count; i++) {
            assert_in_range(set->labels[i], 0, task->num_classes - 1);
            counts[set->labels[i]]++;
            if (task->modality == TASK_TEXT) assert_non_null(set->texts[i]);
            if (set->texts2) assert_non_null(set->texts2[i]);
        }
        for (size_t c = 0; c < task->num_classes; c++)
            if (!counts[c]) fail_msg("%s: no %s in the %s set", task->name, task->class_names[c], task_split_name(s));
        free(counts);
    }
}

/* Sizes of the splits by the rules of each source; a task that is not in the cache is left out with a line. `shared`:
 * equal examples in two splits, of sources whose own split has them. */
static void test_known(void **state)
{
    (void)state;
    static const struct { const char *name; size_t counts[NUM_TASK_SPLITS], classes, shared; } known[] = {
        { "shapes", { 6000, 500, 1000 }, 10, 0 },
        { "mnist", { 55005, 4995, 10000 }, 10, 0 },
        { "fashion", { 55101, 4899, 10000 }, 10, 10 },
        { "emoji9", { 2724, 290, 751 }, 9, 0 },
        { "emoji9-cross", { 1747, 145, 1873 }, 9, 0 },
        { "clip25", { 1393, 173, 402 }, 25, 0 },
        { "sent3", { 2110, 294, 579 }, 2, 0 },
        { "sent3-cross-amazon", { 1795, 198, 990 }, 2, 0 },
        { "sent3-cross-imdb", { 1792, 194, 997 }, 2, 0 },
        { "sent3-cross-yelp", { 1791, 196, 996 }, 2, 0 },
        { "super-verb", { 9491, 1353, 2790 }, 15, 0 },
        { "super-noun", { 56956, 8135, 16342 }, 25, 0 },
        { "wic-wn", { 10572, 1676, 2920 }, 2, 0 },
        { "word-order", { 20529, 2892, 6016 }, 2, 0 },
        { "boolq", { 8495, 932, 3270 }, 2, 0 },
        { "asdiv", { 1502, 216, 440 }, 1, 0 },
        { "gsm8k", { 903, 134, 282 }, 1, 0 },
        { "brown15", { 12645, 1929, 3328 }, 15, 0 },
    };
    size_t listed;
    const struct task_entry *entries = task_list(&listed);
    for (size_t e = 0; e < listed; e++) {
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(known[k].name, entries[e].name)) k++;
        if (k == sizeof known / sizeof *known) fail_msg("%s is not in this test", entries[e].name);
        struct task *task = NULL;
        const struct task_options options = { .seed = 20240614 };
        const int status = task_open(entries[e].name, &options, &task, reason);
        if (status && entries[e].needs && strstr(why, "not in the cache")) {
            printf("skipped: %s\n", why);
            continue;
        }
        if (status) fail_msg("%s: %s", entries[e].name, why);
        assert_int_equal(task->num_classes, known[k].classes);
        for (int s = 0; s < NUM_TASK_SPLITS; s++)
            if (task->sets[s].count != known[k].counts[s])
                fail_msg("%s: %zu in the %s set", known[k].name, task->sets[s].count, task_split_name(s));
        check_whole(task);
        const size_t shared = count_shared(task);
        if (shared > known[k].shared) fail_msg("%s: %zu examples are in two sets", known[k].name, shared);
        task_free(task);
    }
}

/* The checker sees an example that stands in two sets. */
static void test_checker(void **state)
{
    (void)state;
    struct task *task = opened("shapes", (struct task_options){ .train_size = 20, .validation_size = 10,
                                                                .test_size = 10 });
    assert_int_equal(count_shared(task), 0);
    const size_t size = task->height * task->width * task->channels;
    memcpy(task->sets[TASK_TEST].images + 3 * size, task->sets[TASK_TRAIN].images + 7 * size, size);
    assert_int_equal(count_shared(task), 1);
    task_free(task);
}

/* A smaller training set begins a larger one of the same seed, has the classes in turn, and leaves the other sets
 * alone; another seed draws others. */
static void test_nested(void **state)
{
    (void)state;
    struct task *small = opened("shapes", (struct task_options){ .train_size = 30, .seed = 7 });
    struct task *large = opened("shapes", (struct task_options){ .train_size = 50, .seed = 7 });
    const size_t size = small->height * small->width * small->channels;
    assert_int_equal(small->sets[TASK_TRAIN].count, 30);
    assert_memory_equal(small->sets[TASK_TRAIN].labels, large->sets[TASK_TRAIN].labels, 30 * sizeof(int32_t));
    assert_memory_equal(small->sets[TASK_TRAIN].images, large->sets[TASK_TRAIN].images, 30 * size);
    for (size_t i = 0; i < 50; i++) assert_int_equal(large->sets[TASK_TRAIN].labels[i], i % 10);
    assert_int_equal(small->sets[TASK_TEST].count, large->sets[TASK_TEST].count);
    assert_memory_equal(small->sets[TASK_TEST].images, large->sets[TASK_TEST].images,
                        small->sets[TASK_TEST].count * size);
    assert_true(small->checksum != large->checksum);
    struct task *again = opened("shapes", (struct task_options){ .train_size = 30, .seed = 7 });
    assert_true(again->checksum == small->checksum);
    task_free(again);
    task_free(small);
    task_free(large);
    refuses("shapes", (struct task_options){ .train_size = 1000000 }, GSL_EINVAL, "1000000 training examples");
}

static void test_names(void **state)
{
    refuses("shape", (struct task_options){ 0 }, GSL_EINVAL, "no such task; is it shapes?");
    refuses("unheard-of", (struct task_options){ 0 }, GSL_EINVAL, "no such task");
    refuses(NULL, (struct task_options){ .train_file = "a.csv" }, GSL_EINVAL, "test file");
    /* An empty cache: the line says how to fill it. */
    const char *before = getenv("PREFIX_NTK_DATA");
    char *kept = before ? strdup(before) : NULL;
    setenv("PREFIX_NTK_DATA", scratch_path(*state, "nothing"), 1);
    size_t count;
    const struct task_entry *entries = task_list(&count);
    for (size_t i = 0; i < count; i++) {
        if (!entries[i].needs) continue;
        char says[64];
        snprintf(says, sizeof says, "data/fetch.sh %s", entries[i].needs);
        refuses(entries[i].name, (struct task_options){ 0 }, GSL_EFAILED, says);
    }
    if (kept) setenv("PREFIX_NTK_DATA", kept, 1);
    else unsetenv("PREFIX_NTK_DATA");
    free(kept);
    task_free(NULL);
}

/* ---- a user's CSV ---------------------------------------------------------------------------------------- */

static struct task_options files(const char *train, const char *test)
{
    return (struct task_options){ .train_file = train, .test_file = test };
}

/* Columns in any order, quotes, both line ends, a mark at the beginning; labels by their first appearance in
 * training. */
static void test_csv(void **state)
{
    char train[4096] = "\xEF\xBB\xBFid,label,text2,text\r\n";
    for (int i = 0; i < 40; i++) {
        char row[80];
        snprintf(row, sizeof row, "%d,%s,\"second, \"\"%d\"\"\",\"line\n%d caf\xC3\xA9\"\r\n", i, i % 3 ? "good"
                 : "bad", i, i);
        strcat(train, row);
    }
    const char *test = scratch_file(*state, "test.csv", "text,text2,label\n,,good\n\"a \"\"quoted\"\" word\",b,bad");
    struct task *task = opened(NULL, files(scratch_file(*state, "train.csv", train), test));
    assert_int_equal(task->num_classes, 2);
    assert_string_equal(task->class_names[0], "bad");
    assert_string_equal(task->class_names[1], "good");
    assert_int_equal(task->sets[TASK_TRAIN].count + task->sets[TASK_VALIDATION].count, 40);
    assert_int_equal(task->sets[TASK_TEST].count, 2);
    assert_int_equal(count_shared(task), 0);
    for (int s = 0; s <= TASK_VALIDATION; s++)
        for (size_t i = 0; i < task->sets[s].count; i++) {
            int number, second;
            assert_int_equal(sscanf(task->sets[s].texts[i], "line\n%d caf\xC3\xA9", &number), 1);
            assert_int_equal(sscanf(task->sets[s].texts2[i], "second, \"%d\"", &second), 1);
            assert_int_equal(number, second);
            assert_int_equal(task->sets[s].labels[i], number % 3 ? 1 : 0);
        }
    const struct task_set *got = &task->sets[TASK_TEST];
    const size_t quoted = got->labels[0] == 0 ? 0 : 1;
    assert_string_equal(got->texts[quoted], "a \"quoted\" word");
    assert_string_equal(got->texts[1 - quoted], "");
    task_free(task);
}

static void test_refuses_csv(void **state)
{
    static const char good[] = "text,label\na,x\nb,y\nc,x\nd,y\ne,x\nf,y\ng,x\nh,y\ni,x\nj,y\nk,x\nl,y\nm,x\nn,y\no,"
                               "x\np,y\n";
    static const struct { const char *text, *says; } bad[] = {
        { "", "no column named text" },
        { "text,label", "no row" },
        { "text,label\n", "no row" },
        { "text\na\n", "no column named label" },
        { "label,sentence\nx,a\n", "no column named text" },
        { "text,label,text\na,x,b\n", "column text twice" },
        { "text,label\na\n", "line 2: 1 cells" },
        { "text,label\na,x\nb,y,z\n", "line 3: more cells" },
        { "text,label\na,x\n\nb,y\n", "line 3: 1 cells" },
        { "text,label\n\"a,x\n", "line 2: a quote" },
        { "text,label\n\"a\"b,x\n", "line 2: a quote" },
        { "text,label\na\"b,x\n", "line 2: a quote" },
        { "text,label\na,\n", "line 2: no label" },
        { "text,label\na\xFF,x\n", "line 2: not UTF-8" },
        { "text,label\na\xC0\xAF,x\n", "line 2: not UTF-8" },
        { "text,label\na\xED\xA0\x80,x\n", "line 2: not UTF-8" },
        { "text,label\na\xF4\x90\x80\x80,x\n", "line 2: not UTF-8" },
        { "text,label\na\xE2\x82,x\n", "line 2: not UTF-8" },
        { "text,label\n\"1\n2\",x\nb,\xFF\n", "line 4: not UTF-8" },
    };
    const char *train = scratch_file(*state, "good.csv", good);
    task_free(opened(NULL, files(train, train)));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = scratch_file(*state, "bad.csv", bad[i].text);
        refuses(NULL, files(path, train), GSL_EINVAL, bad[i].says);
        refuses(NULL, files(path, train), GSL_EINVAL, "bad.csv");
        refuses(NULL, files(train, path), GSL_EINVAL, bad[i].says);
    }
    refuses(NULL, files(scratch_file(*state, "bad.csv", "text,label\na,x\nb,x\n"), train), GSL_EINVAL, "single label");
    refuses(NULL, files(train, scratch_file(*state, "bad.csv", "text,label\na,x\nb,z\n")), GSL_EINVAL,
            "line 3: label z");
    refuses(NULL, files(train, scratch_file(*state, "bad.csv", "text,label,text2\na,x,b\n")), GSL_EINVAL, "text2");
    const char *zero = scratch_path(*state, "zero.csv");
    FILE *file = fopen(zero, "w");
    assert_non_null(file);
    fwrite("text,label\na\0b,x\n", 1, 17, file);
    fclose(file);
    refuses(NULL, files(zero, train), GSL_EINVAL, "zero byte");
    refuses(NULL, files(scratch_path(*state, "missing.csv"), train), GSL_EFAILED, "missing.csv: No such file");
    refuses(NULL, files(train, scratch_path(*state, "missing.csv")), GSL_EFAILED, "missing.csv: No such file");
}

/* ---- a user's arrays --------------------------------------------------------------------------------------- */

/* An NPY file of any dtype from raw bytes. */
static const char *write_npy(void *state, const char *name, const char *dtype, const char *shape, const void *data,
                             size_t size)
{
    char header[128];
    const int length = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", dtype,
                                shape);
    const char *path = scratch_path(state, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "\x93NUMPY\x01");
    putc(0, file);
    putc(118, file);
    putc(0, file);
    fprintf(file, "%-117s\n", header);
    assert_true(length < 118);
    fwrite(data, 1, size, file);
    fclose(file);
    return path;
}

static void test_npy(void **state)
{
    enum { N = 40, SIZE = 2 * 3 * 3 };
    unsigned char bytes[N * SIZE];
    float floats[N * SIZE];
    int64_t y64[N];
    unsigned char y8[N];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 37 + i / 256);
        floats[i] = (float)bytes[i] / 255.0f;
    }
    for (size_t i = 0; i < N; i++) y64[i] = y8[i] = (unsigned char)(i % 4);
    const char *X = write_npy(*state, "trainX.npy", "|u1", "(40, 2, 3, 3)", bytes, sizeof bytes);
    write_npy(*state, "trainy.npy", "<i8", "(40,)", y64, sizeof y64);
    const char *X2 = write_npy(*state, "X_test.npy", "<f4", "(40, 2, 3, 3)", floats, sizeof floats);
    write_npy(*state, "y_test.npy", "|u1", "(40,)", y8, sizeof y8);
    struct task *task = opened(NULL, files(X, X2));
    assert_int_equal(task->modality, TASK_IMAGE);
    assert_int_equal(task->height, 2);
    assert_int_equal(task->width, 3);
    assert_int_equal(task->channels, 3);
    assert_int_equal(task->num_classes, 4);
    assert_string_equal(task->class_names[3], "3");
    assert_int_equal(task->sets[TASK_TRAIN].count + task->sets[TASK_VALIDATION].count, N);
    /* The floats are the same pictures: every one of the test set is found among the bytes, with its label. */
    const struct task_set *test = &task->sets[TASK_TEST];
    assert_int_equal(test->count, N);
    for (size_t i = 0; i < N; i++) {
        size_t k = 0;
        while (k < N && memcmp(test->images + i * SIZE, bytes + k * SIZE, SIZE)) k++;
        assert_true(k < N);
        assert_int_equal(test->labels[i], k % 4);
    }
    task_free(task);
}

static void test_refuses_npy(void **state)
{
    enum { N = 40, SIZE = 6 };
    unsigned char bytes[N * SIZE];
    int32_t y[N], y_bad[N];
    float floats[N * SIZE], labels[N];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 37 + i / 7);
    for (size_t i = 0; i < N * SIZE; i++) floats[i] = 0.5f;
    for (size_t i = 0; i < N; i++) labels[i] = (float)(y[i] = y_bad[i] = (int32_t)(i % 2));
    const char *X = write_npy(*state, "X.npy", "|u1", "(40, 2, 3)", bytes, sizeof bytes);
    write_npy(*state, "y.npy", "<i4", "(40,)", y, sizeof y);
    task_free(opened(NULL, files(X, X)));
    refuses(NULL, files(X, scratch_path(*state, "images.npy")), GSL_EINVAL, "no X in the name");
    refuses(NULL, files(scratch_path(*state, "noneX.npy"), X), GSL_EFAILED, "noneX.npy: No such file");
    write_npy(*state, "aloneX.npy", "|u1", "(40, 2, 3)", bytes, sizeof bytes);
    refuses(NULL, files(scratch_path(*state, "aloneX.npy"), X), GSL_EFAILED, "aloney.npy: No such file");

    write_npy(*state, "by.npy", "<i4", "(40,)", y, sizeof y);
    const char *bad = scratch_path(*state, "bX.npy");
    static const struct { const char *shape; size_t size; const char *says; } shapes[] = {
        { "(40, 6)", 240, "not (n, h, w)" }, { "(40, 1, 3, 2)", 240, "not (n, h, w)" },
        { "(20, 2, 3)", 120, "20 images" },
        { "(40, 3, 2)", 240, "another size" },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        write_npy(*state, "bX.npy", "|u1", shapes[i].shape, bytes, shapes[i].size);
        refuses(NULL, files(X, bad), GSL_EINVAL, shapes[i].says);
    }
    write_npy(*state, "bX.npy", "<i2", "(40, 1, 3)", bytes, 240);
    refuses(NULL, files(bad, X), GSL_EINVAL, "neither uint8 nor float");
    floats[77] = 1.5f;
    write_npy(*state, "bX.npy", "<f4", "(40, 2, 3)", floats, sizeof floats);
    refuses(NULL, files(bad, X), GSL_EINVAL, "image 12 has a pixel outside");
    floats[77] = NAN;
    write_npy(*state, "bX.npy", "<f4", "(40, 2, 3)", floats, sizeof floats);
    refuses(NULL, files(bad, X), GSL_EDOM, "bX.npy");

    write_npy(*state, "bX.npy", "|u1", "(40, 2, 3)", bytes, sizeof bytes);
    write_npy(*state, "by.npy", "<f4", "(40,)", labels, sizeof labels);
    refuses(NULL, files(bad, X), GSL_EINVAL, "by.npy: labels are no integers");
    y_bad[5] = -1;
    write_npy(*state, "by.npy", "<i4", "(40,)", y_bad, sizeof y_bad);
    refuses(NULL, files(bad, X), GSL_EINVAL, "label 5 is no class");
    y_bad[5] = 2;
    write_npy(*state, "by.npy", "<i4", "(40,)", y_bad, sizeof y_bad);
    refuses(NULL, files(X, bad), GSL_EINVAL, "label 5 of the test set");
    memset(y_bad, 0, sizeof y_bad);
    write_npy(*state, "by.npy", "<i4", "(40,)", y_bad, sizeof y_bad);
    refuses(NULL, files(bad, bad), GSL_EINVAL, "single class");
    write_npy(*state, "by.npy", "<i4", "(40, 1)", y, sizeof y);
    refuses(NULL, files(bad, X), GSL_EINVAL, "labels");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known), cmocka_unit_test(test_checker), cmocka_unit_test(test_nested),
            cmocka_unit_test(test_names),
        cmocka_unit_test(test_csv), cmocka_unit_test(test_refuses_csv), cmocka_unit_test(test_npy),
            cmocka_unit_test(test_refuses_npy),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
