/* embed at program level, against the encoder in double on tiny backbones. */
#include "tests/support/check.h"
#include "tests/support/encoder_ref.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_folder.h"

#include "common/npy.h"

#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rounding of a float32 pass over two blocks of order-one numbers. */
static const double RTOL_FLOAT = 2e-5, ATOL_FLOAT = 2e-5;

enum { HIDDEN = 12 };

static void run_well(struct outcome o)
{
    if (o.code) fail_msg("exit code %d: %s", o.code, o.err);
    outcome_free(&o);
}

static struct npy read_rows(const char *path, size_t rows)
{
    struct npy a;
    char why[256];
    if (npy_read(path, 0, &a, why, sizeof why)) fail_msg("%s: %s", path, why);
    assert_int_equal(a.rank, 2);
    assert_int_equal(a.shape[0], rows);
    assert_int_equal(a.shape[1], HIDDEN);
    assert_int_equal(a.is_float32, 1);
    return a;
}

/* Rows of the reference, ended after `layers` blocks. */
static void reference(const char *dir, size_t layers, const struct batch *batch, double *hidden)
{
    struct backbone *b;
    struct model *m;
    struct encoder_ref ref;
    char line[256];
    const struct adapter_options none = adapter_defaults(ADAPTER_HEAD);
    assert_int_equal(backbone_open(dir, &b, (struct reason){ line, sizeof line }), GSL_SUCCESS);
    assert_int_equal(model_alloc(b, &none, 0, POOL_MEAN, 2, 1, &m, (struct reason){ line, sizeof line }), GSL_SUCCESS);
    encoder_ref_open(&ref, b, m, POOL_MEAN, 1);
    ref.num_layers = layers;
    encoder_ref_forward(&ref, batch, NULL, hidden);
    encoder_ref_close(&ref);
    model_free(m);
    backbone_free(b);
}

static void pooled(const double *hidden, size_t from, size_t to, double *out)
{
    for (size_t j = 0; j < HIDDEN; j++) out[j] = 0.0;
    for (size_t i = from; i < to; i++)
        for (size_t j = 0; j < HIDDEN; j++) out[j] += hidden[i * HIDDEN + j] / (double)(to - from);
}

/* [CLS] the cat ##s sat . [SEP]; [CLS] [SEP]; [CLS] [UNK] on dog [SEP], of a file with a byte order mark, CRLF, an
 * empty line and no newline at its end. */
static const char text[] = "\xef\xbb\xbfThe cats sat.\r\n\nzebra on dog";
static const int32_t ids[] = { 2, 4, 5, 9, 7, 10, 3, 2, 3, 2, 1, 8, 6, 3 };
static const size_t offsets[] = { 0, 7, 9, 14 };

static void test_texts(void **state)
{
    const char *dir = tiny_folder(*state, "bert", BACKBONE_BERT), *file = scratch_file(*state, "t.txt", text);
    const char *out = scratch_path(*state, "t.npy"), *tokens = scratch_path(*state, "t.csv");
    const struct batch batch = { .num_seqs = 3, .offsets = offsets, .ids = ids };
    double hidden[14 * HIDDEN], want[3 * HIDDEN];
    for (int last = 0; last < 2; last++) {
        reference(dir, last ? 2 : 1, &batch, hidden);
        const char *layer = last ? "final" : "0";
        run_well(run_program("embed", "--backbone", dir, "--text", file, "--layer", layer, "--out", out, "--tokens-out",
                             tokens, NULL));
        struct npy a = read_rows(out, 3);
        for (size_t s = 0; s < 3; s++) pooled(hidden, offsets[s], offsets[s + 1], want + s * HIDDEN);
        CHECK_ALL_CLOSE(a.f64, want, 3 * HIDDEN, RTOL_FLOAT, ATOL_FLOAT);
        assert_false(is_close(a.f64[3] + 1e-3, want[3], RTOL_FLOAT, ATOL_FLOAT));
        npy_free(&a);
        run_well(run_program("embed", "--backbone", dir, "--text", file, "--layer", layer, "--pool", "cls", "--out",
                             out, NULL));
        a = read_rows(out, 3);
        for (size_t s = 0; s < 3; s++) memcpy(want + s * HIDDEN, hidden + offsets[s] * HIDDEN, HIDDEN * sizeof *want);
        CHECK_ALL_CLOSE(a.f64, want, 3 * HIDDEN, RTOL_FLOAT, ATOL_FLOAT);
        npy_free(&a);
        run_well(run_program("embed", "--backbone", dir, "--text", file, "--layer", layer, "--pool", "none", "--out",
                             out, NULL));
        a = read_rows(out, 14);
        CHECK_ALL_CLOSE(a.f64, hidden, 14 * HIDDEN, RTOL_FLOAT, ATOL_FLOAT);
        npy_free(&a);
    }
    FILE *f = fopen(tokens, "r");
    char line[128];
    static const char *const rows[] = { "2,4,5,9,7,10,3\n", "2,3\n", "2,1,8,6,3\n" };
    assert_non_null(f);
    for (int i = 0; i < 3; i++) assert_string_equal(fgets(line, sizeof line, f), rows[i]);
    assert_null(fgets(line, sizeof line, f));
    fclose(f);
}

