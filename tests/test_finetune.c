/* finetune at program level, on tiny backbones the tests write. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_folder.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *const methods[] = { "full", "head", "lora", "ptuning", "tied-prefix", "ntk", "prefix-plus" };
enum { NUM_METHODS = sizeof methods / sizeof *methods };

/* The examples of every run here. */
#define SIZES "--train-size", "60", "--validation-size", "30", "--test-size", "40", "--threads", "1"

static void run_well(struct outcome o, const char *says)
{
    if (o.code || !strstr(o.err, says)) fail_msg("exit code %d, '%s' expected: %s", o.code, says, o.err);
    outcome_free(&o);
}

static json_t *result_of(const char *out)
{
    json_error_t error;
    char path[4096];
    snprintf(path, sizeof path, "%s/result.json", out);
    json_t *json = json_load_file(path, 0, &error);
    if (!json) fail_msg("%s: %s", path, error.text);
    return json;
}

static double number(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

static size_t count_rows(const char *out, const char *name, const char *header)
{
    char *table = tiny_folder_read(out, name, NULL);
    if (!table) fail_msg("%s is missing", name);
    char *rows = data_rows(table);
    size_t n = 0;
    assert_int_equal(strncmp(rows, header, strlen(header)), 0);
    for (const char *c = rows; *c; c++) n += *c == '\n';
    free(rows);
    free(table);
    return n - 1;
}

static bool exists(const char *out, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", out, name);
    return !access(path, F_OK);
}

/* ---- what a run writes --------------------------------------------------------------------------------------- */

static void test_methods(void **state)
{
    static const char *const keys[] = { "test_accuracy", "val_accuracy", "trainable_params", "head_params", "steps",
                                        "step_time_s", "peak_rss_bytes" };
    const char *dir = tiny_folder(*state, "methods-vit", BACKBONE_VIT);
    for (size_t i = 0; i < NUM_METHODS; i++) {
        const char *out = scratch_path(*state, methods[i]), *again = scratch_path(*state, "again");
        char adapter[4096];
        snprintf(adapter, sizeof adapter, "%s/adapter", out);
        run_well(run_program("finetune", "--backbone", dir, "--method", methods[i], "--epochs", "2", "--seed", "3",
                             SIZES, "--out", out, NULL),
                 "test accuracy");
        json_t *result = result_of(out);
        assert_string_equal(json_string_value(json_object_get(result, "method")), methods[i]);
        assert_string_equal(json_string_value(json_object_get(result, "task")), "shapes");
        assert_int_equal(number(result, "seed"), 3);
        assert_int_equal(number(result, "test_count"), 40);
        assert_int_equal(number(result, "steps"), 8);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) assert_true(number(result, keys[k]) >= 0.0);
        assert_true(json_is_object(json_object_get(result, "options")));
        assert_int_equal(count_rows(out, "curve.csv", "step,time_s,train_loss,val_loss,val_accuracy\n"), 3);
        assert_int_equal(count_rows(out, "predictions.csv", "index,label,predicted\n"), 40);
        assert_true(exists(out, "adapter/adapter_config.json") && exists(out, "adapter/adapter_model.safetensors"));
        assert_false(exists(out, ".finetune.state"));
        /* The adapter alone gives the same predictions. */
        run_well(run_program("finetune", "--backbone", dir, "--adapter", adapter, "--epochs", "0", "--seed", "3", SIZES,
                             "--out", again, NULL),
                 "test accuracy");
        json_t *same = result_of(again);
        CHECK_CLOSE(number(same, "test_accuracy"), number(result, "test_accuracy"), 0.0, 0.0);
        CHECK_CLOSE(number(same, "test_loss"), number(result, "test_loss"), 0.0, 0.0);
        assert_int_equal(number(same, "steps"), 0);
        char *first = tiny_folder_read(out, "predictions.csv", NULL),
            *second = tiny_folder_read(again, "predictions.csv", NULL);
        char *first_rows = data_rows(first), *second_rows = data_rows(second);
        assert_string_equal(first_rows, second_rows);
        free(first_rows);
        free(second_rows);
        free(first);
        free(second);
        json_decref(same);
        json_decref(result);
    }
}

