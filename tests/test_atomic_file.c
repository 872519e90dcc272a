/* Output that appears whole or not at all. */
#include "common/atomic_file.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char why[256];

static void expect(const char *path, const char *want)
{
    char text[256] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(text, want);
}

static void test_commit_and_discard(void **state)
{
    const char *path = scratch_path(*state, "a.txt");
    const int count = scratch_count(*state);
    struct atomic_file *f;
    assert_int_equal(atomic_file_open(path, &f, why, sizeof why), GSL_SUCCESS);
    fputs("first", atomic_file_stream(f));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(atomic_file_commit(f, why, sizeof why), GSL_SUCCESS);
    expect(path, "first");
    assert_int_equal(scratch_count(*state), count + 1);

    assert_int_equal(atomic_file_open(path, &f, why, sizeof why), GSL_SUCCESS);
    fputs("second", atomic_file_stream(f));
    fflush(atomic_file_stream(f));
    expect(path, "first");
    atomic_file_discard(f);
    atomic_file_discard(NULL);
    expect(path, "first");
    assert_int_equal(scratch_count(*state), count + 1);
}

/* A write that fails, here at a limit of the file's size as on a full disk, leaves the
 * target as it was and nothing else. */
static void test_full(void **state)
{
    const char *path = scratch_file(*state, "full.txt", "before");
    const int count = scratch_count(*state);
    if (fork() == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 100, 100 });
        struct atomic_file *f;
        if (atomic_file_open(path, &f, why, sizeof why)) _exit(1);
        for (int i = 0; i < 10000; i++) fputs("much", atomic_file_stream(f));
        _exit(atomic_file_commit(f, why, sizeof why) == GSL_EFAILED && *why ? 0 : 2);
    }
    int status;
    wait(&status);
    assert_int_equal(status, 0);
    expect(path, "before");
    assert_int_equal(scratch_count(*state), count);

    struct atomic_file *f;
    assert_int_equal(atomic_file_open("/dev/full", &f, why, sizeof why), GSL_SUCCESS);
    assert_false(atomic_file_is_regular(f));
    fputs("text", atomic_file_stream(f));
    assert_int_equal(atomic_file_commit(f, why, sizeof why), GSL_EFAILED);
    assert_non_null(strstr(why, "No space left"));
}

/* A killed writer leaves the target as it was; the next one takes its place. Two at
 * once are refused. */
