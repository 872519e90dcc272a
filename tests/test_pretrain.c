/* pretrain at program level: a folder that finetune and embed open, the same from the same seed. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_folder.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZES "--task", "shapes", "--hidden", "12", "--num-layers", "1", "--num-heads", "3", "--mlp-dim", "16", \
    "--epochs", "1", "--train-size", "40"

static void run_well(struct outcome o)
{
    if (o.code) fail_msg("exit code %d: %s", o.code, o.err);
    outcome_free(&o);
}

static void test_folder(void **state)
{
    static const char *const names[] = { "first", "second", "third" };
    static const char *const files[] = { "config.json", "preprocessor_config.json", "model.safetensors" };
    const char *dirs[3];
    for (int i = 0; i < 3; i++) {
        dirs[i] = scratch_path(*state, names[i]);
        run_well(run_program("pretrain", SIZES, "--seed", i == 2 ? "2" : "1", "--threads", i == 1 ? "2" : "1", "--out",
                             dirs[i], NULL));
    }
    for (size_t f = 0; f < 3; f++) {
        size_t size[3];
        char *bytes[3];
        for (int i = 0; i < 3; i++) assert_non_null(bytes[i] = tiny_folder_read(dirs[i], files[f], &size[i]));
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(bytes[0], bytes[1], size[0]);
        if (f == 2) assert_true(size[0] != size[2] || memcmp(bytes[0], bytes[2], size[0]));
        for (int i = 0; i < 3; i++) free(bytes[i]);
    }
    run_well(run_program("finetune", "--backbone", dirs[0], "--method", "head", "--epochs", "1", "--train-size", "20",
                         "--validation-size", "10", "--test-size", "10", "--threads", "1", "--out",
                         scratch_path(*state, "tuned"), NULL));
}

static void test_refusals(void **state)
{
    const char *out = scratch_path(*state, "refused"), *file = scratch_file(*state, "file", "mine\n");
    CHECK_REFUSAL(run_program("pretrain", SIZES, NULL), 2, "pretrain", "--out");
    CHECK_REFUSAL(run_program("pretrain", SIZES, "--num-heads", "5", "--out", out, NULL), 2, "pretrain", "--num-heads");
    CHECK_REFUSAL(run_program("pretrain", SIZES, "--epochs", "0", "--out", out, NULL), 2, "pretrain", "--epochs");
    CHECK_REFUSAL(run_program("pretrain", SIZES, "--task", "nosuch", "--out", out, NULL), 3, "pretrain", "nosuch");
    CHECK_REFUSAL(run_program("pretrain", SIZES, "--out", scratch_path(*state, "no-folder/x"), NULL), 1, "pretrain",
                  "no-folder");
    CHECK_REFUSAL(run_program("pretrain", SIZES, "--out", file, NULL), 1, "pretrain", "file");
    assert_int_not_equal(access(out, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_folder), cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