/* A second run of the same command does nothing; of another adapter, options or threads what it should. */
static void test_unchanged(void **state)
{
    const char *dir = tiny_folder(*state, "unchanged-vit", BACKBONE_VIT), *out = scratch_path(*state, "unchanged"),
        *adapter = scratch_path(*state, "unchanged/adapter"),
               *evaluated = scratch_path(*state, "evaluated");
    struct stat before, after;
    for (int i = 0; i < 2; i++)
        run_well(run_program("finetune", "--backbone", dir, "--method", "lora", "--epochs", "1", SIZES, "--out", out,
                             NULL), i ? "unchanged" : "test accuracy");
    run_well(run_program("finetune", "--backbone", dir, "--method", "lora", "--epochs", "1", SIZES, "--threads", "2",
                         "--out", out, NULL), "unchanged");
    for (int i = 0; i < 2; i++)
        run_well(run_program("finetune", "--backbone", dir, "--adapter", adapter, "--epochs", "0", SIZES, "--out",
                             evaluated, NULL),
                 i ? "unchanged" : "test accuracy");
    assert_int_equal(stat(scratch_path(*state, "unchanged/result.json"), &before), 0);
    run_well(run_program("finetune", "--backbone", dir, "--method", "lora", "--epochs", "1", "--lr", "0.01", SIZES,
                         "--out", out, NULL), "test accuracy");
    assert_int_equal(stat(scratch_path(*state, "unchanged/result.json"), &after), 0);
    assert_true(before.st_ino != after.st_ino);
    /* Its numbers are others now, under the same name. */
    run_well(run_program("finetune", "--backbone", dir, "--adapter", adapter, "--epochs", "0", SIZES, "--out",
                         evaluated, NULL), "test accuracy");
}

/* ---- kills ------------------------------------------------------------------------------------------------------- */

#define LONG_RUN "--method", "ntk", "--epochs", "60", "--batch", "2", "--seed", "5"

