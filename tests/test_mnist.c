/* The data set "mnist", on a small synthetic one with known principal components. */
#include "data/mnist.h"
#include "common/random.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <gsl/gsl_blas.h>
#include <gsl/gsl_eigen.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRAIN = 120, TEST = 37, SIDE = 28 };
static char why[512];

static void put_idx(void *state, const char *name, size_t rank, size_t count, const unsigned char *data)
{
    char path[64];
    snprintf(path, sizeof path, "mnist/%s", name);
    FILE *file = fopen(scratch_path(state, path), "w");
    assert_non_null(file);
    const unsigned char head[] = { 0, 0, 8, (unsigned char)rank, 0, 0, 0, (unsigned char)count, 0, 0, 0, SIDE, 0, 0, 0,
                                   SIDE };
    fwrite(head, 1, 4 + 4 * rank, file);
    fwrite(data, 1, rank == 3 ? count * MNIST_PIXELS : count, file);
    assert_int_equal(fclose(file), 0);
}

/* Image i is 100 everywhere plus independent noise of falling strength in its first
 * pixels: pixel j then is principal component j, nearly. Label i is 7 i mod 10. */
static unsigned char images[TRAIN + TEST][MNIST_PIXELS], labels[TRAIN + TEST];

static int setup(void **state)
{
    if (scratch_setup(state)) return -1;
    if (mkdir(scratch_path(*state, "mnist"), 0777)) return -1;
    for (size_t i = 0; i < TRAIN + TEST; i++) {
        double noise[12];
        random_normal(3, RANDOM_OTHER, 0, i, noise, 12);
        memset(images[i], 100, MNIST_PIXELS);
        for (size_t j = 0; j < 12; j++)
            images[i][j] = (unsigned char)lrint(fmax(0.0, fmin(255.0, 100.0 + 40.0 * pow(0.7, (double)j) * noise[j])));
        labels[i] = (unsigned char)(7 * i % 10);
    }
    put_idx(*state, "train-images-idx3-ubyte", 3, TRAIN, images[0]);
    put_idx(*state, "train-labels-idx1-ubyte", 1, TRAIN, labels);
    put_idx(*state, "t10k-images-idx3-ubyte", 3, TEST, images[TRAIN]);
    put_idx(*state, "t10k-labels-idx1-ubyte", 1, TEST, labels + TRAIN);
    return setenv("PREFIX_NTK_DATA", scratch_path(*state, "."), 1);
}

static size_t label_of(const gsl_matrix *Y, size_t row)
{
    size_t label = 0, ones = 0;
    for (size_t k = 0; k < Y->size2; k++) {
        const double y = gsl_matrix_get(Y, row, k);
        assert_true(y == 0.0 || y == 1.0);
        if (y == 1.0) {
            label = k;
            ones++;
        }
    }
    assert_int_equal(ones, 1);
    assert_true(label < MNIST_CLASSES);
    return label;
}

/* Row i: image i in the 12 components, by another eigensolver on the only pixels that
 * vary, with the sign rule and the normalisation of the header. */
static gsl_matrix *reference_rows(void)
{
    enum { D = 12 };
    double mean[D] = { 0.0 };
    gsl_matrix *covariance = gsl_matrix_calloc(D, D), *vectors = gsl_matrix_alloc(D, D);
    gsl_matrix *rows = gsl_matrix_calloc(TRAIN + TEST, D);
    gsl_vector *values = gsl_vector_alloc(D);
    gsl_eigen_symmv_workspace *work = gsl_eigen_symmv_alloc(D);
    for (size_t i = 0; i < TRAIN; i++)
        for (size_t j = 0; j < D; j++) mean[j] += images[i][j] / (double)TRAIN;
    for (size_t i = 0; i < TRAIN; i++)
        for (size_t j = 0; j < D; j++)
            for (size_t k = 0; k < D; k++)
                *gsl_matrix_ptr(covariance, j, k) += (images[i][j] - mean[j]) * (images[i][k] - mean[k]);
    gsl_eigen_symmv(covariance, values, vectors, work);
    gsl_eigen_symmv_sort(values, vectors, GSL_EIGEN_SORT_VAL_DESC);
    for (size_t c = 0; c < D; c++) {
        double largest = 0.0;
        for (size_t j = 0; j < D; j++)
            if (fabs(gsl_matrix_get(vectors, j, c)) > fabs(largest)) largest = gsl_matrix_get(vectors, j, c);
        for (size_t i = 0; i < TRAIN + TEST; i++)
            for (size_t j = 0; j < D; j++)
                *gsl_matrix_ptr(rows, i, c) += copysign(1.0, largest) * gsl_matrix_get(vectors, j, c) * (images[i][j]
                    - mean[j]);
    }
    for (size_t i = 0; i < TRAIN + TEST; i++) {
        gsl_vector_view row = gsl_matrix_row(rows, i);
        gsl_vector_scale(&row.vector, 1.0 / gsl_blas_dnrm2(&row.vector));
    }
    gsl_matrix_free(covariance);
    gsl_matrix_free(vectors);
    gsl_vector_free(values);
    gsl_eigen_symmv_free(work);
    return rows;
}

