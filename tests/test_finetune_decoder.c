/* finetune and lm at program level with a decoder the test writes: every method, what it leaves, its adapter read
 * again. */
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const methods[] = { "full", "head", "lora", "ptuning", "tied-prefix", "ntk", "prefix-plus" };
enum { NUM_METHODS = sizeof methods / sizeof *methods };

/* The adapter is float32 in both programs, batches are of other sizes. */
static const double RTOL_ROUNDOFF = 2e-5;

/* Sentences whose class is told by their first word. */
static const char *examples_file(void *state)
{
    char text[4000] = "text,label\n";
    for (int i = 0; i < 60; i++) {
        char row[64];
        snprintf(row, sizeof row, "%s number %d of them,%s\n", i % 2 ? "hello" : "good", i, i % 2 ? "warm" : "cold");
        strcat(text, row);
    }
    return scratch_file(state, "examples.csv", text);
}

static double number_of(void *state, const char *folder, const char *key)
{
    char name[64];
    json_error_t error;
    snprintf(name, sizeof name, "%s/result.json", folder);
    json_t *json = json_load_file(scratch_path(state, name), 0, &error);
    if (!json) fail_msg("%s: %s", name, error.text);
    const double value = json_number_value(json_object_get(json, key));
    json_decref(json);
    return value;
}

static void run_well(struct outcome o)
{
    if (o.code) fail_msg("exit code %d: %s", o.code, o.err);
    outcome_free(&o);
}

/* Trains, then evaluates the adapter alone: the same test loss. */
static void test_methods(void **state)
{
    const char *csv = examples_file(*state), *model = scratch_path(*state, "tiny.gguf");
    decoder_free(gguf_tiny_model(model));
    for (size_t i = 0; i < NUM_METHODS; i++)
        for (int rotation = 0; rotation < 2; rotation++) {
            char folder[2][32], adapter[64];
            snprintf(folder[0], sizeof folder[0], "%s%d", methods[i], rotation);
            snprintf(folder[1], sizeof folder[1], "%s%d-again", methods[i], rotation);
            snprintf(adapter, sizeof adapter, "%s/adapter", folder[0]);
            run_well(run_program("finetune", "--backbone", model, "--train", csv, "--test", csv, "--method", methods[i],
                                 "--rotation", rotation ? "unrotated" : "rotated", "--output", "classifier", "--epochs",
                                 "2", "--batch", "4", "--quiet", "--threads", "1", "--out",
                                 scratch_path(*state, folder[0]), NULL));
            run_well(run_program("finetune", "--backbone", model, "--train", csv, "--test", csv, "--adapter",
                                 scratch_path(*state, adapter), "--output", "classifier", "--epochs", "0", "--batch",
                                     "7",
                                 "--quiet", "--threads", "1", "--out", scratch_path(*state, folder[1]), NULL));
            CHECK_CLOSE(number_of(*state, folder[1], "test_loss"), number_of(*state, folder[0], "test_loss"),
                        RTOL_ROUNDOFF, 0.0);
            assert_true(number_of(*state, folder[0], "trainable_params") > 0.0);
            /* lm reads text through any of them. */
            struct outcome o = run_program("lm", "--backbone", model, "--prefix-adapter", scratch_path(*state, adapter),
                                           "--generate", "3", "--quiet", NULL);
            if (o.code) fail_msg("lm, %s: %s", methods[i], o.err);
            outcome_free(&o);
        }
}

static void test_refusals(void **state)
{
    const char *csv = examples_file(*state), *model = scratch_path(*state, "tiny.gguf"), *out =
        scratch_path(*state, "no");
    decoder_free(gguf_tiny_model(model));
    CHECK_REFUSAL(run_program("finetune", "--backbone", model, "--train", csv, "--test", csv, "--out", out, NULL), 3,
                  "finetune", "one token");
    CHECK_REFUSAL(run_program("finetune", "--backbone", model, "--task", "shapes", "--out", out, NULL), 3, "finetune",
                  "is of images");
    CHECK_REFUSAL(run_program("finetune", "--backbone", model, "--pool", "cls", "--out", out, NULL), 2, "finetune",
                  "--pool: has no effect");
    CHECK_REFUSAL(run_program("finetune", "--backbone", "vit-fashion", "--rotation", "rotated", "--out", out, NULL), 2,
                  "finetune", "--rotation: has no effect");
    CHECK_REFUSAL(run_program("finetune", "--backbone", model, "--train", csv, "--test", csv, "--output", "classifier",
                              "--method", "ptuning", "--prefix-len", "96", "--out", out, NULL),
                  2, "finetune", "leaves no position");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_methods), cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
