/* --shard: the units of a program computed in parts by processes that know nothing of each other, and taken in by
 * the same command without the option: the rows of one run, whatever became of the parts. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* Every program with a journal that needs no data set, at a tiny size; "@" stands for a name of the run's own. */
static const char *const cases[][24] = {
    { "approximation_crossover", "--num-trials", "2", "--prefix-len", "16,64" },
    { "attention_error", "--dim", "4", "--seq-len", "8", "--num-trials", "4", "--prefix-len", "2,16", "--features",
      "none,elu1,taylor:1", "--train", "none", "--intervals" },
    { "error_bound", "--num-trials", "4", "--seq-len", "4" },
    { "gaussian_prefix_limit", "--num-trials", "4", "--prefix-len", "64" },
    { "low_rank_summary", "--num-trials", "4", "--prefix-len", "64" },
    { "ntk_features", "--num-trials", "2", "--num-fit", "50" },
    { "prefix_effect_trap", "--num-trials", "2", "--prefix-len", "64" },
    { "score_centring", "--num-trials", "2", "--prefix-len", "64" },
    { "summary_capacity", "--num-trials", "4" },
    { "ntk_convergence", "--num-samples", "3", "--dim", "2", "--prefix-len", "8,32", "--num-trials", "4", "--limit-out",
      "@L.npy", "--gram-out", "@G.npy", "--prefix-out", "@W.npy" },
    { "ntk_freezing", "--num-samples", "3", "--dim", "2", "--prefix-len", "16", "--num-trials", "5" },
    { "ntk_prefix_needed", "--num-instances", "2", "--num-trials", "3", "--max-prefix-len", "64" },
    { "ntk_rank", "--num-samples", "2", "--dim", "2", "--prefix-len", "3" },
    { "ntk_real_layer", "--num-samples", "2", "--dim", "3", "--out-dim", "2", "--seq-len", "4", "--prefix-len", "16,32",
      "--num-trials", "4" },
    { "ntk_spectrum", "--num-instances", "4", "--num-draws", "2", "--num-samples", "2,4", "--dim", "2", "--prefix-len",
      "16", "--num-trials", "2" },
    { "prefix_gradient", "--step", "1e-3" },
    { "score_concentration", "--prefix-len", "1,16", "--num-trials", "5" },
    { "kernel_perturbation", "--num-samples", "2", "--dim", "2", "--radius", "0.01,0.1", "--prefix-len", "16,32",
      "--num-trials", "2", "--num-iterations", "2" },
    { "prefix_scaling", "--num-samples", "2", "--dim", "2", "--num-test", "2", "--prefix-len", "16,32", "--num-trials",
      "2", "--num-steps", "20" },
    { "prefix_threshold", "--num-samples", "2,3", "--dim", "2", "--num-trials", "2", "--num-starts", "1",
      "--max-iterations", "5" },
    { "theorem_constants", "--num-samples", "2", "--dim", "2,3", "--sigma", "0.5", "--prefix-len", "16", "--num-trials",
      "2", "--max-work", "1e4" },
    { "contraction_violations", "--num-samples", "2,3", "--dim", "2", "--sigma", "0.5", "--num-data", "3",
      "--prefix-len", "16" },
    { "real_prefix_training", "--num-samples", "3", "--dim", "2", "--prefix-len", "1,2", "--num-data", "2",
      "--num-steps", "3", "--tables" },
    { "real_layer_training", "--num-samples", "2", "--dim", "3", "--seq-len", "4", "--prefix-len", "16,32",
      "--num-trials", "2", "--num-steps", "6", "--early-steps", "3" },
    { "training_contraction", "--num-trials", "2", "--num-steps", "5", "--prefix-len", "32", "--tables" },
    { "training_dynamics", "--num-samples", "3", "--dim", "2", "--prefix-len", "8,32", "--num-trials", "3",
      "--num-steps", "20", "--prefix-out", "@W.npy", "--curve-out", "@c.csv" },
    { "training_laziness", "--num-samples", "2", "--dim", "2", "--prefix-len", "16,32", "--num-trials", "2",
      "--num-steps", "5", "--num-draws", "2" },
    { "released_kernel", "--num-trials", "2", "--adam-steps", "5" },
    { "summary_training", "--num-trials", "2", "--num-starts", "1" },
    { "kernel_routes", "--num-trials", "2", "--prefix-len", "64" },
    { "method_benchmark", "--task", "shapes", "--arms", "head,lora", "--num-trials", "2", "--search", "0.01",
      "--train-size", "16", "--validation-size", "8", "--epochs", "1", "--threads", "1" },
};
enum { NUM_CASES = sizeof cases / sizeof *cases, SMALL_CASE = 10, MAX_WORDS = 40 };

