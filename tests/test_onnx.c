/* Initialisers of ONNX models: read as they were written, every damaged file refused with one line. */
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "transformer/onnx.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static char why[256];

/* A message under way. */
struct message { unsigned char bytes[1024]; size_t size; };

static void put_varint(struct message *m, uint64_t value)
{
    for (; value >= 128; value >>= 7) m->bytes[m->size++] = (unsigned char)(value | 128);
    m->bytes[m->size++] = (unsigned char)value;
}

static void put_number(struct message *m, unsigned field, uint64_t value)
{
    put_varint(m, (uint64_t)field << 3);
    put_varint(m, value);
}

static void put_bytes(struct message *m, unsigned field, const void *bytes, size_t size)
{
    put_varint(m, (uint64_t)field << 3 | 2);
    put_varint(m, size);
    assert_true(m->size + size <= sizeof m->bytes);
    memcpy(m->bytes + m->size, bytes, size);
    m->size += size;
}

/* A TensorProto of `count` numbers. */
static struct message tensor(const char *name, unsigned type, const uint64_t *dims, size_t rank, const float *data,
                             size_t count)
{
    struct message t = { .size = 0 };
    for (size_t i = 0; i < rank; i++) put_number(&t, 1, dims[i]);
    put_number(&t, 2, type);
    put_bytes(&t, 8, name, strlen(name));
    put_bytes(&t, 9, data, count * sizeof *data);
    return t;
}

static struct message model(const struct message *tensors, size_t count)
{
    struct message graph = { .size = 0 }, m = { .size = 0 };
    put_bytes(&graph, 2, "graph", 5);
    for (size_t i = 0; i < count; i++) put_bytes(&graph, 5, tensors[i].bytes, tensors[i].size);
    put_number(&m, 1, 8);
    put_bytes(&m, 7, graph.bytes, graph.size);
    put_bytes(&m, 8, "\x10\x11", 2);
    return m;
}

static const char *save(void *state, const struct message *m, size_t size)
{
    const char *path = scratch_path(state, "a.onnx");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fwrite(m->bytes, 1, size, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void refuses(const char *path, int code, const char *says)
{
    struct tensors *t = NULL;
    why[0] = '\0';
    assert_int_equal(onnx_read(path, &t, (struct reason){ why, sizeof why }), code);
    assert_null(t);
    if (!strstr(why, says) || strchr(why, '\n')) fail_msg("expected '%s' in one line, not '%s'", says, why);
}

static const float numbers[6] = { 0.7f, -1.3f, 2.9f, 0.1f, -5.5f, 1e-20f };
static const uint64_t shape[2] = { 2, 3 }, huge[2] = { (uint64_t)1 << 33, (uint64_t)1 << 33 },
    deep[5] = { 1, 1, 2, 3, 1 };

/* Two float tensors are kept, one of them with packed dimensions; integers and ones without raw data are not. */
static void test_reads(void **state)
{
    struct message packed = { .size = 0 }, empty = { .size = 0 };
    put_bytes(&packed, 1, "\x03\x01", 2);
    put_number(&packed, 2, 1);
    put_bytes(&packed, 8, "bias", 4);
    put_bytes(&packed, 9, numbers + 1, 12);
    put_number(&empty, 1, 4);
    put_number(&empty, 2, 1);
    put_bytes(&empty, 8, "elsewhere", 9);
    const struct message list[] = { tensor("weight", 1, shape, 2, numbers, 6), packed,
                                    tensor("ids", 7, shape, 1, numbers, 4), empty };
    const struct message m = model(list, 4);
    struct tensors *t;
    if (onnx_read(save(*state, &m, m.size), &t, (struct reason){ why, sizeof why })) fail_msg("%s", why);
    assert_int_equal(tensors_count(t), 2);
    const struct tensor *w = tensors_find(t, "weight"), *b = tensors_find(t, "bias");
    assert_non_null(w);
    assert_non_null(b);
    assert_int_equal(w->rank, 2);
    assert_int_equal(w->dims[0], 2);
    assert_int_equal(w->dims[1], 3);
    assert_memory_equal(w->data, numbers, sizeof numbers);
    assert_int_equal(b->rank, 2);
    assert_memory_equal(b->data, numbers + 1, 12);
    tensors_free(t);
}

/* Cut anywhere, the file is refused or, between two fields of the model, has no graph yet. */
static void test_refuses_truncated(void **state)
{
    const struct message t = tensor("weight", 1, shape, 2, numbers, 6), m = model(&t, 1);
    /* The last field, opset_import, takes four bytes; before it the model is whole. */
    for (size_t size = 0; size < m.size - 4; size++) refuses(save(*state, &m, size), GSL_EINVAL, "not an ONNX model");
    for (size_t size = m.size - 3; size < m.size; size++)
        refuses(save(*state, &m, size), GSL_EINVAL, "not an ONNX model");
}

static void test_refuses_tensors(void **state)
{
    const float nan[6] = { 1.0f, 2.0f, 3.0f, NAN, 5.0f, 6.0f };
    char long_name[600];
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    const struct { struct message tensor; int code; const char *says; } bad[] = {
        { tensor("weight", 1, shape, 2, numbers, 5), GSL_EINVAL, "tensor weight: 20 bytes for 6 numbers" },
        { tensor("weight", 1, shape, 1, numbers, 6), GSL_EINVAL, "24 bytes for 2 numbers" },
        { tensor("weight", 1, huge, 2, numbers, 6), GSL_EINVAL, "dimensions" },
        { tensor("weight", 1, deep, 5, numbers, 6), GSL_EINVAL, "dimensions" },
        { tensor("weight", 1, shape, 2, nan, 6), GSL_EDOM, "tensor weight: number 3" },
        { tensor("we\night", 1, shape, 2, nan, 6), GSL_EDOM, "tensor we?ight" },
        { tensor(long_name, 1, shape, 2, numbers, 6), GSL_EINVAL, "name" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const struct message m = model(&bad[i].tensor, 1);
        refuses(save(*state, &m, m.size), bad[i].code, bad[i].says);
    }
    const struct message twice[] = { tensor("weight", 1, shape, 2, numbers, 6),
                                     tensor("weight", 1, shape, 1, numbers, 2) };
    const struct message m = model(twice, 2);
    refuses(save(*state, &m, m.size), GSL_EINVAL, "tensor weight: twice");
}

static void test_refuses_files(void **state)
{
    const struct message t = tensor("weight", 1, shape, 2, numbers, 6), good = model(&t, 1);
    static const struct { const char *bytes; size_t size; } bad[] = {
        { "", 0 }, { "\x08", 1 }, { "PK\x03\x04", 4 }, { "\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12 },
        { "\x3a\x05", 2 }, { "\x03\x01", 2 }, { "\x04", 1 }, { "\x00\x00", 2 }, { "\x08\x01", 2 },
        { "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct message m = { .size = bad[i].size };
        memcpy(m.bytes, bad[i].bytes, bad[i].size);
        refuses(save(*state, &m, m.size), GSL_EINVAL, "not an ONNX model");
    }
    struct message two = good;
    put_bytes(&two, 7, "", 0);
    refuses(save(*state, &two, two.size), GSL_EINVAL, "more than one graph");
    refuses(scratch_path(*state, "missing"), GSL_EFAILED, "No such file");
    refuses(scratch_path(*state, "."), GSL_EFAILED, "directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads), cmocka_unit_test(test_refuses_truncated), cmocka_unit_test(test_refuses_tensors),
        cmocka_unit_test(test_refuses_files),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
