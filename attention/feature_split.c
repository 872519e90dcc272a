/* split:G: the series of e^s, cut at s^{G+1} where values are weighed and at s^G, G even, where mass is: no
 * denominator of even degree has a zero. */
#include "attention/feature_monomials.h"

#include <gsl/gsl_errno.h>

static int order_status(size_t order)
{
    return order % 2 == 0 && order + 1 <= FEATURE_MAX_DEGREE ? GSL_SUCCESS : GSL_EDOM;
}

const struct feature_ops feature_split = {
    .name = "split", FEATURE_MONOMIAL_ROWS, .order_status = order_status, .above = 1, .series = feature_taylor_series,
};
