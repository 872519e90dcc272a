/* The LAPACK routines in use, as OpenBLAS exports them (Fortran calling convention:
 * everything by reference, matrices column-major, string lengths at the end). */
#ifndef THEORY_LAPACK_H
#define THEORY_LAPACK_H
#include <stddef.h>

/* Eigenvalues (jobz "N") or also eigenvectors ("V", overwriting A) of a symmetric matrix. */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *A, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info,
             size_t jobz_len, size_t uplo_len);

/* Singular values alone with jobz "N". */
void dgesdd_(const char *jobz, const int *rows, const int *cols, double *A, const int *lda,
             double *s, double *U, const int *ldu, double *VT, const int *ldvt, double *work,
             const int *lwork, int *iwork, int *info, size_t jobz_len);

#endif
