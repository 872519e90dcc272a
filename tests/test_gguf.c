/* GGUF: metadata and tensors read as they were written, every damaged file refused. */
#include "tests/support/check.h"
#include "tests/support/gguf_file.h"
#include "tests/support/scratch.h"
#include "transformer/gguf.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char why[256];
static const struct reason reason = { why, sizeof why };

/* d = 0.5, m = -1.25 and 0.375 in binary16. */
enum { HALF_D = 0x3800, HALF_M = 0xbd00, HALF_8 = 0x3600 };

/* Two pairs of each shape and four tensors, one of each kind. */
static void put_sample(struct bytes *b)
{
    static const char *const words[] = { "seven", "", "ele ven" };
    static const int32_t numbers[] = { 3, -7, 11 };
    gguf_put_head(b, 4, 5);
    gguf_put_u32(b, "a.size", 41);
    gguf_put_f32(b, "a.number", 0.7f);
    gguf_put_text(b, "a.text", "llama");
    gguf_put_texts(b, "words", words, 3);
    gguf_put_i32s(b, "numbers", numbers, 3);
    gguf_put_tensor(b, "f32", 2, (const size_t[]){ 3, 2 }, GGUF_F32, 0);
    gguf_put_tensor(b, "f16", 1, (const size_t[]){ 4 }, GGUF_F16, 32);
    gguf_put_tensor(b, "q4", 2, (const size_t[]){ 32, 1 }, GGUF_Q4_1, 64);
    gguf_put_tensor(b, "q8", 1, (const size_t[]){ 32 }, GGUF_Q8_0, 96);
    bytes_pad(b, 32);
    bytes_put(b, (const float[]){ 1.5f, -2.0f, 0.25f, 3.0f, 4.0f, -0.7f }, 24);
    bytes_pad(b, 32);
    bytes_put(b, (const uint16_t[]){ 0x3c00, 0xc000, 0x0001, 0x7bff }, 8);
    bytes_pad(b, 32);
    bytes_put(b, (const uint16_t[]){ HALF_D, HALF_M }, 4);
    for (int i = 0; i < 16; i++) bytes_put(b, &(unsigned char){ (unsigned char)(i | (15 - i) << 4) }, 1);
    bytes_pad(b, 32);
    bytes_put(b, (const uint16_t[]){ HALF_8 }, 2);
    for (int i = 0; i < 32; i++) bytes_put(b, &(signed char){ (signed char)(8 * i - 128) }, 1);
}

static int open_bytes(void *state, const struct bytes *b, struct gguf **out)
{
    const char *path = scratch_path(state, "a.gguf");
    bytes_write(b, path);
    return gguf_open(path, out, reason);
}

static void test_metadata(void **state)
{
    struct bytes b = { 0 };
    struct gguf *g;
    put_sample(&b);
    assert_int_equal(open_bytes(*state, &b, &g), GSL_SUCCESS);
    size_t size, count;
    double number;
    int flag;
    struct gguf_text text, *words;
    int64_t *numbers;
    assert_int_equal(gguf_size(g, "a.size", &size), GSL_SUCCESS);
    assert_int_equal(size, 41);
    assert_int_equal(gguf_number(g, "a.number", &number), GSL_SUCCESS);
    CHECK_CLOSE(number, 0.7f, 0.0, 0.0);
    assert_int_equal(gguf_text(g, "a.text", &text), GSL_SUCCESS);
    assert_int_equal(text.len, 5);
    assert_memory_equal(text.bytes, "llama", 5);
    assert_int_equal(gguf_texts(g, "words", &words, &count), GSL_SUCCESS);
    assert_int_equal(count, 3);
    assert_int_equal(words[1].len, 0);
    assert_memory_equal(words[2].bytes, "ele ven", 7);
    free(words);
    assert_int_equal(gguf_integers(g, "numbers", &numbers, &count), GSL_SUCCESS);
    assert_int_equal(numbers[1], -7);
    free(numbers);
    /* Of another type, or not there. */
    assert_true(gguf_has(g, "words"));
    assert_false(gguf_has(g, "word"));
    assert_int_equal(gguf_size(g, "words", &size), GSL_EINVAL);
    assert_int_equal(gguf_size(g, "a.text", &size), GSL_EINVAL);
    assert_int_equal(gguf_number(g, "a.size", &number), GSL_EINVAL);
    assert_int_equal(gguf_flag(g, "a.size", &flag), GSL_EINVAL);
    assert_int_equal(gguf_text(g, "numbers", &text), GSL_EINVAL);
    assert_int_equal(gguf_texts(g, "numbers", &words, &count), GSL_EINVAL);
    assert_int_equal(gguf_integers(g, "a.size", &numbers, &count), GSL_EINVAL);
    gguf_free(g);
    gguf_free(NULL);
    bytes_free(&b);
}

