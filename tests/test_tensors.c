/* safetensors: read as they were written, every damaged file refused with one line. */
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "transformer/tensors.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char why[256];

/* A file of this header and `size` bytes of data; length: what the file says of its header, -1 the truth. */
static const char *make(void *state, const char *header, long long length, const void *data, size_t size)
{
    const char *path = scratch_path(state, "a.safetensors");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    const uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    for (int i = 0; i < 8; i++) putc((int)(n >> 8 * i & 255), file);
    fputs(header, file);
    fwrite(data, 1, size, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void refuses(const char *path, int code, const char *says)
{
    struct tensors *t = NULL;
    why[0] = '\0';
    assert_int_equal(tensors_read(path, &t, (struct reason){ why, sizeof why }), code);
    assert_null(t);
    if (!strstr(why, says) || strchr(why, '\n')) fail_msg("expected '%s' in one line, not '%s'", says, why);
}

/* The three types, in an order of the data that is not the header's; position_ids leave the list. */
static void test_reads(void **state)
{
    static const char header[] =
        "{\"half\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[12,20]},\"__metadata__\":{\"format\":\"pt\"},"
        "\"single\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},"
        "\"brain\":{\"dtype\":\"BF16\",\"shape\":[1,1,2,1],\"data_offsets\":[20,24]},"
        "\"e.position_ids\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[24,40]},"
        "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[40,40]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[40,44]}}   ";
    unsigned char data[44] = { 0 };
    const float single[] = { 0.7f, -1.3f, 2.9f }, scalar = 5.5f;
    /* 1.5, the largest, the smallest subnormal, -2^-14 */
    const uint16_t half[] = { 0x3E00, 0x7BFF, 0x0001, 0x8400 }, brain[] = { 0x3FC0, 0xC040 };
    memcpy(data, single, 12);
    memcpy(data + 12, half, 8);
    memcpy(data + 20, brain, 4);
    memcpy(data + 40, &scalar, 4);
    struct tensors *t;
    const int status = tensors_read(make(*state, header, -1, data, sizeof data), &t,
                                    (struct reason){ why, sizeof why });
    if (status) fail_msg("%s", why);
    assert_int_equal(tensors_count(t), 5);
    assert_null(tensors_find(t, "e.position_ids"));
    assert_null(tensors_find(t, "singl"));
    assert_null(tensors_at(t, 5));
    const struct tensor *a = tensors_find(t, "single"), *b = tensors_find(t, "half"), *c = tensors_find(t, "brain");
    assert_int_equal(a->rank, 1);
    assert_int_equal(a->dims[0], 3);
    assert_memory_equal(a->data, single, sizeof single);
    assert_int_equal(b->rank, 2);
    const double want[] = { 1.5, 65504.0, 0x1p-24, -0x1p-14 };
    for (int i = 0; i < 4; i++) CHECK_CLOSE(b->data[i], want[i], 0.0, 0.0);
    assert_int_equal(c->rank, 4);
    CHECK_CLOSE(c->data[0], 1.5, 0.0, 0.0);
    CHECK_CLOSE(c->data[1], -3.0, 0.0, 0.0);
    assert_int_equal(tensors_find(t, "none")->dims[1], 7);
    assert_int_equal(tensors_find(t, "scalar")->rank, 0);
    CHECK_CLOSE(tensors_find(t, "scalar")->data[0], 5.5, 0.0, 0.0);
    tensors_free(t);
    tensors_free(NULL);
}

/* Written and read again: the same names, shapes and bits. */
static void test_round_trip(void **state)
{
    float x[6] = { 0.7f, -1.3f, 2.9f, 1e-30f, -0.0f, 3e38f }, y[1] = { -0.4f };
    char x_name[] = "layer.0.q \"weight\"", y_name[] = "b\xC3\xA9";
    const struct tensor list[] = { { x_name, 2, { 2, 3, 0, 0 }, x }, { y_name, 1, { 1, 0, 0, 0 }, y } };
    static const char *const notes[] = { "format", "pt", "recipe", "seed 1", NULL };
    const char *path = scratch_path(*state, "b.safetensors");
    for (int with = 0; with < 2; with++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(tensors_write(file, list, 2, with ? notes : NULL), GSL_SUCCESS);
        assert_int_equal(ftell(file) % 4, 0);
        assert_int_equal(fclose(file), 0);
        struct tensors *t;
        if (tensors_read(path, &t, (struct reason){ why, sizeof why })) fail_msg("%s", why);
        assert_int_equal(tensors_count(t), 2);
        for (int i = 0; i < 2; i++) {
            const struct tensor *got = tensors_find(t, list[i].name);
            assert_non_null(got);
            assert_int_equal(got->rank, list[i].rank);
            assert_memory_equal(got->dims, list[i].dims, list[i].rank * sizeof *list[i].dims);
            assert_memory_equal(got->data, list[i].data, i ? sizeof y : sizeof x);
        }
        tensors_free(t);
    }
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    setvbuf(full, NULL, _IONBF, 0);
    assert_int_equal(tensors_write(full, list, 2, NULL), GSL_EFAILED);
    fclose(full);
}

#define ENTRY(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_refuses_headers(void **state)
{
    static const float data[4] = { 0.7f, -1.3f, 2.9f, 0.1f };
    static const struct { const char *header; const char *says; } bad[] = {
        { "", "header" },
        { "{", "header" },
        { "[]", "object" },
        { "{" ENTRY("a", "F32", "[4]", "[0,16]"), "header" },
        { "{" ENTRY("a", "F32", "[2]", "[0,8]") "," ENTRY("a", "F32", "[2]", "[8,16]") "}", "duplicate" },
        { "{" ENTRY("a", "F32", "[2]", "[0,8]") "," ENTRY("b", "F32", "[2]", "[4,12]") "}", "overlap" },
        { "{" ENTRY("a", "F32", "[4]", "[0,16]") "," ENTRY("b", "F32", "[4]", "[0,16]") "}", "overlap" },
        { "{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[2]", "[8,16]") "}", "no tensor" },
        { "{" ENTRY("a", "F32", "[3]", "[4,16]") "}", "no tensor" },
        { "{" ENTRY("a", "F32", "[3]", "[0,12]") "}", "no tensor" },
        { "{}", "no tensor" },
        { "{" ENTRY("a", "F32", "[5]", "[0,20]") "}", "beyond" },
        { "{" ENTRY("a", "F32", "[4]", "[16,0]") "}", "beyond" },
        { "{" ENTRY("a", "F32", "[4]", "[-16,0]") "}", "beyond" },
        { "{" ENTRY("a", "F32", "[4]", "[0,9223372036854775807]") "}", "beyond" },
        { "{" ENTRY("a", "F32", "[4]", "[0,18446744073709551632]") "}", "header" },
        { "{" ENTRY("a", "F32", "[4]", "[0,16,16]") "}", "data_offsets" },
        { "{" ENTRY("a", "F32", "[4]", "[0.0,16]") "}", "data_offsets" },
        { "{" ENTRY("a", "F32", "[3]", "[0,16]") "}", "16 bytes for 3 numbers" },
        { "{" ENTRY("a", "F16", "[4]", "[0,16]") "}", "16 bytes for 4 numbers" },
        { "{" ENTRY("a", "F64", "[2]", "[0,16]") "}", "dtype F64" },
        { "{" ENTRY("a", "I64", "[2]", "[0,16]") "}", "dtype I64" },
        { "{" ENTRY("a", "U8", "[16]", "[0,16]") "}", "dtype U8" },
        { "{" ENTRY("a", "F\\n32", "[4]", "[0,16]") "}", "dtype" },
        { "{" ENTRY("a\\nb", "F32", "[3]", "[0,16]") "}", "a?b" },
        { "{" ENTRY("a", "F32", "[-4]", "[0,16]") "}", "shape" },
        { "{" ENTRY("a", "F32", "[4.0]", "[0,16]") "}", "shape" },
        { "{" ENTRY("a", "F32", "4", "[0,16]") "}", "shape" },
        { "{" ENTRY("a", "F32", "[1,1,1,1,4]", "[0,16]") "}", "shape" },
        { "{" ENTRY("a", "F32", "[4294967296,4294967296,4]", "[0,16]") "}", "shape" },
        { "{" ENTRY("a", "F32", "[1099511627777]", "[0,16]") "}", "shape" },
        { "{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}", "dtype" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}", "shape" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "data_offsets" },
        { "{\"a\":[4]}", "dtype" },
        { "{\"a\":null}", "dtype" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuses(make(*state, bad[i].header, -1, data, sizeof data), GSL_EINVAL, bad[i].says);
    static const char good[] = "{" ENTRY("a", "F32", "[4]", "[0,16]") "}";
    struct tensors *t;
    assert_int_equal(tensors_read(make(*state, good, -1, data, sizeof data), &t, (struct reason){ why, sizeof why }),
                     GSL_SUCCESS);
    tensors_free(t);
}

/* Nested without end: refused, not followed. */
static void test_refuses_depth(void **state)
{
    enum { DEPTH = 100000 };
    char *header = malloc(DEPTH + 1);
    assert_non_null(header);
    memset(header, '[', DEPTH);
    header[DEPTH] = '\0';
    refuses(make(*state, header, -1, "", 0), GSL_EINVAL, "header");
    free(header);
}

static void test_refuses_files(void **state)
{
    static const float data[4] = { 0.7f, -1.3f, 2.9f, 0.1f };
    static const char good[] = "{" ENTRY("a", "F32", "[4]", "[0,16]") "}";
    static const long long lengths[] = { 0, 1, 8, 1000, 1LL << 32, INT64_MAX };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        refuses(make(*state, good, lengths[i], data, sizeof data), GSL_EINVAL, "header");
    /* Cut at any byte, and a byte too long. */
    for (size_t size = 0; size < sizeof data; size++) refuses(make(*state, good, -1, data, size), GSL_EINVAL, "beyond");
    const char *path = make(*state, good, -1, data, sizeof data);
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    putc(0, file);
    fclose(file);
    refuses(path, GSL_EINVAL, "no tensor");
    for (int size = 0; size < 8; size++) {
        file = fopen(path, "w");
        assert_non_null(file);
        fwrite("\x08\0\0\0\0\0\0\0", 1, (size_t)size, file);
        fclose(file);
        refuses(path, GSL_EINVAL, "not a safetensors file");
    }
    refuses(scratch_path(*state, "missing"), GSL_EFAILED, "No such file");
    refuses(scratch_path(*state, "."), GSL_EFAILED, "directory");
}

/* A weight that is no number is refused by name and place, in each of the types. */
static void test_refuses_not_finite(void **state)
{
    static const float nan_at_2[4] = { 0.7f, -1.3f, NAN, 0.1f }, inf_at_0[4] = { -INFINITY, 1.0f, 2.0f, 3.0f };
    static const uint16_t half[2] = { 0x3C00, 0x7C00 }, brain[2] = { 0x3F80, 0xFFC0 };
    refuses(make(*state, "{" ENTRY("w", "F32", "[4]", "[0,16]") "}", -1, nan_at_2, 16), GSL_EDOM, "tensor w: number 2");
    refuses(make(*state, "{" ENTRY("w", "F32", "[4]", "[0,16]") "}", -1, inf_at_0, 16), GSL_EDOM, "tensor w: number 0");
    refuses(make(*state, "{" ENTRY("w", "F16", "[2]", "[0,4]") "}", -1, half, 4), GSL_EDOM, "tensor w: number 1");
    refuses(make(*state, "{" ENTRY("w", "BF16", "[2]", "[0,4]") "}", -1, brain, 4), GSL_EDOM, "tensor w: number 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses_headers),
        cmocka_unit_test(test_refuses_depth), cmocka_unit_test(test_refuses_files),
            cmocka_unit_test(test_refuses_not_finite),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
