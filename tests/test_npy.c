/* NPY arrays: what is written is read back, and every bad file is refused. */
#include "common/npy.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char why[256];

static void test_round_trip(void **state)
{
    const double x[] = { 0.7, -1.3, 1e-300, 3.0e7, -0.0, 5e-324, 1.0 / 3.0, 2.5, -9.75, 1e10, 0.1, 7.0 };
    const size_t shapes[][3] = { { 12, 1, 1 }, { 3, 4, 1 }, { 2, 3, 2 } };
    const char *path = scratch_path(*state, "round.npy");
    for (size_t rank = 0; rank <= 3; rank++) {
        const size_t *shape = rank ? shapes[rank - 1] : shapes[0];
        assert_int_equal(npy_write_f64(path, x, rank, shape, why, sizeof why), GSL_SUCCESS);
        struct npy a;
        assert_int_equal(npy_read(path, 0, &a, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(a.rank, rank);
        assert_int_equal(a.size, rank ? 12 : 1);
        assert_false(a.is_float32);
        for (size_t i = 0; i < rank; i++) assert_int_equal(a.shape[i], shape[i]);
        CHECK_SAME_BITS(a.f64, x, a.size);
        npy_free(&a);
    }
}

static void test_float32_either_way(void **state)
{
    const float x[] = { 0.7f, -1.3f, 3e-39f, 1e38f, 0.1f, -2.0f };
    const char *path = scratch_path(*state, "single.npy");
    assert_int_equal(npy_write_f32(path, x, 2, (size_t[]){ 2, 3 }, why, sizeof why), GSL_SUCCESS);
    struct npy a;
    assert_int_equal(npy_read(path, 1, &a, why, sizeof why), GSL_SUCCESS);
    assert_true(a.is_float32);
    assert_memory_equal(a.f32, x, sizeof x);
    npy_free(&a);
    assert_int_equal(npy_read(path, 0, &a, why, sizeof why), GSL_SUCCESS);
    for (size_t i = 0; i < 6; i++) assert_true(a.f64[i] == (double)x[i]);
    npy_free(&a);

    const double large = 1e39;
    assert_int_equal(npy_write_f64(path, &large, 1, (size_t[]){ 1 }, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(npy_read(path, 1, &a, why, sizeof why), GSL_EDOM);
}

/* A file of `major`.0 with this header text and data. */
static void make_npy(const char *path, int major, const char *header, const void *data, size_t size)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    const size_t len = strlen(header);
    fwrite("\x93NUMPY", 1, 6, file);
    fputc(major, file);
    fputc(0, file);
    for (int i = 0; i < (major == 1 ? 2 : 4); i++) fputc((int)(len >> (8 * i)) & 0xff, file);
    fwrite(header, 1, len, file);
    if (size) fwrite(data, 1, size, file);
    assert_int_equal(fclose(file), 0);
}

static const double six[] = { 0.7, -1.3, 2.9, 3.1, -0.4, 8.5 };

static void test_foreign_headers(void **state)
{
    static const struct { int major; const char *header; } good[] = {
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }   \n" },
        { 2, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }   \n" },
        { 1, "{\"shape\":(2,3),\"descr\":\"<f8\",\"fortran_order\":False}" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 3L), }   \n" },
        { 1, "{u'descr': '<f8', u'fortran_order': False, u'shape': (2, 3), }   \n" },
        { 1, " { 'fortran_order' : False , 'shape' : ( 2 , 3 , ) , 'descr' : '<f8' } \n" },
    };
    const char *path = scratch_path(*state, "foreign.npy");
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        make_npy(path, good[i].major, good[i].header, six, sizeof six);
        struct npy a;
        assert_int_equal(npy_read(path, 0, &a, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(a.rank, 2);
        assert_int_equal(a.shape[1], 3);
        CHECK_SAME_BITS(a.f64, six, 6);
        npy_free(&a);
    }
}

static void refuses(const char *path, int code, const char *says)
{
    struct npy a;
    why[0] = '\0';
    assert_int_equal(npy_read(path, 0, &a, why, sizeof why), code);
    assert_null(a.f64);
    assert_null(a.f32);
    if (!strstr(why, says)) fail_msg("expected '%s' in '%s'", says, why);
    assert_null(strchr(why, '\n'));
}

static void test_refused_headers(void **state)
{
    static const struct { int major; const char *header, *says; } bad[] = {
        { 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }", "'<f2'" },
        { 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }", "'<i8'" },
        { 1, "{'descr': '>f8', 'fortran_order': False, 'shape': (2, 3), }", "'>f8'" },
        { 1, "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }", "'|O'" },
        { 1, "{'descr': [('x', '<f8')], 'fortran_order': False, 'shape': (6,), }", "dtype" },
        { 1, "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }", "Fortran" },
        { 1, "{'descr': '<f8', 'fortran_order': 0, 'shape': (2, 3), }", "order" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 3), }", "negative" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3, }", "shape" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2 3), }", "shape" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2,,3), }", "shape" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': [2, 3], }", "shape" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2.0, 3), }", "shape" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999, 3), }", "absurd" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "absurd" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,), }", "absurd" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296), }", "absurd" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,6), }", "dimensions" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }", "truncated" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 4), }", "truncated" },
        { 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", "24 trailing bytes" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3), }", "trailing bytes" },
        { 1, "{'descr': '<f8', 'fortran_order': False}", "malformed" },
        { 1, "{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}", "descr" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), 'more': 1}", "more" },
        { 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)} x", "malformed" },
        { 1, "'descr'", "malformed" },
        { 1, "", "malformed" },
        { 3, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", "version 3.0" },
    };
    const char *path = scratch_path(*state, "bad.npy");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make_npy(path, bad[i].major, bad[i].header, six, sizeof six);
        refuses(path, GSL_EINVAL, bad[i].says);
    }
}

