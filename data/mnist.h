/* MNIST for theory: images in R^dim on the unit sphere, one-hot targets.
 *
 * Pixels are scaled to [0, 1] and projected on the `dim` leading principal components
 * of the training images (centred at their mean; the entry of largest magnitude of a
 * component is positive), then divided by their norm. The basis is kept beside the
 * images as an NPY file named after their hash. */
#ifndef DATA_MNIST_H
#define DATA_MNIST_H
#include <stddef.h>
#include <stdint.h>
#include <gsl/gsl_matrix.h>
#include "data/idx.h"

enum { MNIST_PIXELS = 784, MNIST_CLASSES = 10 };

/* Loads num_train training and num_test test images, each the first of a permutation
 * that depends on the seed alone (smaller sets are nested in larger ones).
 *
 *   X, X_test   out   (num_train, dim), (num_test, dim)   rows of norm 1
 *   Y, Y_test   out   the same shapes: 1 in column `label`, else 0; needs dim >= 10
 *
 * A NULL pointer asks for nothing (with X_test and Y_test NULL num_test is not read).
 * The caller frees the matrices. The files are those of data/fetch.sh in the folder
 * PREFIX_NTK_DATA, else in data/cache below the working folder or beside the build.
 * Returns a GSL code, with one line that names the file or value in why[why_size]:
 * GSL_EFAILED no such file (fetch it), GSL_EINVAL a bad file or number, GSL_ENOMEM. */
int mnist_load(size_t num_train, size_t num_test, size_t dim, uint64_t seed, gsl_matrix **X,
               gsl_matrix **Y, gsl_matrix **X_test, gsl_matrix **Y_test, char *why,
               size_t why_size);

/* The training images as they are, (60000, 28, 28) bytes; the same files and codes. */
int mnist_images(struct idx *images, char *why, size_t why_size);

#endif