/* Runs a case with `more` options (NULL-terminated) into NAME.csv. */
static struct outcome run(void *state, size_t c, const char *name, const char *const *more)
{
    const char *words[MAX_WORDS] = { NULL };
    char file[64];
    int count = 0;
    for (size_t i = 1; i < sizeof cases[c] / sizeof *cases[c] && cases[c][i]; i++) {
        words[count] = cases[c][i];
        if (*cases[c][i] == '@') {
            snprintf(file, sizeof file, "%s%s", name, cases[c][i] + 1);
            words[count] = scratch_path(state, file);
        }
        count++;
    }
    snprintf(file, sizeof file, "%s.csv", name);
    words[count++] = "--out";
    words[count++] = scratch_path(state, file);
    words[count++] = "--quiet";
    for (; more && *more; more++) words[count++] = *more;
    assert_true(count < MAX_WORDS);
    return run_program_list(cases[c][0], words);
}

static void run_well(void *state, size_t c, const char *name, const char *const *more)
{
    struct outcome o = run(state, c, name, more);
    if (o.code) print_error("%s: exit %d: %s\n", cases[c][0], o.code, o.err);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.err, "");
    outcome_free(&o);
}

static void run_shard(void *state, size_t c, const char *name, const char *shard)
{
    run_well(state, c, name, (const char *const[]){ "--shard", shard, NULL });
}

/* How many files of the folder match. */
static size_t matches(void *state, const char *pattern)
{
    glob_t found;
    const int status = glob(scratch_path(state, pattern), 0, NULL, &found);
    const size_t count = status ? 0 : found.gl_pathc;
    if (!status) globfree(&found);
    return count;
}

static char *read_file(const char *path)
{
    char *text = calloc(1, 1 << 20);
    FILE *f = fopen(path, "rb");
    assert_true(text && f);
    assert_true(fread(text, 1, (1 << 20) - 1, f) < (1 << 20) - 1);
    fclose(f);
    return text;
}

/* Every output of run `name` beside that of run `plain`: equal data rows, or bytes. */
static void check_same(void *state, const char *plain, const char *name)
{
    char pattern[64];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s*", plain);
    assert_int_equal(glob(scratch_path(state, pattern), 0, NULL, &found), 0);
    assert_true(found.gl_pathc > 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *tail = strrchr(found.gl_pathv[i], '/') + 1 + strlen(plain);
        char other[96];
        snprintf(other, sizeof other, "%s%s", name, tail);
        char *want = read_file(found.gl_pathv[i]), *got = read_file(scratch_path(state, other));
        if (strstr(tail, ".csv")) {
            char *a = data_rows(want), *b = data_rows(got);
            assert_string_equal(b, a);
            free(a);
            free(b);
        } else {
            assert_memory_equal(got, want, 1 << 20);
        }
        free(want);
        free(got);
    }
    globfree(&found);
}

/* Three shards in another order than their numbers give the rows of one run, write nothing themselves and are gone
 * in the end. */
static void test_every_program(void **state)
{
    static const char *const order[] = { "2/3", "0/3", "1/3" };
    for (size_t c = 0; c < NUM_CASES; c++) {
        char plain[32], name[32], pattern[64];
        snprintf(plain, sizeof plain, "plain%zu", c);
        snprintf(name, sizeof name, "parts%zu", c);
        run_well(*state, c, plain, NULL);
        for (int i = 0; i < 3; i++) run_shard(*state, c, name, order[i]);
        snprintf(pattern, sizeof pattern, "%s*", name);
        assert_int_equal(matches(*state, pattern), 3);
        /* With all its units known the command has little to do but must not compute: another kill is no loss. */
        run_well(*state, c, name, NULL);
        check_same(*state, plain, name);
        snprintf(pattern, sizeof pattern, "%s*shard*", name);
        assert_int_equal(matches(*state, pattern), 0);
    }
}

/* A shard that was lost, one torn by a kill, one done twice with other numbers of shards: what is missing is
 * computed. */
