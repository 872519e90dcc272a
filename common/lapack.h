/* The LAPACK and BLAS routines in use, as OpenBLAS exports them (Fortran calling convention:
 * everything by reference, matrices column-major, string lengths at the end). A row-major
 * symmetric matrix is its own column-major one, with upper and lower triangle exchanged. */
#ifndef COMMON_LAPACK_H
#define COMMON_LAPACK_H
#include <stddef.h>

/* Eigenvalues (jobz "N") or also eigenvectors ("V", overwriting A) of a symmetric matrix. */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *A, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info,
             size_t jobz_len, size_t uplo_len);

/* Eigenvalues alone (jobz "N") by way of a band matrix: most of the work is matrix products. */
void dsyevd_2stage_(const char *jobz, const char *uplo, const int *n, double *A, const int *lda, double *w,
                    double *work, const int *lwork, int *iwork, const int *liwork, int *info,
                    size_t jobz_len, size_t uplo_len);

/* Eigenvalues, ascending in d, of the symmetric tridiagonal matrix with diagonal d and off-diagonal
 * e (overwritten); with compz "I" the eigenvectors in the columns of Z. */
void dsteqr_(const char *compz, const int *n, double *d, double *e, double *Z, const int *ldz, double *work,
             int *info, size_t compz_len);

/* Singular values alone with jobz "N". */
void dgesdd_(const char *jobz, const int *rows, const int *cols, double *A, const int *lda,
             double *s, double *U, const int *ldu, double *VT, const int *ldvt, double *work,
             const int *lwork, int *iwork, int *info, size_t jobz_len);

/* Cholesky factor, its condition number, its solve. */
void dpotrf_(const char *uplo, const int *n, double *A, const int *lda, int *info, size_t uplo_len);
void dpocon_(const char *uplo, const int *n, const double *A, const int *lda, const double *anorm,
             double *rcond, double *work, int *iwork, int *info, size_t uplo_len);
void dpotrs_(const char *uplo, const int *n, const int *nrhs, const double *A, const int *lda, double *B,
             const int *ldb, int *info, size_t uplo_len);

#endif