static pid_t start(const char *dir, const char *out, const char *err)
{
    const char *folder = getenv("PREFIX_NTK_BIN");
    char path[4096];
    snprintf(path, sizeof path, "%s/finetune", folder ? folder : "build/bin");
    char *words[] = { path, "--backbone", (char *)dir, LONG_RUN, SIZES, "--out", (char *)out, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    pid_t pid;
    assert_int_equal(posix_spawn(&pid, path, &actions, NULL, words, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

/* The curve without its times. */
static char *curve_of(const char *out)
{
    char *table = tiny_folder_read(out, "curve.csv", NULL);
    assert_non_null(table);
    char *rows = data_rows(table), *to = rows;
    free(table);
    int cell = 0;
    for (const char *from = rows; *from; from++) {
        if (*from == '\n') cell = 0;
        else if (*from == ',') cell++;
        if (cell != 1) *to++ = *from;
    }
    *to = '\0';
    return rows;
}

static void check_same_run(const char *out, const char *whole)
{
    static const char *const names[] = { "adapter/adapter_model.safetensors", "adapter/head.safetensors",
                                         "adapter/adapter_config.json" };
    char *a = curve_of(out), *b = curve_of(whole);
    assert_string_equal(a, b);
    free(a);
    free(b);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n, m;
        a = tiny_folder_read(out, names[i], &n);
        b = tiny_folder_read(whole, names[i], &m);
        assert_true(a && b);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
    }
}

static void test_resume(void **state)
{
    const char *dir = tiny_folder(*state, "resume-vit", BACKBONE_VIT), *whole = scratch_path(*state, "whole"),
        *err = scratch_path(*state, "resume.err");
    static const struct { int signal; const char *name; } kills[] = { { SIGKILL, "killed" },
                                                                      { SIGINT, "interrupted" } };
    run_well(run_program("finetune", "--backbone", dir, LONG_RUN, SIZES, "--out", whole, NULL), "test accuracy");
    for (size_t i = 0; i < sizeof kills / sizeof *kills; i++) {
        const char *out = scratch_path(*state, kills[i].name);
        const pid_t pid = start(dir, out, err);
        int status = 0;
        while (!exists(out, ".finetune.state") && !waitpid(pid, &status, WNOHANG))
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        assert_int_equal(kill(pid, kills[i].signal), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (kills[i].signal == SIGKILL) assert_true(WIFSIGNALED(status));
        else assert_int_equal(WEXITSTATUS(status), 130);
        assert_true(exists(out, ".finetune.state"));
        assert_false(exists(out, "result.json"));
        run_well(run_program("finetune", "--backbone", dir, LONG_RUN, SIZES, "--out", out, NULL), "resumes after step");
        assert_false(exists(out, ".finetune.state") || exists(out, ".finetune.state.new"));
        check_same_run(out, whole);
    }
}

/* A state of another origin is neither read nor replaced; one cut short is not believed. */
static void test_foreign_state(void **state)
{
    const char *dir = tiny_folder(*state, "foreign-vit", BACKBONE_VIT), *out = scratch_path(*state, "foreign");
    assert_int_equal(mkdir(out, 0777), 0);
    scratch_file(*state, "foreign/.finetune.state", "letters of mine\n");
    CHECK_REFUSAL(run_program("finetune", "--backbone", dir, "--method", "head", "--epochs", "1", SIZES, "--out", out,
                              NULL), 1, "finetune", ".finetune.state");
    char *kept = tiny_folder_read(out, ".finetune.state", NULL);
    assert_string_equal(kept, "letters of mine\n");
    free(kept);
    assert_false(exists(out, "result.json") || exists(out, "curve.csv"));
}

/* ---- own data ---------------------------------------------------------------------------------------------------- */

static void test_own_texts(void **state)
{
    const char *dir = tiny_folder(*state, "own-bert", BACKBONE_BERT), *out = scratch_path(*state, "own");
    char rows[4096] = "text,label\n";
    static const char *const nouns[] = { "cat", "dog" };
    for (int i = 0; i < 60; i++) {
        char row[64];
        snprintf(row, sizeof row, "the %s sat on %d,%s\n", nouns[i % 2], i, i % 2 ? "barks" : "mews");
        strcat(rows, row);
    }
    const char *train = scratch_file(*state, "own-train.csv", rows);
    const char *test = scratch_file(*state, "own-test.csv",
                                    "label,text\r\nmews,\"a cat, \"\"sat\"\"\"\r\nbarks,dog\r\n");
    run_well(run_program("finetune", "--backbone", dir, "--train", train, "--test", test, "--method", "full", "--lr",
                         "0.01", "--head-lr", "0.01", "--epochs", "20", "--threads", "1", "--out", out, NULL),
                         "test accuracy 1.0000");
    json_t *result = result_of(out);
    CHECK_CLOSE(number(result, "test_accuracy"), 1.0, 0.0, 0.0);
    json_decref(result);
    char *table = tiny_folder_read(out, "predictions.csv", NULL), *predicted = data_rows(table);
    assert_string_equal(predicted, "index,label,predicted\n0,mews,mews\n1,barks,barks\n");
    free(predicted);
    free(table);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

#define REFUSED(code, says, ...) \
    CHECK_REFUSAL(run_program("finetune", "--backbone", dir, SIZES, "--out", out, __VA_ARGS__, NULL), code, \
                  "finetune", says)

static void test_usage(void **state)
{
    const char *dir = tiny_folder(*state, "usage-vit", BACKBONE_VIT), *out = scratch_path(*state, "usage");
    const char *csv = scratch_file(*state, "usage.csv", "text,label\n");
    REFUSED(2, "--rank", "--method", "ntk", "--rank", "4");
    REFUSED(2, "--targets", "--method", "full", "--targets", "q");
    REFUSED(2, "--prefix-len", "--method", "lora", "--prefix-len", "4");
    REFUSED(2, "--reparameterise", "--method", "tied-prefix", "--reparameterise", "4");
    REFUSED(2, "--feature", "--method", "ptuning", "--feature", "elu1");
    REFUSED(2, "--k-mode", "--method", "prefix-plus", "--k-mode", "log");
    REFUSED(2, "--layers", "--method", "head", "--layers", "0-1");
    REFUSED(2, "--lr", "--method", "head", "--lr", "0.1");
    REFUSED(2, "--max-len", "--method", "head", "--max-len", "16");
    REFUSED(2, "--lr", "--method", "ntk", "--epochs", "0", "--lr", "0.1");
    REFUSED(2, "--keep", "--method", "ntk", "--epochs", "0", "--keep", "best");
    REFUSED(2, "--adapter", "--adapter", out);
    REFUSED(2, "--method", "--adapter", out, "--epochs", "0", "--method", "lora");
    REFUSED(2, "--task", "--task", "shapes", "--train", csv, "--test", csv);
    REFUSED(2, "--train", "--train", csv);
    REFUSED(2, "--method", "--method", "adapterfusion");
    REFUSED(2, "--epochs", "--epochs", "-1");
    REFUSED(2, "--batch", "--batch", "0");
    REFUSED(2, "--layers", "--layers", "1-0");
    CHECK_REFUSAL(run_program("finetune", "--backbone", dir, SIZES, NULL), 2, "finetune", "--out");
    assert_int_not_equal(access(out, F_OK), 0);
}

static void test_bad_data(void **state)
{
    const char *dir = tiny_folder(*state, "bad-vit", BACKBONE_VIT), *out = scratch_path(*state, "bad"),
        *absent = scratch_path(*state, "absent");
    const char *adapter = scratch_path(*state, "bad-adapter"), *csv = scratch_file(*state, "bad.csv",
                                                                                   "words,label\na,b\n");
    REFUSED(3, "nosuch", "--task", "nosuch");
    REFUSED(3, "absent", "--adapter", absent, "--epochs", "0");
    REFUSED(3, "bad.csv", "--train", csv, "--test", csv);
    CHECK_REFUSAL(run_program("finetune", "--backbone", absent, "--out", out, NULL), 3, "finetune", "absent");
    /* Adapters that are none. */
    assert_int_equal(mkdir(adapter, 0777), 0);
    scratch_file(*state, "bad-adapter/adapter_config.json", "{\"peft_type\": \"LORA\", ");
    REFUSED(3, "adapter_config.json", "--adapter", adapter, "--epochs", "0");
    scratch_file(*state, "bad-adapter/adapter_config.json", "{\"peft_type\": \"IA3\"}");
    REFUSED(3, "IA3", "--adapter", adapter, "--epochs", "0");
    scratch_file(*state, "bad-adapter/adapter_config.json",
                 "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"query\"]}");
    REFUSED(3, "adapter_model.safetensors", "--adapter", adapter, "--epochs", "0");
    scratch_file(*state, "bad-adapter/adapter_model.safetensors", "not a header");
    REFUSED(3, "adapter_model.safetensors", "--adapter", adapter, "--epochs", "0");
    assert_int_not_equal(access(out, F_OK), 0);
}

static void test_out(void **state)
{
    const char *dir = tiny_folder(*state, "out-vit", BACKBONE_VIT), *file = scratch_file(*state, "out-file", "mine\n");
    CHECK_REFUSAL(run_program("finetune", "--backbone", scratch_path(*state, "absent"), "--out", file, NULL), 1,
                  "finetune", "out-file");
    CHECK_REFUSAL(run_program("finetune", "--backbone", dir, "--out", scratch_path(*state, "no-folder/run"), NULL), 1,
                  "finetune", "no-folder");
    char *kept = tiny_folder_read(file, "../out-file", NULL);
    assert_null(kept);
    /* A slash at the end is a folder, too. */
    run_well(run_program("finetune", "--backbone", dir, "--method", "head", "--epochs", "1", SIZES, "--out",
                         scratch_path(*state, "slash/"), NULL),
             "test accuracy");
    assert_true(exists(scratch_path(*state, "slash"), "result.json"));
}

static void test_list(void **state)
{
    (void)state;
    struct outcome o = run_program("finetune", "--list", NULL);
    assert_int_equal(o.code, 0);
    for (size_t i = 0; i < NUM_METHODS; i++) assert_non_null(strstr(o.out, methods[i]));
    assert_non_null(strstr(o.out, "minilm"));
    assert_non_null(strstr(o.out, "shapes"));
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods), cmocka_unit_test(test_unchanged), cmocka_unit_test(test_resume),
            cmocka_unit_test(test_foreign_state),
        cmocka_unit_test(test_own_texts), cmocka_unit_test(test_usage), cmocka_unit_test(test_bad_data),
            cmocka_unit_test(test_out),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