static void test_lost_and_torn(void **state)
{
    const size_t c = SMALL_CASE;
    run_well(*state, c, "whole", NULL);
    run_shard(*state, c, "torn", "0/3");
    run_shard(*state, c, "torn", "1/3");
    run_shard(*state, c, "torn", "1/2");
    const char *shard = scratch_path(*state, "torn.csv.shard-1-of-3");
    char *text = read_file(shard);
    free(text);
    assert_int_equal(truncate(shard, 40), 0);
    run_well(*state, c, "torn", NULL);
    check_same(*state, "whole", "torn");
    assert_int_equal(matches(*state, "torn*shard*"), 0);
    /* A shard resumes: what is there is not done again, the file ends the same. */
    run_shard(*state, c, "again", "0/2");
    char *once = read_file(scratch_path(*state, "again.csv.shard-0-of-2"));
    run_shard(*state, c, "again", "0/2");
    char *twice = read_file(scratch_path(*state, "again.csv.shard-0-of-2"));
    assert_memory_equal(once, twice, 1 << 20);
    free(once);
    free(twice);
    /* Without --out nothing can be kept. */
    struct outcome o = run_program(cases[c][0], "--shard", "0/2", "--quiet", NULL);
    CHECK_REFUSAL(o, 2, cases[c][0], "--shard: needs --out FILE");
}

/* Shards of another seed or with another option have numbers that do not belong here; a file that only has the name is
 * none. Each gets a line and stays, and the rows are those of the command. */
static void test_foreign(void **state)
{
    const size_t c = SMALL_CASE;
    run_well(*state, c, "own", NULL);
    run_well(*state, c, "mixed", (const char *const[]){ "--seed", "5", "--shard", "0/3", NULL });
    run_well(*state, c, "mixed", (const char *const[]){ "--num-trials", "4", "--shard", "1/3", NULL });
    run_shard(*state, c, "mixed", "2/3");
    scratch_file(*state, "mixed.csv.shard-7-of-9", "notes");
    scratch_file(*state, "mixed.csv.shard-list", "names");
    struct outcome o = run(*state, c, "mixed", NULL);
    assert_int_equal(o.code, 0);
    int lines = 0;
    for (const char *s = o.err; (s = strstr(s, "left aside\n")); s++) lines++;
    assert_int_equal(lines, 3);
    assert_non_null(strstr(o.err, "mixed.csv.shard-0-of-3: not of this command"));
    assert_null(strstr(o.err, "shard-2-of-3"));
    outcome_free(&o);
    char *want = read_file(scratch_path(*state, "own.csv")), *got = read_file(scratch_path(*state, "mixed.csv"));
    char *a = data_rows(want), *b = data_rows(got);
    assert_string_equal(b, a);
    free(a);
    free(b);
    free(want);
    free(got);
    assert_int_equal(matches(*state, "mixed*shard-0-of-3"), 1);
    assert_int_equal(matches(*state, "mixed*shard-1-of-3"), 1);
    assert_int_equal(matches(*state, "mixed*shard-2-of-3"), 0);
    assert_int_equal(matches(*state, "mixed*shard-7-of-9"), 1);
    assert_int_equal(matches(*state, "mixed*shard-list"), 1);
}

/* A shard that is still being written is not taken for a whole one. */
static void test_running_shard(void **state)
{
    const size_t c = SMALL_CASE;
    run_shard(*state, c, "busy", "0/2");
    const char *path = scratch_path(*state, "busy.csv.shard-0-of-2");
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    CHECK_REFUSAL(run(*state, c, "busy", NULL), 1, cases[c][0], "busy.csv.shard-0-of-2: another process is using it");
    CHECK_REFUSAL(run(*state, c, "busy", (const char *const[]){ "--shard", "0/2", NULL }), 1, cases[c][0],
                  "another process is using it");
    close(fd);
    assert_int_equal(matches(*state, "busy.csv"), 0);
    run_well(*state, c, "busy", NULL);
}

static void test_refusals(void **state)
{
    static const char *const wrong[] = { "3/3", "1", "a/3", "-1/3", "0/0", "1/3x", "", "1/2/3" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_REFUSAL(run(*state, SMALL_CASE, "refused", (const char *const[]){ "--shard", wrong[i], NULL }), 2,
                      cases[SMALL_CASE][0], "--shard");
    CHECK_REFUSAL(run_program("parameter_count", "--shard", "0/2", NULL), 2, "parameter_count",
                  "--shard: unknown option");
    assert_int_equal(matches(*state, "refused*"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_program), cmocka_unit_test(test_lost_and_torn), cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_running_shard), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