static void test_refused_numbers(void **state)
{
    const char *path = scratch_path(*state, "nan.npy");
    const char *header = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }";
    make_npy(path, 1, header, (double[]){ 0.7, NAN, 1.0 }, 24);
    refuses(path, GSL_EDOM, "NaN at element 1");
    make_npy(path, 1, header, (double[]){ 0.7, 1.5, -INFINITY }, 24);
    refuses(path, GSL_EDOM, "Inf at element 2");
    make_npy(path, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", (float[]){ NAN, 1.0f }, 8);
    refuses(path, GSL_EDOM, "NaN at element 0");
}

/* Every file cut short is refused, wherever the cut falls. */
static void test_every_truncation(void **state)
{
    const char *path = scratch_path(*state, "cut.npy");
    assert_int_equal(npy_write_f64(path, six, 2, (size_t[]){ 2, 3 }, why, sizeof why), GSL_SUCCESS);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (off_t size = st.st_size; size-- > 0;) {
        assert_int_equal(truncate(path, size), 0);
        refuses(path, GSL_EINVAL, "");
    }
}

/* No single changed byte of the header makes the reader crash or lie about sizes. */
static void test_every_byte_flip(void **state)
{
    const char *path = scratch_path(*state, "flip.npy");
    assert_int_equal(npy_write_f64(path, six, 2, (size_t[]){ 2, 3 }, why, sizeof why), GSL_SUCCESS);
    for (long at = 0; at < 80; at++)
        for (int mask = 1; mask < 256; mask <<= 1) {
            FILE *file = fopen(path, "r+");
            assert_non_null(file);
            fseek(file, at, SEEK_SET);
            const int byte = fgetc(file);
            fseek(file, at, SEEK_SET);
            fputc(byte ^ mask, file);
            fclose(file);
            struct npy a;
            if (!npy_read(path, 0, &a, why, sizeof why)) {
                assert_true(a.size == 6);
                npy_free(&a);
            }
            file = fopen(path, "r+");
            fseek(file, at, SEEK_SET);
            fputc(byte, file);
            fclose(file);
        }
}

static void test_refused_files(void **state)
{
    refuses(scratch_path(*state, "missing.npy"), GSL_EFAILED, "No such file");
    refuses(scratch_path(*state, "."), GSL_EFAILED, "directory");
    refuses("/dev/null", GSL_EFAILED, "regular");
    const char *pipe_path = scratch_path(*state, "pipe.npy");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    refuses(pipe_path, GSL_EFAILED, "regular");
    const char *path = scratch_path(*state, "text.npy");
    FILE *file = fopen(path, "w");
    fputs("0.7,1.3\n2.9,3.1\n", file);
    fclose(file);
    refuses(path, GSL_EINVAL, "magic");
}

static void test_writing_refuses(void **state)
{
    const char *path = scratch_path(*state, "new.npy");
    const double bad[] = { 0.7, NAN };
    const float bad32[] = { 0.7f, -INFINITY };
    assert_int_equal(npy_write_f64(path, bad, 1, (size_t[]){ 2 }, why, sizeof why), GSL_EDOM);
    assert_int_equal(npy_write_f32(path, bad32, 1, (size_t[]){ 2 }, why, sizeof why), GSL_EDOM);
    assert_int_equal(npy_write_f64("/dev/full", six, 1, (size_t[]){ 6 }, why, sizeof why), GSL_EFAILED);
    assert_non_null(strstr(why, "space"));
    assert_int_equal(npy_write_f64(scratch_path(*state, "no/such/dir.npy"), six, 1, (size_t[]){ 6 }, why, sizeof why),
                     GSL_EFAILED);
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_float32_either_way),
        cmocka_unit_test(test_foreign_headers),
        cmocka_unit_test(test_refused_headers),
        cmocka_unit_test(test_refused_numbers),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte_flip),
        cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_writing_refuses),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
