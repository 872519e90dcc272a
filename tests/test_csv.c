/* CSV arrays of numbers: read as numpy would, refused when ragged or not numeric. */
#include "common/npy.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <string.h>

static char why[256];

static void test_reads(void **state)
{
    static const char *const same[] = {
        "0.7,-1.3,2.9\n1e-3,4,+5.5E2\n", "0.7,-1.3,2.9\n1e-3,4,+5.5E2", "0.7,-1.3,2.9\r\n1e-3,4,+5.5E2\r\n",
        " 0.7 ,\t-1.3, 2.9\n.001,4.,550\n\n", "0.7,-1.3,2.9\n1e-3,4,+5.5E2\n\n  \n",
        "\xef\xbb\xbf" "0.7,-1.3,2.9\n1e-3,4,+5.5E2\n",
    };
    const double want[] = { 0.7, -1.3, 2.9, 0.001, 4.0, 550.0 };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct npy a;
        assert_int_equal(csv_read_numbers(scratch_file(*state, "a.csv", same[i]), &a, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(a.rank, 2);
        assert_int_equal(a.shape[0], 2);
        assert_int_equal(a.shape[1], 3);
        CHECK_SAME_BITS(a.f64, want, 6);
        npy_free(&a);
    }
}

static void test_many_rows(void **state)
{
    const char *path = scratch_path(*state, "long.csv");
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 1237; i++) fprintf(file, "%.17g\n", i / 3.0);
    fclose(file);
    struct npy a;
    assert_int_equal(csv_read_numbers(path, &a, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(a.shape[0], 1237);
    assert_int_equal(a.shape[1], 1);
    for (int i = 0; i < 1237; i++) assert_true(a.f64[i] == i / 3.0);
    npy_free(&a);
}

static void test_refuses(void **state)
{
    static const struct { const char *text; int code; const char *says; } bad[] = {
        { "", GSL_EINVAL, "empty" },
        { "\n\n", GSL_EINVAL, "no numbers" },
        { "1,2\n3\n", GSL_EINVAL, "line 2 has 1 columns" },
        { "1,2\n3,4,5\n", GSL_EINVAL, "line 2 has 3 columns" },
        { "x,y\n1,2\n", GSL_EINVAL, "line 1, column 1: 'x'" },
        { "1,2\n3,abc\n", GSL_EINVAL, "line 2, column 2: 'abc'" },
        { "1,2x\n", GSL_EINVAL, "'2x'" },
        { "1,0x10\n", GSL_EINVAL, "'0x10'" },
        { "1,,2\n", GSL_EINVAL, "column 2: empty cell" },
        { "1,2,\n", GSL_EINVAL, "column 3: empty cell" },
        { "1,2\n\n3,4\n", GSL_EINVAL, "line 2 is empty" },
        { "1;2\n", GSL_EINVAL, "'1;2'" },
        { "\xff\xfe" "1,2\n", GSL_EINVAL, "UTF-16" },
        { "\xef\xbb\xbf", GSL_EINVAL, "no numbers" },
        { "1,2\n\xef\xbb\xbf" "3,4\n", GSL_EINVAL, "line 2, column 1" },
        { "1 2\n", GSL_EINVAL, "not a number" },
        { "1,\x01\x02\n", GSL_EINVAL, "column 2 is not a number" },
        { "1,nan\n", GSL_EDOM, "'nan'" },
        { "1,-inf\n", GSL_EDOM, "'-inf'" },
        { "1,1e999\n", GSL_EDOM, "'1e999'" },
        { "# note\n1,2\n", GSL_EINVAL, "line 1" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct npy a;
        assert_int_equal(csv_read_numbers(scratch_file(*state, "bad.csv", bad[i].text), &a, why, sizeof why),
                         bad[i].code);
        assert_null(a.f64);
        if (!strstr(why, bad[i].says)) fail_msg("expected '%s' in '%s'", bad[i].says, why);
        assert_null(strchr(why, '\n'));
    }
    struct npy a;
    assert_int_equal(csv_read_numbers(scratch_path(*state, "missing.csv"), &a, why, sizeof why), GSL_EFAILED);
    assert_int_equal(csv_read_numbers("/dev/zero", &a, why, sizeof why), GSL_EFAILED);

    const char *path = scratch_path(*state, "zero.csv");
    FILE *file = fopen(path, "w");
    fwrite("1,2\n3,\0004\n", 1, 9, file);
    fclose(file);
    assert_int_equal(csv_read_numbers(path, &a, why, sizeof why), GSL_EINVAL);
    assert_non_null(strstr(why, "zero byte"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_refuses),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
