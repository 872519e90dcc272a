#include "common/cholesky.h"

#include <limits.h>
#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include "common/lapack.h"

enum { TILE = 256 };

/* Rows of tile `t` of `size`. */
static int tile_rows(size_t size, size_t t)
{
    const size_t left = size - t * TILE;
    return (int)(left < TILE ? left : TILE);
}

/* Right-looking: factor a diagonal tile, solve the tiles below it, take their products off the rest. */
int cholesky_in_place(gsl_matrix *A, int num_threads)
{
    const size_t n = A->size1, tiles = (n + TILE - 1) / TILE;
    if (A->size2 != n || n == 0) return GSL_EBADLEN;
    if (A->tda > INT_MAX) return GSL_ENOMEM;
    const int lda = (int)A->tda;
    for (size_t k = 0; k < tiles; k++) {
        const int width = tile_rows(n, k);
        double *pivot = gsl_matrix_ptr(A, k * TILE, k * TILE);
        int info = 0;
        dpotrf_("U", &width, pivot, &lda, &info, 1);        /* the row-major lower triangle */
        if (info) return GSL_EDOM;
        const size_t below = tiles - k - 1;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1) if (below > 1)
        for (size_t i = 0; i < below; i++)
            cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, tile_rows(n, k + 1 + i), width,
                        1.0, pivot, lda, gsl_matrix_ptr(A, (k + 1 + i) * TILE, k * TILE), lda);
        /* The longest rows of tiles first. */
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1) if (below > 1)
        for (size_t row = 0; row < below; row++) {
            const size_t i = tiles - 1 - row;
            const double *left = gsl_matrix_const_ptr(A, i * TILE, k * TILE);
            for (size_t j = k + 1; j < i; j++)
                cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tile_rows(n, i), tile_rows(n, j), width, -1.0,
                            left, lda, gsl_matrix_const_ptr(A, j * TILE, k * TILE), lda, 1.0,
                            gsl_matrix_ptr(A, i * TILE, j * TILE), lda);
            cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, tile_rows(n, i), width, -1.0, left, lda, 1.0,
                        gsl_matrix_ptr(A, i * TILE, i * TILE), lda);
        }
    }
    return GSL_SUCCESS;
}
