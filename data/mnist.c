#include "data/mnist.h"

#include "common/hash.h"
#include "common/npy.h"
#include "common/random.h"
#include "common/reason.h"
#include "data/folder.h"
#include "data/idx.h"
#include "common/eigensystem.h"

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDE = 28, CHUNK_ROWS = 500, NUM_FILES = 4 };
enum { TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS };

static const char *const file_names[NUM_FILES] = {
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
};

static int read_file(const char *folder, int which, struct idx *a, struct reason why)
{
    char path[PATH_MAX + 64], cause[192];
    snprintf(path, sizeof path, "%s/%s", folder, file_names[which]);
    const int status = idx_read(path, which % 2 ? 1 : 3, a, cause, sizeof cause);
    if (!status) return status;
    return refuse(why, status, "%s: %s%s", path, cause, status == GSL_EFAILED ? " (make data fetches it)" : "");
}

/* Images and labels of one half, of equal number and right size. */
static int read_half(const char *folder, int images, struct idx *image, struct idx *label, struct reason why)
{
    int status = read_file(folder, images, image, why);
    if (!status) status = read_file(folder, images + 1, label, why);
    if (status) return status;
    if (image->shape[1] != SIDE || image->shape[2] != SIDE || image->shape[0] != label->shape[0])
        return refuse(why, GSL_EINVAL, "%s/%s: images of %zu x %zu, %zu of them with %zu labels", folder,
                      file_names[images], image->shape[1], image->shape[2], image->shape[0], label->shape[0]);
    for (size_t i = 0; i < label->size; i++)
        if (label->data[i] >= MNIST_CLASSES)
            return refuse(why, GSL_EINVAL, "%s/%s: label %d", folder, file_names[images + 1], label->data[i]);
    return GSL_SUCCESS;
}

int mnist_images(struct idx *images, char *why, size_t why_size)
{
    char folder[PATH_MAX];
    data_folder("mnist", folder);
    int status = read_file(folder, TRAIN_IMAGES, images, (struct reason){ why, why_size });
    if (!status && (images->shape[1] != SIDE || images->shape[2] != SIDE)) {
        status = refuse((struct reason){ why, why_size }, GSL_EINVAL, "%s/%s: images of %zu x %zu", folder,
                        file_names[TRAIN_IMAGES], images->shape[1], images->shape[2]);
        idx_free(images);
    }
    return status;
}

/* basis (1 + 784, 784): the mean of the images, then the principal components by
 * decreasing variance. Sums of products of bytes are whole numbers below 2^53, so
 * the covariance has no rounding that could depend on the machine. */
static int compute_basis(const struct idx *images, double *basis)
{
    enum { D = MNIST_PIXELS };
    const size_t n = images->shape[0];
    int status = GSL_ENOMEM;
    double *chunk = malloc((size_t)CHUNK_ROWS * D * sizeof *chunk);
    double *variances = malloc(D * sizeof *variances);
    gsl_matrix *moments = gsl_matrix_calloc(D, D), *components = gsl_matrix_alloc(D, D);
    if (!chunk || !variances || !moments || !components) goto done;

    memset(basis, 0, D * sizeof *basis);
    for (size_t start = 0; start < n; start += CHUNK_ROWS) {
        const size_t rows = n - start < CHUNK_ROWS ? n - start : CHUNK_ROWS;
        for (size_t i = 0; i < rows * D; i++) {
            chunk[i] = images->data[start * D + i];
            basis[i % D] += chunk[i];
        }
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, D, (int)rows, 1.0, chunk, D, 1.0, moments->data, D);
    }
    for (size_t j = 0; j < D; j++) basis[j] /= (double)n;
    for (size_t j = 0; j < D; j++)
        for (size_t k = 0; k <= j; k++) {
            const double covariance = gsl_matrix_get(moments, j, k) / (double)n - basis[j] * basis[k];
            gsl_matrix_set(moments, j, k, covariance);
            gsl_matrix_set(moments, k, j, covariance);
        }
    status = eigensystem(moments, variances, components);
    for (size_t c = 0; c < D && !status; c++) {
        double *component = basis + (1 + c) * D;
        size_t largest = 0;
        for (size_t j = 0; j < D; j++) {
            component[j] = gsl_matrix_get(components, j, D - 1 - c);
            if (fabs(component[j]) > fabs(component[largest])) largest = j;
        }
        if (component[largest] < 0.0)
            for (size_t j = 0; j < D; j++) component[j] = -component[j];
    }
done:
    free(chunk);
    free(variances);
    gsl_matrix_free(moments);
    gsl_matrix_free(components);
    return status;
}

/* The basis from its file, or computed and left there if the folder can be written. */
static int find_basis(const char *folder, const struct idx *images, double **basis, struct reason why)
{
    char path[PATH_MAX + 64], cause[192];
    const uint64_t hash = hash_bytes(HASH_START, images->data, images->size);
    const size_t shape[2] = { 1 + MNIST_PIXELS, MNIST_PIXELS };
    snprintf(path, sizeof path, "%s/pca-%016llx.npy", folder, (unsigned long long)hash);
    struct npy kept;
    if (!npy_read(path, 0, &kept, cause, sizeof cause)) {
        if (kept.rank == 2 && kept.shape[0] == shape[0] && kept.shape[1] == shape[1]) {
            *basis = kept.f64;
            return GSL_SUCCESS;
        }
        npy_free(&kept);
    }
    *basis = malloc(shape[0] * shape[1] * sizeof **basis);
    if (!*basis) return refuse(why, GSL_ENOMEM, "out of memory");
    const int status = compute_basis(images, *basis);
    if (status) {
        free(*basis);
        *basis = NULL;
        return refuse(why, status, status == GSL_ENOMEM ? "%s/%s: out of memory for their principal components"
                                          : "%s/%s: no principal components", folder, file_names[TRAIN_IMAGES]);
    }
    npy_write_f64(path, *basis, 2, shape, cause, sizeof cause);
    return GSL_SUCCESS;
}