/* A NPY file of bytes. */
static const char *bytes_file(void *state, const char *name, const char *shape, const unsigned char *x, size_t n)
{
    const char *path = scratch_path(state, name);
    char header[128];
    const int len = snprintf(header, sizeof header, "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }", shape);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f), 10);
    assert_true(fprintf(f, "%s%*s\n", header, 117 - len, "") == 118);
    assert_int_equal(fwrite(x, 1, n, f), n);
    fclose(f);
    return path;
}

/* Two images of 14 x 21: 6 patches, not the grid the positions were made for. */
static void test_images(void **state)
{
    enum { COUNT = 2, H = 14, W = 21, ROWS = 7, PIXELS = COUNT * H * W };
    const char *dir = tiny_folder(*state, "vit", BACKBONE_VIT), *out = scratch_path(*state, "x-out.npy");
    unsigned char bytes[PIXELS], colours[3 * PIXELS];
    float pixels[PIXELS], grey[PIXELS];
    double floats[PIXELS], hidden[COUNT * ROWS * HIDDEN], want[COUNT * HIDDEN];
    char why[256];
    for (size_t i = 0; i < PIXELS; i++) {
        bytes[i] = (unsigned char)(37 * i % 256);
        floats[i] = bytes[i] / 255.0;
        pixels[i] = (float)((floats[i] - 0.25) / 0.5);
        for (size_t c = 0; c < 3; c++) colours[3 * i + c] = (unsigned char)((37 * i + 61 * c) % 256);
        grey[i] = (float)(((0.299 * colours[3 * i] + 0.587 * colours[3 * i + 1] + 0.114 * colours[3 * i + 2]) / 255.0
                           - 0.25) / 0.5);
    }
    struct batch batch = { .num_seqs = COUNT, .pixels = pixels, .image_h = H, .image_w = W };
    const char *file = bytes_file(*state, "x.npy", "(2, 14, 21)", bytes, sizeof bytes);
    reference(dir, 2, &batch, hidden);
    run_well(run_program("embed", "--backbone", dir, "--images", file, "--pool", "none", "--out", out, NULL));
    struct npy a = read_rows(out, COUNT * ROWS);
    CHECK_ALL_CLOSE(a.f64, hidden, COUNT * ROWS * HIDDEN, RTOL_FLOAT, ATOL_FLOAT);
    npy_free(&a);
    /* Floats are the same images; a mean leaves the class token out. */
    file = scratch_path(*state, "f.npy");
    assert_int_equal(npy_write_f64(file, floats, 3, (const size_t[]){ COUNT, H, W }, why, sizeof why), GSL_SUCCESS);
    run_well(run_program("embed", "--backbone", dir, "--images", file, "--out", out, NULL));
    a = read_rows(out, COUNT);
    for (size_t s = 0; s < COUNT; s++) pooled(hidden, s * ROWS + 1, (s + 1) * ROWS, want + s * HIDDEN);
    CHECK_ALL_CLOSE(a.f64, want, COUNT * HIDDEN, RTOL_FLOAT, ATOL_FLOAT);
    npy_free(&a);
    file = bytes_file(*state, "c.npy", "(2, 14, 21, 3)", colours, sizeof colours);
    batch.pixels = grey;
    reference(dir, 2, &batch, hidden);
    run_well(run_program("embed", "--backbone", dir, "--images", file, "--pool", "cls", "--out", out, NULL));
    a = read_rows(out, COUNT);
    for (size_t s = 0; s < COUNT; s++) memcpy(want + s * HIDDEN, hidden + s * ROWS * HIDDEN, HIDDEN * sizeof *want);
    CHECK_ALL_CLOSE(a.f64, want, COUNT * HIDDEN, RTOL_FLOAT, ATOL_FLOAT);
    npy_free(&a);
}

