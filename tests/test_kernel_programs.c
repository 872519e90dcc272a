/* The programs about a prefix and its kernel: same rows for any number of threads, no NaN
 * in a table, bad values refused by name. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"

#include <stdlib.h>
#include <string.h>

/* Each with options that keep it short, and an option it refuses. */
static const struct { const char *name, *options[12], *bad[3]; } programs[] = {
    { "prefix_gradient", { "--step", "1e-4,1e-6" }, { "--step", "1e-4,-1", "--step" } },
    { "ntk_freezing", { "--prefix-len", "64,256", "--num-trials", "6", "--threshold-share", "0.25,1,2" }, { "--prefix-len", "1", "--prefix-len" } },
    { "ntk_spectrum", { "--num-instances", "20", "--num-draws", "4", "--prefix-len", "64,16", "--num-trials", "4" }, { "--num-draws", "1", "--num-draws" } },
    { "ntk_prefix_needed", { "--num-instances", "3", "--num-trials", "4", "--max-prefix-len", "512" }, { "--confidence", "1.5", "--confidence" } },
    { "ntk_rank", { "--num-samples", "3", "--dim", "3", "--prefix-len", "6" }, { "--prefix-len", "0", "--prefix-len" } },
    { "ntk_real_layer", { "--prefix-len", "64,256", "--num-trials", "4" }, { "--signs", "mirror", "--signs" } },
    { "theorem_constants", { "--num-samples", "2", "--dim", "2,3", "--sigma", "0.5", "--prefix-len", "32", "--num-trials", "2", "--max-work", "1e5" },
      { "--max-work", "0", "--max-work" } },
    { "contraction_violations", { "--num-samples", "2,4", "--dim", "2", "--sigma", "0.3", "--num-data", "3", "--prefix-len", "64" },
      { "--prefix-len", "7", "--prefix-len" } },
    { "prefix_scaling", { "--num-samples", "3", "--dim", "2", "--num-test", "4", "--prefix-len", "16,32", "--num-data", "2", "--num-steps", "30" },
      { "--num-data", "0", "--num-data" } },
    { "training_laziness", { "--num-samples", "2", "--dim", "2", "--prefix-len", "16,32", "--num-data", "2", "--num-steps", "5", "--num-draws", "2" },
      { "--num-data", "0", "--num-data" } },
    { "real_prefix_training", { "--num-samples", "5", "--dim", "3", "--prefix-len", "1,8", "--num-data", "2", "--num-steps", "20" },
      { "--step-size", "-1", "--step-size" } },
    { "score_concentration", { "--prefix-len", "1,16,700", "--num-trials", "8" }, { "--delta", "1", "--delta" } },
};

static void test_programs(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof programs / sizeof *programs; p++) {
        const char *const *o = programs[p].options;
        char *first = NULL;
        for (int threads = 1; threads <= 2; threads++) {
            struct outcome run = run_program(programs[p].name, "--quiet", "--threads", threads == 1 ? "1" : "2",
                                             o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7], o[8], o[9], o[10], o[11],
                                             NULL);
            if (run.code) print_error("%s: %s", programs[p].name, run.err);
            assert_int_equal(run.code, 0);
            assert_string_equal(run.err, "");
            char *rows = data_rows(run.out);
            assert_null(strstr(rows, "nan"));
            assert_null(strstr(rows, "inf,"));
            assert_non_null(strchr(rows, '\n'));
            assert_true(strlen(strchr(rows, '\n')) > 20);      /* more than a header */
            if (first) assert_string_equal(rows, first);
            else first = strdup(rows);
            free(rows);
            outcome_free(&run);
        }
        free(first);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof programs / sizeof *programs; p++)
        CHECK_REFUSAL(run_program(programs[p].name, programs[p].bad[0], programs[p].bad[1], NULL), 2, programs[p].name, programs[p].bad[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_programs), cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