/* Every image of a half appears once, with its label. */
static void test_projection(void **state)
{
    (void)state;
    static const double RTOL_EIGENVECTORS = 1e-9;
    gsl_matrix *x[2], *y[2], *want = reference_rows();
    assert_int_equal(mnist_load(TRAIN, TEST, 12, 5, &x[0], &y[0], &x[1], &y[1], why, sizeof why), GSL_SUCCESS);
    bool used[TRAIN + TEST] = { false };
    for (size_t half = 0; half < 2; half++) {
        const size_t first = half ? TRAIN : 0, count = half ? TEST : TRAIN;
        assert_true(x[half]->size1 == count && x[half]->size2 == 12 && y[half]->size1 == count && y[half]->size2 == 12);
        for (size_t row = 0; row < count; row++) {
            size_t image = first;
            for (size_t i = first; i < first + count; i++) {
                gsl_matrix_view got = gsl_matrix_submatrix(x[half], row, 0, 1, 12),
                    ref = gsl_matrix_submatrix(want, i, 0, 1, 12);
                if (relative_error(&got.matrix, &ref.matrix) < RTOL_EIGENVECTORS) break;
                image++;
            }
            assert_true(image < first + count);
            assert_false(used[image]);
            used[image] = true;
            assert_int_equal(label_of(y[half], row), labels[image]);
        }
        gsl_matrix_free(x[half]);
        gsl_matrix_free(y[half]);
    }
    gsl_matrix_free(want);
}

/* Smaller sets are the first rows of larger ones; another seed draws another set; the
 * basis read back from its file gives the same bits. */
static void test_nested_and_cached(void **state)
{
    (void)state;
    gsl_matrix *large, *small, *other, *few;
    assert_int_equal(mnist_load(50, 0, 10, 5, &large, NULL, NULL, NULL, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(mnist_load(20, 0, 10, 5, &small, NULL, NULL, NULL, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(mnist_load(20, 0, 10, 6, &other, NULL, NULL, NULL, why, sizeof why), GSL_SUCCESS);
    CHECK_SAME_BITS(large->data, small->data, 20 * 10);
    assert_true(memcmp(small->data, other->data, 20 * 10 * sizeof(double)) != 0);
    assert_int_equal(mnist_load(1, 3, 1, 5, NULL, NULL, &few, NULL, why, sizeof why), GSL_SUCCESS);
    for (size_t i = 0; i < 3; i++) assert_true(fabs(gsl_matrix_get(few, i, 0)) == 1.0);
    gsl_matrix_free(large);
    gsl_matrix_free(small);
    gsl_matrix_free(other);
    gsl_matrix_free(few);
}

static void test_refusals(void **state)
{
    gsl_matrix *X = NULL, *Y = NULL;
    const struct { size_t num_train, num_test, dim; int wants_y; const char *says; } bad[] = {
        { 0, 5, 12, 0, "0 training" },      { TRAIN + 1, 5, 12, 0, "121 training" }, { 5, TEST + 1, 12, 0, "38 test" },
        { 5, 0, 12, 0, "0 test" },          { 5, 5, 0, 0, "0 dimensions" },          { 5, 5, 785, 0, "785 dimensions" },
        { 5, 5, 9, 1, "at least 10" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(mnist_load(bad[i].num_train, bad[i].num_test, bad[i].dim, 5, &X, bad[i].wants_y ? &Y : NULL,
                                    &X, NULL, why, sizeof why), GSL_EINVAL);
        if (!strstr(why, bad[i].says)) fail_msg("expected '%s' in '%s'", bad[i].says, why);
        assert_null(X);
        assert_null(Y);
    }
    labels[4] = 10;
    put_idx(*state, "train-labels-idx1-ubyte", 1, TRAIN, labels);
    assert_int_equal(mnist_load(5, 0, 12, 5, &X, NULL, NULL, NULL, why, sizeof why), GSL_EINVAL);
    assert_non_null(strstr(why, "label 10"));
    put_idx(*state, "train-labels-idx1-ubyte", 1, TRAIN - 1, labels);
    assert_int_equal(mnist_load(5, 0, 12, 5, &X, NULL, NULL, NULL, why, sizeof why), GSL_EINVAL);
    assert_non_null(strstr(why, "119 labels"));
    unlink(scratch_path(*state, "mnist/train-labels-idx1-ubyte"));
    assert_int_equal(mnist_load(5, 0, 12, 5, &X, NULL, NULL, NULL, why, sizeof why), GSL_EFAILED);
    assert_non_null(strstr(why, "train-labels-idx1-ubyte: No such file"));
    assert_non_null(strstr(why, "make data"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_projection),
        cmocka_unit_test(test_nested_and_cached),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