/* The first `count` of a permutation of 0..total-1. */
static int choose(uint64_t seed, uint64_t half, size_t total, size_t count, size_t **chosen)
{
    size_t *order = malloc(total * sizeof *order);
    if (!order) return GSL_ENOMEM;
    for (size_t i = 0; i < total; i++) order[i] = i;
    for (size_t i = 0; i < count; i++) {
        const size_t j = i + random_index(seed, RANDOM_INPUTS, half, i, total - i), taken = order[j];
        order[j] = order[i];
        order[i] = taken;
    }
    *chosen = order;
    return GSL_SUCCESS;
}

/* One image in the basis, on the sphere; GSL_EDOM when it is the mean itself. */
static int project(const unsigned char *image, const double *basis, double *x, size_t dim)
{
    double centred[MNIST_PIXELS], norm;
    for (size_t j = 0; j < MNIST_PIXELS; j++) centred[j] = (image[j] - basis[j]) / 255.0;
    cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)dim, MNIST_PIXELS, 1.0, basis + MNIST_PIXELS, MNIST_PIXELS, centred,
                1, 0.0, x, 1);
    norm = cblas_dnrm2((int)dim, x, 1);
    if (!(norm > 0.0)) return GSL_EDOM;
    for (size_t k = 0; k < dim; k++) x[k] /= norm;
    return GSL_SUCCESS;
}

/* `count` images and labels of one half. */
static int take_half(const struct idx *image, const struct idx *label, const double *basis, uint64_t seed,
                     uint64_t half, size_t count, size_t dim, gsl_matrix **X, gsl_matrix **Y, struct reason why)
{
    size_t *chosen = NULL;
    gsl_matrix *x = NULL, *y = NULL;
    int status = choose(seed, half, image->shape[0], count, &chosen);
    if (!status && !(x = gsl_matrix_alloc(count, dim))) status = GSL_ENOMEM;
    if (!status && Y && !(y = gsl_matrix_calloc(count, dim))) status = GSL_ENOMEM;
    if (status) refuse(why, status, "out of memory");
    for (size_t i = 0; i < count && !status; i++) {
        if ((status = project(image->data + chosen[i] * MNIST_PIXELS, basis, gsl_matrix_ptr(x, i, 0), dim)))
            refuse(why, status, "%s: image %zu has no direction in %zu components", file_names[2 * half], chosen[i],
                   dim);
        if (y) gsl_matrix_set(y, i, label->data[chosen[i]], 1.0);
    }
    free(chosen);
    if (status) {
        gsl_matrix_free(x);
        gsl_matrix_free(y);
        return status;
    }
    *X = x;
    if (Y) *Y = y;
    return GSL_SUCCESS;
}

int mnist_load(size_t num_train, size_t num_test, size_t dim, uint64_t seed, gsl_matrix **X,
               gsl_matrix **Y, gsl_matrix **X_test, gsl_matrix **Y_test, char *why_text,
               size_t why_size)
{
    const struct reason why = { why_text, why_size };
    if (dim < 1 || dim > MNIST_PIXELS)
        return refuse(why, GSL_EINVAL, "mnist: %zu dimensions; 1 to %d can be had", dim, MNIST_PIXELS);
    if ((Y || Y_test) && dim < MNIST_CLASSES)
        return refuse(why, GSL_EINVAL, "mnist: one-hot targets need at least %d dimensions, not %zu", MNIST_CLASSES,
                      dim);

    char folder[PATH_MAX];
    data_folder("mnist", folder);
    const bool want[2] = { X || Y, X_test || Y_test };
    const size_t counts[2] = { num_train, num_test };
    gsl_matrix **const xs[2] = { X, X_test }, **const ys[2] = { Y, Y_test };
    gsl_matrix *x[2] = { 0 }, *y[2] = { 0 };
    struct idx image[2] = { 0 }, label[2] = { 0 };
    double *basis = NULL;
    int status = GSL_SUCCESS;
    /* The training images give the basis, whichever half is wanted. */
    for (int half = 0; half < 2 && !status; half++) {
        if (half && !want[half]) continue;
        status = read_half(folder, 2 * half, &image[half], &label[half], why);
        if (!status && want[half] && (counts[half] < 1 || counts[half] > image[half].shape[0]))
            status = refuse(why, GSL_EINVAL, "mnist: %zu %s images; 1 to %zu can be had", counts[half],
                            half ? "test" : "training", image[half].shape[0]);
    }
    if (!status) status = find_basis(folder, &image[0], &basis, why);
    for (int half = 0; half < 2 && !status; half++)
        if (want[half])
            status = take_half(&image[half], &label[half], basis, seed, (uint64_t)half, counts[half], dim, &x[half],
                               ys[half] ? &y[half] : NULL, why);
    for (int half = 0; half < 2; half++) {
        if (!status && xs[half]) *xs[half] = x[half];
        else gsl_matrix_free(x[half]);
        if (!status && ys[half]) *ys[half] = y[half];
        else gsl_matrix_free(y[half]);
        idx_free(&image[half]);
        idx_free(&label[half]);
    }
    free(basis);
    return status;
}