/* x = d q (+ m), in the order low nibbles, high nibbles. */
static void test_tensors(void **state)
{
    struct bytes b = { 0 };
    struct gguf *g;
    float x[32];
    put_sample(&b);
    assert_int_equal(open_bytes(*state, &b, &g), GSL_SUCCESS);
    assert_int_equal(gguf_num_tensors(g), 4);
    assert_null(gguf_tensor(g, "q"));
    const struct gguf_tensor *t = gguf_tensor(g, "f32");
    assert_ptr_equal(t, gguf_tensor_at(g, 0));
    assert_int_equal(t->dims[0], 3);
    assert_int_equal(t->dims[1], 2);
    gguf_read(t, x);
    assert_true(x[0] == 1.5f && x[5] == -0.7f);
    gguf_read(gguf_tensor(g, "f16"), x);
    assert_true(x[0] == 1.0f && x[1] == -2.0f && x[2] == 0x1p-24f && x[3] == 65504.0f);
    gguf_read(gguf_tensor(g, "q4"), x);
    for (int i = 0; i < 16; i++) {
        CHECK_CLOSE(x[i], 0.5 * i - 1.25, 0.0, 0.0);
        CHECK_CLOSE(x[16 + i], 0.5 * (15 - i) - 1.25, 0.0, 0.0);
    }
    gguf_read(gguf_tensor(g, "q8"), x);
    for (int i = 0; i < 32; i++) CHECK_CLOSE(x[i], 0.375 * (8 * i - 128), 0.0, 0.0);
    gguf_free(g);
    bytes_free(&b);
    assert_true(isinf(gguf_half(0x7c00)) && isnan(gguf_half(0x7e00)) && gguf_half(0x0400) == 0x1p-14f);
}

static void refuses(void *state, struct bytes *b, const char *says)
{
    struct gguf *g;
    assert_int_equal(open_bytes(state, b, &g), GSL_EINVAL);
    assert_null(g);
    if (!strstr(why, says)) fail_msg("expected '%s' in '%s'", says, why);
    bytes_free(b);
}

/* A file of one tensor. */
static void put_one(struct bytes *b, size_t rank, size_t rows, size_t cols, unsigned kind, uint64_t offset, size_t data)
{
    gguf_put_head(b, 1, 0);
    gguf_put_tensor(b, "w", rank, (const size_t[]){ cols, rows, 1, 1, 1 }, (enum gguf_kind)kind, offset);
    bytes_pad(b, 32);
    for (size_t i = 0; i < data; i++) bytes_put(b, "", 1);
}

static void test_refuses(void **state)
{
    struct bytes b = { 0 };
    bytes_put(&b, "GGUX", 4);
    bytes_pad(&b, 64);
    refuses(*state, &b, "magic");
    bytes_put(&b, "GGUF\2", 5);
    bytes_pad(&b, 64);
    refuses(*state, &b, "version 2");
    gguf_put_head(&b, UINT64_MAX, 0);
    refuses(*state, &b, "more tensors");
    gguf_put_head(&b, 0, UINT64_MAX / 8);
    refuses(*state, &b, "more tensors");

    gguf_put_head(&b, 0, 2);
    gguf_put_u32(&b, "same", 1);
    gguf_put_u32(&b, "same", 2);
    refuses(*state, &b, "twice");
    gguf_put_head(&b, 0, 1);
    bytes_text(&b, "k");
    bytes_u32(&b, 9);
    bytes_u32(&b, 9);
    bytes_u64(&b, 1);
    refuses(*state, &b, "array of arrays");
    gguf_put_head(&b, 0, 1);
    bytes_text(&b, "k");
    bytes_u32(&b, 13);
    refuses(*state, &b, "unknown type 13");
    gguf_put_head(&b, 0, 1);
    bytes_text(&b, "k");
    bytes_u32(&b, 9);
    bytes_u32(&b, 10);
    bytes_u64(&b, UINT64_MAX / 4);
    refuses(*state, &b, "beyond the end");
    gguf_put_head(&b, 0, 1);
    bytes_u64(&b, UINT64_MAX);
    bytes_u64(&b, 0);
    refuses(*state, &b, "truncated metadata");
    gguf_put_head(&b, 0, 1);
    gguf_put_u32(&b, "general.alignment", 24);
    refuses(*state, &b, "power of two");

    put_one(&b, 2, 2, 4, 0, 0, 31);
    refuses(*state, &b, "beyond the end");
    put_one(&b, 2, 2, 4, 0, 16, 64);
    refuses(*state, &b, "not aligned");
    put_one(&b, 2, 2, 4, 0, UINT64_MAX - 31, 64);
    refuses(*state, &b, "beyond the end");
    put_one(&b, 2, SIZE_MAX / 2, 4, 0, 0, 64);
    refuses(*state, &b, "absurd");
    put_one(&b, 2, 0, 4, 0, 0, 64);
    refuses(*state, &b, "empty");
    put_one(&b, 5, 1, 4, 0, 0, 64);
    refuses(*state, &b, "5 dimensions");
    put_one(&b, 2, 2, 4, 2, 0, 64);
    refuses(*state, &b, "type 2");
    put_one(&b, 2, 2, 40, 3, 0, 64);
    refuses(*state, &b, "multiple of 32");
    gguf_put_head(&b, 2, 0);
    gguf_put_tensor(&b, "w", 1, (const size_t[]){ 2 }, GGUF_F32, 0);
    gguf_put_tensor(&b, "w", 1, (const size_t[]){ 2 }, GGUF_F32, 0);
    bytes_pad(&b, 64);
    refuses(*state, &b, "same name");
    struct gguf *g;
    assert_int_equal(gguf_open(scratch_path(*state, "missing"), &g, reason), GSL_EFAILED);
    assert_int_equal(gguf_open(scratch_path(*state, "."), &g, reason), GSL_EFAILED);
}

/* Cut anywhere, the file is refused. */
static void test_truncated(void **state)
{
    struct bytes b = { 0 };
    struct gguf *g;
    put_sample(&b);
    const size_t whole = b.size;
    for (b.size = 0; b.size < whole; b.size++) {
        assert_int_equal(open_bytes(*state, &b, &g), GSL_EINVAL);
        assert_null(g);
    }
    bytes_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metadata), cmocka_unit_test(test_tensors), cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
