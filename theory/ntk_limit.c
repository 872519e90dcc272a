/* Infinite-prefix limits of the kernels in closed form (docs/derivations.md).
 *
 * m S_ir -> rho_i(w) = exp(<w,x_i> - sigma^2 ||x_i||^2 / 2), so the product of two
 * softmax weights tilts the Gaussian: E[rho_i rho_j g(w)] = e^{sigma^2 c} E[g(w + sigma^2 u)]
 * with u = x_i + x_j, c = <x_i,x_j>. With abar = E[a], mu_i -> abar sigma^2 x_i and
 *   A = sigma^2 (u - abar x_i),  B = sigma^2 (u - abar x_j)   (means of w - mu_i, w - mu_j)
 * the block of samples i, j is
 *   e^{sigma^2 c} [ (kappa + sigma^2 c) I + kappa (x_j B' + A x_i') + c A B' ],
 * kappa = 1 for the full kernel, 0 for the key kernel. */
#include "prefix_ntk/ntk.h"

#include <math.h>
#include <gsl/gsl_errno.h>

int ntk_limit(const gsl_matrix *X1, const gsl_matrix *X2, double sigma, enum prefix_signs law,
              enum ntk_kernel kernel, gsl_matrix *limit)
{
    const size_t n1 = X1->size1, n2 = X2->size1, d = X1->size2;
    if (X2->size2 != d || limit->size1 != n1 * d || limit->size2 != n2 * d) return GSL_EBADLEN;
    if (!(sigma > 0.0)) return GSL_EDOM;
    const double s2 = sigma * sigma, abar = law == PREFIX_SIGNS_POSITIVE ? 1.0 : 0.0;
    const double kappa = kernel == NTK_FULL ? 1.0 : 0.0;
    for (size_t i = 0; i < n1; i++) {
        const double *x = gsl_matrix_const_ptr(X1, i, 0);
        for (size_t j = 0; j < n2; j++) {
            const double *y = gsl_matrix_const_ptr(X2, j, 0);
            double c = 0.0;
            for (size_t k = 0; k < d; k++) c += x[k] * y[k];
            const double weight = exp(s2 * c), diagonal = kappa + s2 * c;
            for (size_t k = 0; k < d; k++) {
                double *row = gsl_matrix_ptr(limit, i * d + k, j * d);
                const double A = s2 * ((1.0 - abar) * x[k] + y[k]);
                for (size_t l = 0; l < d; l++) {
                    const double B = s2 * (x[l] + (1.0 - abar) * y[l]);
                    /* Grouped so that exchanging (i,k) and (j,l) gives the same bits. */
                    const double value = weight * ((k == l ? diagonal : 0.0) +
                                                   (kappa * (y[k] * B + A * x[l]) + c * (A * B)));
                    if (!isfinite(value)) return GSL_EDOM;
                    row[l] = value;
                }
            }
        }
    }
    return GSL_SUCCESS;
}
