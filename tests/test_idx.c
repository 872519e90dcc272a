/* IDX arrays: read as they were written, every damaged file refused. */
#include "data/idx.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char why[256];

static const char *make(void *state, const unsigned char *bytes, size_t size)
{
    const char *path = scratch_path(state, "a-idx");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite(bytes, 1, size, file);
    fclose(file);
    return path;
}

static const unsigned char good[] = { 0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 7, 0, 255, 1, 2, 3 };

static void test_reads(void **state)
{
    struct idx a;
    assert_int_equal(idx_read(make(*state, good, sizeof good), 2, &a, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(a.rank, 2);
    assert_int_equal(a.shape[0], 2);
    assert_int_equal(a.shape[1], 3);
    assert_int_equal(a.size, 6);
    assert_memory_equal(a.data, good + 12, 6);
    idx_free(&a);
    idx_free(&a);
}

static void refuses(const char *path, size_t rank, int code, const char *says)
{
    struct idx a;
    assert_int_equal(idx_read(path, rank, &a, why, sizeof why), code);
    assert_null(a.data);
    if (!strstr(why, says)) fail_msg("expected '%s' in '%s'", says, why);
}

static void test_refuses(void **state)
{
    static const struct { size_t at; unsigned char value; const char *says; } bad[] = {
        { 0, 1, "magic" },      { 1, 1, "magic" },      { 2, 9, "type 0x09" },        { 2, 13, "type 0x0d" },
        { 3, 3, "3 dimensions" }, { 3, 1, "1 dimensions" }, { 7, 3, "truncated" },    { 7, 1, "trailing" },
        { 7, 0, "empty" },      { 4, 255, "truncated" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        unsigned char bytes[sizeof good];
        memcpy(bytes, good, sizeof good);
        bytes[bad[i].at] = bad[i].value;
        refuses(make(*state, bytes, sizeof bytes), 2, GSL_EINVAL, bad[i].says);
    }
    for (size_t size = 0; size < sizeof good; size++) refuses(make(*state, good, size), 2, GSL_EINVAL, "");
    unsigned char longer[sizeof good + 1] = { 0 };
    memcpy(longer, good, sizeof good);
    refuses(make(*state, longer, sizeof longer), 2, GSL_EINVAL, "1 trailing");
    static const unsigned char absurd[] = { 0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0 };
    refuses(make(*state, absurd, sizeof absurd), 3, GSL_EINVAL, "absurd");
    refuses(scratch_path(*state, "missing"), 2, GSL_EFAILED, "No such file");
    refuses(scratch_path(*state, "."), 2, GSL_EFAILED, "directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_reads), cmocka_unit_test(test_refuses) };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
