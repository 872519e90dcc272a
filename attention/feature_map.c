/* Feature maps: the table of families, and what is asked of a map whatever its family. */
#include "attention/feature_internal.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"

static const struct feature_ops *const families[] = {
    [FEATURE_ELU1] = &feature_elu1,
    [FEATURE_TAYLOR] = &feature_taylor,
    [FEATURE_CHEB] = &feature_cheb,
    [FEATURE_MINIMAX] = &feature_minimax,
    [FEATURE_SPLIT] = &feature_split,
    [FEATURE_FAVOR] = &feature_favor,
    [FEATURE_FAVOR_ORTH] = &feature_favor_orth,
    [FEATURE_CUSTOM] = &feature_custom,
};
enum { NUM_FAMILIES = sizeof families / sizeof *families };

const struct feature_ops *feature_ops_of(const struct feature_spec *spec)
{
    return (size_t)spec->family < NUM_FAMILIES ? families[spec->family] : NULL;
}

/* Whether a spec alone makes a map: not of custom, which wants coefficients. */
static bool is_named(const struct feature_ops *ops)
{
    return !ops->polynomial || ops->series;
}

int feature_spec_parse(const char *text, struct feature_spec *spec)
{
    const char *colon = strchr(text, ':');
    const size_t len = colon ? (size_t)(colon - text) : strlen(text);
    for (size_t f = 0; f < NUM_FAMILIES; f++) {
        const struct feature_ops *ops = families[f];
        if (!is_named(ops) || strlen(ops->name) != len || strncmp(text, ops->name, len)) continue;
        if (ops->takes_order != (colon != NULL)) return GSL_EINVAL;
        size_t order = 0;
        if (colon) {
            const char *digits = colon + 1;
            if (!*digits || strspn(digits, "0123456789") != strlen(digits)) return GSL_EINVAL;
            for (; *digits; digits++) {
                order = 10 * order + (size_t)(*digits - '0');
                if (order > FEATURE_MAX_EXPLICIT) return GSL_EDOM;
            }
        }
        const int status = ops->order_status(order);
        if (status) return status;
        *spec = (struct feature_spec){ (enum feature_family)f, order };
        return GSL_SUCCESS;
    }
    return GSL_EINVAL;
}

int feature_spec_text(const struct feature_spec *spec, char *text, size_t size)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    if (!ops) return snprintf(text, size, "unknown");
    return ops->takes_order ? snprintf(text, size, "%s:%zu", ops->name, spec->order)
                            : snprintf(text, size, "%s", ops->name);
}

int feature_needs_bound(const struct feature_spec *spec)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    return ops && ops->needs_bound;
}

int feature_takes_omega(const struct feature_spec *spec)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    return ops && ops->takes_omega;
}

int feature_spec_is_polynomial(const struct feature_spec *spec)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    return ops && ops->polynomial;
}

int feature_spec_dim(const struct feature_spec *spec, size_t dim, size_t *feat_dim)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    if (!ops) return GSL_EINVAL;
    const int status = ops->order_status(spec->order);
    return status ? status : ops->count(spec, dim, feat_dim);
}

const char *feature_strerror(int status)
{
    switch (status) {
    case GSL_SUCCESS: return "no error";
    case GSL_EINVAL:
        return "not a feature map: expected elu1, taylor:G, cheb:G, minimax:G, split:G, favor:R or favor-orth:R";
    case GSL_EDOM:
        return "a number the feature map refuses (degrees up to 64, split:G even, favor:R from 1 to 2^24)";
    case GSL_EOVRFLW: return "the bound is above 600, or the number of features overflows";
    case GSL_EMAXITER: return "no polynomial of least relative error in double precision at this degree and bound";
    case GSL_ENOMEM: return "not enough memory for the feature map";
    default: return gsl_strerror(status);
    }
}

int feature_count(size_t dim, size_t degree, size_t *count)
{
    /* C(dim + j, j) = C(dim + j - 1, j - 1) (dim + j) / j, exact at every step. */
    size_t c = 1;
    for (size_t j = 1; j <= degree; j++) {
        size_t factor;
        unsigned __int128 product;
        if (__builtin_add_overflow(dim, j, &factor)) return GSL_EOVRFLW;
        product = (unsigned __int128)c * factor / j;
        if (product > SIZE_MAX) return GSL_EOVRFLW;
        c = (size_t)product;
    }
    *count = c;
    return GSL_SUCCESS;
}

