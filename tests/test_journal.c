/* The journal: what was put is there again after any end of the program. */
#include "cli/cli.h"
#include "common/isa.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct cli_common run_with(const char *out)
{
    return (struct cli_common){ .seed = 77, .out = out, .program = "test_journal", .quiet = true };
}

static const double three[] = { 0.7, -1.3, 5e-324 };

static const char *state_of(void *state, const char *out)
{
    const char *slash = strrchr(out, '/');
    char name[64];
    snprintf(name, sizeof name, "%s.state", slash + 1);
    return scratch_path(state, name);
}

static void test_resumes_after_interruption(void **state)
{
    const char *out = scratch_path(*state, "a.csv"), *file = state_of(*state, out);
    const struct cli_common cfg = run_with(out);
    double x[3];
    struct journal *j = journal_open(&cfg, "m=5");
    assert_non_null(j);
    assert_false(journal_get(j, "unit", x, 3));
    assert_int_equal(journal_put(j, "unit", three, 3), 0);
    assert_int_equal(journal_put(j, "none", NULL, 0), 0);
    assert_int_equal(journal_put(j, "twice", three, 1), 0);
    assert_int_equal(journal_put(j, "twice", three + 1, 1), 0);
    assert_true(journal_get(j, "unit", x, 3));
    assert_int_equal(journal_close(j, 130), 130);
    assert_int_equal(access(file, F_OK), 0);

    j = journal_open(&cfg, "m=5");
    assert_true(journal_get(j, "unit", x, 3));
    CHECK_SAME_BITS(x, three, 3);
    assert_false(journal_get(j, "unit", x, 2));
    assert_true(journal_get(j, "none", NULL, 0));
    assert_true(journal_get(j, "twice", x, 1));
    CHECK_SAME_BITS(x, three + 1, 1);
    assert_int_equal(journal_close(j, 0), 0);
    assert_int_not_equal(access(file, F_OK), 0);
}

/* What was done is kept through a failure; where nothing was, nothing is left. */
static void test_failure(void **state)
{
    const char *out = scratch_path(*state, "fails.csv");
    const struct cli_common cfg = run_with(out);
    double x[3];
    struct journal *j = journal_open(&cfg, "x");
    assert_int_equal(journal_close(j, EXIT_FAILED), EXIT_FAILED);
    assert_int_not_equal(access(state_of(*state, out), F_OK), 0);
    j = journal_open(&cfg, "x");
    assert_int_equal(journal_put(j, "unit", three, 3), 0);
    assert_int_equal(journal_close(j, EXIT_FAILED), EXIT_FAILED);
    assert_int_equal(access(state_of(*state, out), F_OK), 0);
    j = journal_open(&cfg, "x");
    assert_true(journal_get(j, "unit", x, 3));
    assert_int_equal(journal_close(j, 0), 0);
    assert_int_not_equal(access(state_of(*state, out), F_OK), 0);
}

/* What a file holds, for comparing it before and after. */
static void check_holds(const char *path, const char *want)
{
    char text[256] = "";
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    assert_string_equal(text, want);
}

/* Files of another origin under our names stay as they are, and the work is remembered all
 * the same: a text, an empty file, a link to a text, a pipe. */
static void test_files_of_others(void **state)
{
    static const char *const contents[] = { "weights of a week", "", NULL, NULL };
    const char *text = scratch_file(*state, "elsewhere.txt", "not yours");
    for (int kind = 0; kind < 4; kind++) {
        char name[32];
        double x[3];
        struct stat before, after;
        snprintf(name, sizeof name, "model%d", kind);
        const char *out = scratch_path(*state, name), *file = state_of(*state, out);
        snprintf(name, sizeof name, "model%d.state.txt", kind);
        const char *notes = scratch_file(*state, name, "notes");
        snprintf(name, sizeof name, "model%d.state.0123456789abcdef", kind);
        const char *like_ours = scratch_file(*state, name, "sixteen digits");
        if (contents[kind]) scratch_file(*state, strrchr(file, '/') + 1, contents[kind]);
        else assert_int_equal(kind == 2 ? symlink(text, file) : mkfifo(file, 0600), 0);
        assert_int_equal(lstat(file, &before), 0);

        const struct cli_common cfg = run_with(out);
        struct journal *j = journal_open(&cfg, "x");
        assert_non_null(j);
        assert_int_equal(journal_put(j, "unit", three, 3), 0);
        assert_int_equal(journal_save(j, "descent", three, 3), 0);
        journal_close(j, 130);
        j = journal_open(&cfg, "x");
        assert_true(journal_get(j, "unit", x, 3));
        assert_true(journal_saved(j, "descent", x, 3));
        journal_close(j, 0);

        assert_int_equal(lstat(file, &after), 0);
        assert_true(before.st_ino == after.st_ino && before.st_mode == after.st_mode);
        if (contents[kind]) check_holds(file, contents[kind]);
        check_holds(text, "not yours");
        check_holds(notes, "notes");
        check_holds(like_ours, "sixteen digits");
    }
}

