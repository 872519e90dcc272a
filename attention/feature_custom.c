/* Polynomial maps from coefficients of the caller's. They have no name to be parsed. */
#include "attention/feature_monomials.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <string.h>

int feature_map_custom(size_t dim, size_t degree, const double *value, const double *mass, feature_map **out)
{
    *out = NULL;
    if (degree > FEATURE_MAX_DEGREE) return GSL_EDOM;
    for (size_t j = 0; j <= degree; j++)
        if (!isfinite(value[j]) || (mass && !isfinite(mass[j]))) return GSL_EDOM;
    const struct feature_spec spec = { FEATURE_CUSTOM, degree };
    feature_map *map;
    int status = feature_map_new(&spec, dim, &map);
    if (status) return status;
    map->degree = degree;
    memcpy(map->value, value, (degree + 1) * sizeof *value);
    memcpy(map->mass, mass ? mass : value, (degree + 1) * sizeof *value);
    if ((status = feature_monomial_list(map))) {
        feature_map_free(map);
        return status;
    }
    *out = map;
    return GSL_SUCCESS;
}

const struct feature_ops feature_custom = { .name = "custom", FEATURE_MONOMIALS };