static void test_refusals(void **state)
{
    const char *bert = tiny_folder(*state, "bert2", BACKBONE_BERT), *vit = tiny_folder(*state, "vit2", BACKBONE_VIT);
    const char *good = scratch_file(*state, "good.txt", "the cat\n"), *out = scratch_path(*state, "none.npy");
    const char *tokens = scratch_path(*state, "none.csv");
    const unsigned char black[21] = { 0 };
    const double bright = 1.5;
    char why[256];
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--out", out, NULL), 2, "embed", "--text");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", good, NULL), 2, "embed", "--out");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", good, "--layer", "2", "--out", out, NULL), 2,
                  "embed", "--layer");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", good, "--layer", "last", "--out", out, NULL), 2,
                  "embed", "--layer");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", good, "--pool", "max", "--out", out, NULL), 2,
                  "embed", "--pool");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", good, "--max-len", "25", "--out", out, NULL), 2,
                  "embed", "--max-len");
    CHECK_REFUSAL(run_program("embed", "--backbone", vit, "--text", good, "--out", out, NULL), 2, "embed", "--text");
    CHECK_REFUSAL(run_program("embed", "--backbone", vit, "--images", good, "--tokens-out", tokens, "--out", out, NULL),
                  2, "embed", "--tokens-out");
    CHECK_REFUSAL(run_program("embed", "--backbone", scratch_path(*state, "absent"), "--text", good, "--out", out,
                              NULL), 3, "embed", "absent");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", scratch_path(*state, "absent.txt"), "--out", out,
                              NULL), 3, "embed", "absent.txt");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text", scratch_file(*state, "empty.txt", ""), "--out",
                              out, NULL), 3, "embed", "empty.txt");
    CHECK_REFUSAL(run_program("embed", "--backbone", bert, "--text",
                              scratch_file(*state, "latin.txt", "the\ncaf\xe9\n"), "--tokens-out", tokens, "--out", out,
                                  NULL), 3, "embed", "latin.txt: line 2");
    CHECK_REFUSAL(run_program("embed", "--backbone", vit, "--images", bytes_file(*state, "odd.npy", "(1, 7, 3)", black,
                                                                                 21), "--out", out, NULL), 3, "embed",
                  "odd.npy");
    CHECK_REFUSAL(run_program("embed", "--backbone", vit, "--images", bytes_file(*state, "flat.npy", "(3, 7)", black,
                                                                                 21), "--out", out, NULL), 3, "embed",
                  "flat.npy");
    const char *file = scratch_path(*state, "bright.npy");
    double image[49] = { bright };
    assert_int_equal(npy_write_f64(file, image, 3, (const size_t[]){ 1, 7, 7 }, why, sizeof why), GSL_SUCCESS);
    CHECK_REFUSAL(run_program("embed", "--backbone", vit, "--images", file, "--out", out, NULL), 3, "embed",
                  "bright.npy");
    assert_int_not_equal(access(out, F_OK), 0);
    assert_int_not_equal(access(tokens, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_texts), cmocka_unit_test(test_images),
                                        cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
