/* Cholesky's factor in place, by tiles. */
#ifndef COMMON_CHOLESKY_H
#define COMMON_CHOLESKY_H
#include <gsl/gsl_matrix.h>

/* The lower triangle of A, diagonal included, becomes L with A = L L'; the part above the diagonal is
 * neither read nor written. Tiles depend on the order alone: the same bits on any number of
 * threads. GSL_EDOM: not positive definite; what stands in the lower triangle is then of no use. */
int cholesky_in_place(gsl_matrix *A, int num_threads);

#endif
