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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_and_discard),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_killed_and_shared),
        cmocka_unit_test(test_not_regular),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
