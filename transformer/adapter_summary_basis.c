/* The basis in which the features of a summary are white. GSL's linear algebra stands apart from cblas.h, whose
 * enumerations its headers declare again. */
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>
#include <math.h>

#include "transformer/adapter_summary.h"

/* With M = L L^T the features L^-1 phi are white: phi Z = (L^-1 phi)^T (L^T Z), so Z = L^-T Z'. A ridge of a thousandth
 * of the mean eigenvalue bounds directions the batch hardly has. */
int summary_set_basis(struct adapter *a, size_t layer, const struct head_scales *scales)
{
    static const double ridge = 1e-3;
    const struct summary *s = summary_at(a, layer);
    const size_t r = ((const struct summaries *)a->own)->feat_dim;
    gsl_matrix *M = gsl_matrix_alloc(r, r);
    int status = M ? GSL_SUCCESS : GSL_ENOMEM;
    for (size_t h = 0; h < a->heads && !status; h++) {
        const double *moment = scales->moment + h * r * r, unit = s->unit ? s->unit[h] : 1.0;
        double trace = 0.0;
        for (size_t i = 0; i < r; i++) trace += moment[i * r + i];
        if (!(trace > 0.0) || !(scales->size[h] > 0.0)) continue;      /* nothing to measure: the identity stays */
        for (size_t i = 0; i < r * r; i++)
            M->data[i / r * M->tda + i % r] = moment[i] / trace + (i % (r + 1) ? 0.0 : ridge / (double)r);
        status = gsl_linalg_cholesky_decomp1(M);
        if (!status) status = gsl_linalg_tri_invert(CblasLower, CblasNonUnit, M);
        const double factor = scales->size[h] / (sqrt(trace) * unit);
        for (size_t i = 0; i < r && !status; i++)
            for (size_t j = 0; j < r; j++)
                s->basis[(h * r + i) * r + j] = j >= i ? (float)(factor * gsl_matrix_get(M, j, i)) : 0.0f;
    }
    gsl_matrix_free(M);
    return status;
}
