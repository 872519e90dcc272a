#ifndef THEORY_EIGENSYSTEM_H
#define THEORY_EIGENSYSTEM_H
#include <gsl/gsl_matrix.h>

/* Eigenvalues (ascending, size) and eigenvectors (columns of vectors) of a symmetric
 * matrix. GSL_EBADLEN, GSL_EDOM (not finite), GSL_ENOMEM, GSL_EFAILED. */
int eigensystem(const gsl_matrix *symmetric, double *values, gsl_matrix *vectors);

#endif
