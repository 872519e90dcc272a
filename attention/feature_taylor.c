/* taylor:G: the series of e^s, cut at s^G. */
#include "attention/feature_monomials.h"

#include <gsl/gsl_errno.h>

int feature_taylor_series(size_t degree, double bound, long double *c, double *promised)
{
    (void)bound;
    (void)promised;
    c[0] = 1.0L;
    for (size_t j = 1; j <= degree; j++) c[j] = c[j - 1] / (long double)j;
    return GSL_SUCCESS;
}

const struct feature_ops feature_taylor = { .name = "taylor", FEATURE_MONOMIALS, .series = feature_taylor_series };