/* Rows of two instruction sets do not mix. */
static void test_other_instruction_set(void **state)
{
    if (!isa_available(ISA_ID_AVX2)) skip();
    const enum isa before = isa_current();
    const char *out = scratch_path(*state, "isa.csv");
    const struct cli_common cfg = run_with(out);
    double x[3];
    isa_force(ISA_ID_AVX2);
    struct journal *j = journal_open(&cfg, "x");
    assert_int_equal(journal_put(j, "unit", three, 3), 0);
    journal_close(j, 130);
    j = journal_open(&cfg, "x");
    assert_true(journal_get(j, "unit", x, 3));
    journal_close(j, 130);
    isa_force(ISA_ID_PORTABLE);
    j = journal_open(&cfg, "x");
    assert_false(journal_get(j, "unit", x, 3));
    journal_close(j, 0);
    isa_force(before);
}

static void test_other_identity_starts_afresh(void **state)
{
    const char *out = scratch_path(*state, "b.csv");
    struct cli_common cfg = run_with(out);
    double x[3];
    for (int change = 0; change < 2; change++) {
        struct journal *j = journal_open(&cfg, "m=5");
        assert_int_equal(journal_put(j, "unit", three, 3), 0);
        journal_close(j, 143);
        if (change) cfg.seed++;
        j = journal_open(&cfg, change ? "m=5" : "m=6");
        assert_false(journal_get(j, "unit", x, 3));
        journal_close(j, 0);
    }
}

/* Cut anywhere, or with any byte changed, the file gives back whole records in front
 * of the damage and none behind it, and goes on being written. */
static void test_torn_tails(void **state)
{
    const char *out = scratch_path(*state, "c.csv"), *file = state_of(*state, out);
    const struct cli_common cfg = run_with(out);
    struct journal *j = journal_open(&cfg, "torn");
    struct stat st;
    off_t ends[4];
    for (int i = 0; i < 4; i++) {
        const char key[] = { (char)('a' + i), '\0' };
        assert_int_equal(journal_put(j, key, three, (size_t)i), 0);
        assert_int_equal(stat(file, &st), 0);
        ends[i] = st.st_size;
    }
    journal_close(j, 130);
    char *bytes = malloc((size_t)st.st_size);
    FILE *f = fopen(file, "r");
    assert_int_equal(fread(bytes, 1, (size_t)st.st_size, f), st.st_size);
    fclose(f);

    for (off_t at = 0; at < st.st_size; at++)
        for (int damage = 0; damage < 2; damage++) {
            f = fopen(file, "w");
            if (damage) bytes[at] ^= 0x10;
            fwrite(bytes, 1, (size_t)(damage ? st.st_size : at), f);
            if (damage) bytes[at] ^= 0x10;
            fclose(f);
            j = journal_open(&cfg, "torn");
            assert_non_null(j);
            double x[3];
            for (int i = 0; i < 4; i++) {
                const char key[] = { (char)('a' + i), '\0' };
                const int found = journal_get(j, key, x, (size_t)i);
                assert_int_equal(found, ends[i] <= at);
                if (found) CHECK_SAME_BITS(x, three, (size_t)i);
            }
            assert_int_equal(journal_put(j, "new", three, 2), 0);
            journal_close(j, 130);
            j = journal_open(&cfg, "torn");
            assert_true(journal_get(j, "new", x, 2));
            journal_close(j, 130);
        }
    free(bytes);
}

/* A child puts records as fast as it can until it is killed with no warning: all
 * that it had said it put are there. */