static void test_killed_and_shared(void **state)
{
    const char *path = scratch_file(*state, "k.txt", "before");
    const int count = scratch_count(*state);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct atomic_file *f;
        if (atomic_file_open(path, &f, why, sizeof why)) _exit(1);
        fputs("half", atomic_file_stream(f));
        fflush(atomic_file_stream(f));
        if (write(ready[1], "x", 1) != 1) _exit(1);
        pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    struct atomic_file *f;
    assert_int_equal(atomic_file_open(path, &f, why, sizeof why), GSL_EFAILED);
    assert_non_null(strstr(why, "another process"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    expect(path, "before");
    assert_int_equal(atomic_file_open(path, &f, why, sizeof why), GSL_SUCCESS);
    fputs("after", atomic_file_stream(f));
    assert_int_equal(atomic_file_commit(f, why, sizeof why), GSL_SUCCESS);
    expect(path, "after");
    assert_int_equal(scratch_count(*state), count);
}

static void test_not_regular(void **state)
{
    const char *fifo = scratch_path(*state, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct atomic_file *f;
        if (atomic_file_open(fifo, &f, why, sizeof why)) _exit(1);
        fputs("through", atomic_file_stream(f));
        _exit(atomic_file_commit(f, why, sizeof why) ? 1 : 0);
    }
    expect(fifo, "through");
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    struct stat st;
    assert_int_equal(lstat(fifo, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));

    struct atomic_file *f;
    assert_int_equal(atomic_file_open("", &f, why, sizeof why), GSL_EFAILED);
    assert_int_equal(atomic_file_open(scratch_path(*state, "no/dir"), &f, why, sizeof why), GSL_EFAILED);
    assert_int_equal(atomic_file_open(scratch_path(*state, "."), &f, why, sizeof why), GSL_EFAILED);
}

/* Placed and then discarded, a file gives its target back what it was: a text, or nothing. */
static void test_taken_back(void **state)
{
    const char *old = scratch_file(*state, "old.txt", "before"), *none = scratch_path(*state, "none.txt");
    const int count = scratch_count(*state);
    for (int commit = 0; commit < 2; commit++) {
        struct atomic_file *a, *b;
        assert_int_equal(atomic_file_open(old, &a, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(atomic_file_open(none, &b, why, sizeof why), GSL_SUCCESS);
        fputs("after", atomic_file_stream(a));
        fputs("made", atomic_file_stream(b));
        assert_int_equal(atomic_file_prepare(a, why, sizeof why), GSL_SUCCESS);
        expect(old, "before");
        assert_true(atomic_file_is_reversible(a) && atomic_file_is_reversible(b));
        assert_int_equal(atomic_file_place(a, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(atomic_file_place(b, why, sizeof why), GSL_SUCCESS);
        expect(old, "after");
        expect(none, "made");
        if (commit) {
            assert_int_equal(atomic_file_commit(a, why, sizeof why), GSL_SUCCESS);
            assert_int_equal(atomic_file_commit(b, why, sizeof why), GSL_SUCCESS);
        } else {
            atomic_file_discard(a);
            atomic_file_discard(b);
        }
        expect(old, commit ? "after" : "before");
        assert_int_equal(access(none, F_OK), commit ? 0 : -1);
        assert_int_equal(scratch_count(*state), count + commit);
    }
}

/* Links to a file, to one still to be made, through a folder; a circle of links. */
static void test_links(void **state)
{
    const char *store = scratch_path(*state, "store"), *to = scratch_path(*state, "store/to.txt");
    const char *link = scratch_path(*state, "link"), *circle = scratch_path(*state, "circle");
    struct atomic_file *f;
    struct stat st;
    assert_int_equal(mkdir(store, 0777), 0);
    assert_int_equal(symlink("store/to.txt", link), 0);
    assert_int_equal(symlink("circle", circle), 0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(atomic_file_open(link, &f, why, sizeof why), GSL_SUCCESS);
        fputs(round ? "second" : "first", atomic_file_stream(f));
        assert_int_equal(atomic_file_commit(f, why, sizeof why), GSL_SUCCESS);
        expect(to, round ? "second" : "first");
        assert_int_equal(lstat(link, &st), 0);
        assert_true(S_ISLNK(st.st_mode));
    }
    assert_int_equal(atomic_file_open(circle, &f, why, sizeof why), GSL_EFAILED);
    assert_non_null(strstr(why, "symbolic links"));
}

/* A check changes nothing, and refuses what opening would. */
static void test_check(void **state)
{
    const char *path = scratch_path(*state, "checked.txt");
    const int count = scratch_count(*state);
    assert_int_equal(atomic_file_check(path, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(atomic_file_check("-", why, sizeof why), GSL_SUCCESS);
    assert_int_equal(atomic_file_check("/dev/null", why, sizeof why), GSL_SUCCESS);
    assert_int_equal(atomic_file_check(scratch_path(*state, "no/dir"), why, sizeof why), GSL_EFAILED);
    assert_int_equal(atomic_file_check(scratch_path(*state, "."), why, sizeof why), GSL_EFAILED);
    assert_int_equal(atomic_file_check("", why, sizeof why), GSL_EFAILED);
    assert_int_equal(scratch_count(*state), count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_and_discard),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_killed_and_shared),
        cmocka_unit_test(test_not_regular),
        cmocka_unit_test(test_taken_back),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