int feature_map_new(const struct feature_spec *spec, size_t dim, feature_map **map)
{
    if (dim == 0 || dim > UINT32_MAX) return GSL_EINVAL;
    *map = calloc(1, sizeof **map);
    if (!*map) return GSL_ENOMEM;
    (*map)->spec = *spec;
    (*map)->ops = feature_ops_of(spec);
    (*map)->dim = dim;
    (*map)->z_scale = pow((double)dim, -0.25);
    return GSL_SUCCESS;
}

int feature_map_alloc(const struct feature_spec *spec, size_t dim, double bound, uint64_t seed,
                      const double *omega, feature_map **out)
{
    const struct feature_ops *ops = feature_ops_of(spec);
    *out = NULL;
    if (!ops || !is_named(ops) || (omega && !ops->takes_omega)) return GSL_EINVAL;
    int status = ops->order_status(spec->order);
    if (status) return status;
    feature_map *map;
    if ((status = feature_map_new(spec, dim, &map))) return status;
    const struct feature_source source = { .bound = bound, .seed = seed, .omega = omega };
    if ((status = ops->make(map, &source))) {
        feature_map_free(map);
        return status;
    }
    *out = map;
    return GSL_SUCCESS;
}

int feature_parse(const char *text, size_t dim, double bound, uint64_t seed, const double *omega,
                  feature_map **map)
{
    struct feature_spec spec;
    *map = NULL;
    const int status = feature_spec_parse(text, &spec);
    return status ? status : feature_map_alloc(&spec, dim, bound, seed, omega, map);
}

void feature_map_free(feature_map *map)
{
    if (!map) return;
    free(map->first);
    free(map->root64);
    free(map->root32);
    free(map->omega);
    free(map);
}

size_t feature_dim(const feature_map *map)
{
    return map->feat_dim;
}

size_t feature_head_dim(const feature_map *map)
{
    return map->dim;
}

struct feature_spec feature_map_spec(const feature_map *map)
{
    return map->spec;
}

/* Coefficients, or directions: the numbers of a map beside its spec and sizes. */
static size_t omega_bytes(const feature_map *map)
{
    return map->omega ? map->feat_dim * map->dim * sizeof *map->omega : 0;
}

int feature_map_equal(const feature_map *a, const feature_map *b)
{
    if (a == b) return 1;
    return a->spec.family == b->spec.family && a->spec.order == b->spec.order && a->dim == b->dim &&
           a->feat_dim == b->feat_dim && a->degree == b->degree && !memcmp(a->value, b->value, sizeof a->value) &&
           !memcmp(a->mass, b->mass, sizeof a->mass) && !a->omega == !b->omega &&
           (!a->omega || !memcmp(a->omega, b->omega, omega_bytes(a)));
}

uint64_t feature_map_identity(const feature_map *map)
{
    const uint64_t sizes[] = { (uint64_t)map->spec.family, map->spec.order, map->dim, map->feat_dim, map->degree };
    uint64_t hash = hash_bytes(HASH_START, sizes, sizeof sizes);
    hash = hash_bytes(hash, map->value, sizeof map->value);
    hash = hash_bytes(hash, map->mass, sizeof map->mass);
    return map->omega ? hash_bytes(hash, map->omega, omega_bytes(map)) : hash;
}

int feature_is_positive(const feature_map *map)
{
    return map->ops->positive;
}

int feature_is_polynomial(const feature_map *map)
{
    return map->ops->polynomial;
}

int feature_sides_differ(const feature_map *map)
{
    if (!feature_is_polynomial(map)) return 0;
    for (size_t j = 0; j <= map->degree; j++)
        if (map->side[FEATURE_VALUE][j] != map->side[FEATURE_MASS][j]) return 1;
    return 0;
}

int feature_is_explicit(const feature_map *map)
{
    return !feature_is_polynomial(map) || map->first != NULL;
}

const double *feature_omega(const feature_map *map)
{
    return map->omega;
}