static void test_killed(void **state)
{
    const char *out = scratch_path(*state, "d.csv");
    const struct cli_common cfg = run_with(out);
    for (int round = 0; round < 5; round++) {
        int said[2];
        assert_int_equal(pipe(said), 0);
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct journal *j = journal_open(&cfg, "killed");
            for (unsigned i = 0; j; i++) {
                char key[32];
                const double x[] = { i, sqrt(i) };
                snprintf(key, sizeof key, "unit %u", i);
                if (journal_put(j, key, x, 2) || write(said[1], &i, sizeof i) != sizeof i) _exit(1);
            }
            _exit(1);
        }
        close(said[1]);
        unsigned last = 0;
        for (int i = 0; i < 40 + 37 * round; i++) assert_int_equal(read(said[0], &last, sizeof last), sizeof last);
        kill(pid, SIGKILL);
        for (unsigned more; read(said[0], &more, sizeof more) == sizeof more;) last = more;
        close(said[0]);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));

        struct journal *j = journal_open(&cfg, "killed");
        for (unsigned i = 0; i <= last; i++) {
            char key[32];
            double x[2];
            snprintf(key, sizeof key, "unit %u", i);
            assert_true(journal_get(j, key, x, 2));
            assert_true(x[0] == i && x[1] == sqrt(i));
        }
        journal_close(j, 0);
    }
}

static void test_one_user_at_a_time(void **state)
{
    const char *out = scratch_path(*state, "e.csv");
    const struct cli_common cfg = run_with(out);
    struct journal *first = journal_open(&cfg, "x");
    assert_non_null(first);
    assert_null(journal_open(&cfg, "x"));
    journal_close(first, 0);
}

static void test_no_file_no_memory(void **state)
{
    (void)state;
    static const char *const outs[] = { "-", "/dev/null" };
    for (size_t i = 0; i < 2; i++) {
        const struct cli_common cfg = run_with(outs[i]);
        struct journal *j = journal_open(&cfg, "x");
        double x[3];
        assert_non_null(j);
        assert_int_equal(journal_put(j, "unit", three, 3), 0);
        assert_false(journal_get(j, "unit", x, 3));
        assert_int_equal(journal_close(j, 3), 3);
    }
    assert_int_not_equal(access("/dev/null.state", F_OK), 0);
    assert_int_equal(journal_close(NULL, 0), EXIT_FAILED);
}

/* The one file of the state within a unit. */
static void state_path(const char *out, char *path, size_t size)
{
    char pattern[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s.state.*", out);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, 1);
    snprintf(path, size, "%s", found.gl_pathv[0]);
    globfree(&found);
}

/* The state within a unit: the last save of its key counts; other keys, lengths,
 * identities and damaged files give nothing; a finished run leaves no file. */
static void test_state_within_a_unit(void **state)
{
    const char *out = scratch_path(*state, "f.csv");
    const struct cli_common cfg = run_with(out);
    double x[3], big[1000];
    char path[4096];
    for (int i = 0; i < 1000; i++) big[i] = sqrt(i);
    struct journal *j = journal_open(&cfg, "x");
    assert_false(journal_saved(j, "descent", x, 3));
    assert_int_equal(journal_save(j, "descent", big, 1000), 0);
    assert_int_equal(journal_save(j, "descent", three, 3), 0);
    assert_int_equal(journal_save(j, "another", big, 1000), 0);
    assert_true(journal_saved(j, "descent", x, 3));
    assert_memory_equal(x, three, sizeof x);
    assert_false(journal_saved(j, "descent", x, 2));
    assert_false(journal_saved(j, "ascent!", x, 3));
    assert_true(journal_saved(j, "another", big, 1000));
    assert_int_equal(journal_saved_size(j, "another"), 1000);
    assert_int_equal(journal_saved_size(j, "descent"), 3);
    assert_int_equal(journal_saved_size(j, "ascent!"), 0);
    journal_forget(j, "another");
    assert_false(journal_saved(j, "another", big, 1000));
    assert_int_equal(journal_close(j, 130), 130);
    j = journal_open(&cfg, "x");
    assert_true(journal_saved(j, "descent", x, 3));
    state_path(out, path, sizeof path);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, -20, SEEK_END);
    fputc(7, file);
    fclose(file);
    assert_false(journal_saved(j, "descent", x, 3));
    assert_int_equal(journal_save(j, "descent", three, 3), 0);
    journal_close(j, 143);
    /* Another identity starts afresh: nothing of the first remains. */
    j = journal_open(&cfg, "y");
    assert_int_not_equal(access(path, F_OK), 0);
    assert_false(journal_saved(j, "descent", x, 3));
    assert_int_equal(journal_save(j, "descent", three, 3), 0);
    assert_int_equal(journal_close(j, 0), 0);
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumes_after_interruption),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_files_of_others),
        cmocka_unit_test(test_other_instruction_set),
        cmocka_unit_test(test_other_identity_starts_afresh),
        cmocka_unit_test(test_torn_tails),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_one_user_at_a_time),
        cmocka_unit_test(test_no_file_no_memory),
        cmocka_unit_test(test_state_within_a_unit),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
