/* Feature maps: their names, sizes, coefficients and random directions. */
#include "attention/feature_internal.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "common/random.h"

static const struct { const char *name; enum feature_family family; int takes_order; } families[] = {
    { "elu1", FEATURE_ELU1, 0 },
    { "taylor", FEATURE_TAYLOR, 1 },
    { "cheb", FEATURE_CHEB, 1 },
    { "minimax", FEATURE_MINIMAX, 1 },
    { "split", FEATURE_SPLIT, 1 },
    { "favor", FEATURE_FAVOR, 1 },
    { "favor-orth", FEATURE_FAVOR_ORTH, 1 },
    { "custom", FEATURE_CUSTOM, 1 },
};
enum { NUM_FAMILIES = sizeof families / sizeof *families };

static int is_favor(enum feature_family family)
{
    return family == FEATURE_FAVOR || family == FEATURE_FAVOR_ORTH;
}

static int order_status(enum feature_family family, size_t order)
{
    if (is_favor(family)) return order > 0 && order <= FEATURE_MAX_EXPLICIT ? GSL_SUCCESS : GSL_EDOM;
    if (family == FEATURE_SPLIT)
        return order % 2 == 0 && order + 1 <= FEATURE_MAX_DEGREE ? GSL_SUCCESS : GSL_EDOM;
    return order <= FEATURE_MAX_DEGREE ? GSL_SUCCESS : GSL_EDOM;
}

int feature_spec_parse(const char *text, struct feature_spec *spec)
{
    const char *colon = strchr(text, ':');
    const size_t len = colon ? (size_t)(colon - text) : strlen(text);
    for (size_t f = 0; f < NUM_FAMILIES; f++) {
        if (families[f].family == FEATURE_CUSTOM) continue;
        if (strlen(families[f].name) != len || strncmp(text, families[f].name, len)) continue;
        if (families[f].takes_order != (colon != NULL)) return GSL_EINVAL;
        size_t order = 0;
        if (colon) {
            const char *digits = colon + 1;
            if (!*digits || strspn(digits, "0123456789") != strlen(digits)) return GSL_EINVAL;
            for (; *digits; digits++) {
                order = 10 * order + (size_t)(*digits - '0');
                if (order > FEATURE_MAX_EXPLICIT) return GSL_EDOM;
            }
        }
        const int status = order_status(families[f].family, order);
        if (status) return status;
        *spec = (struct feature_spec){ families[f].family, order };
        return GSL_SUCCESS;
    }
    return GSL_EINVAL;
}

int feature_spec_text(const struct feature_spec *spec, char *text, size_t size)
{
    for (size_t f = 0; f < NUM_FAMILIES; f++) {
        if (families[f].family != spec->family) continue;
        return families[f].takes_order ? snprintf(text, size, "%s:%zu", families[f].name, spec->order)
                                       : snprintf(text, size, "%s", families[f].name);
    }
    return snprintf(text, size, "unknown");
}

int feature_needs_bound(const struct feature_spec *spec)
{
    return spec->family == FEATURE_CHEB || spec->family == FEATURE_MINIMAX;
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

/* ---- polynomial maps ------------------------------------------------------- */

/* Places of the monomials, and sqrt(j!/alpha!) of each. Degree j in the order of
 * combinations_with_replacement is, for i = 0, 1, ..: z_i times the monomials of
 * degree j - 1 whose least index is >= i, which are the last ones of that degree. */
static int list_monomials(struct feature_map *map)
{
    const size_t d = map->dim, r = map->feat_dim;
    map->first = malloc((map->degree + 1) * (d + 1) * sizeof *map->first);
    map->root64 = malloc(r * sizeof *map->root64);
    map->root32 = malloc(r * sizeof *map->root32);
    uint32_t *least = malloc(r * sizeof *least);              /* least index of a monomial ... */
    uint8_t *power = malloc(r * sizeof *power);               /* ... and its exponent */
    int status = GSL_ENOMEM;
    if (!map->first || !map->root64 || !map->root32 || !least || !power) goto done;
    for (size_t i = 0; i <= d; i++) map->first[i] = i < d ? 0 : 1;
    map->root64[0] = 1.0;
    least[0] = (uint32_t)d;
    power[0] = 0;
    size_t at = 1;
    for (size_t j = 1; j <= map->degree; j++) {
        size_t *first = map->first + j * (d + 1);
        const size_t *before = first - (d + 1);
        for (size_t i = 0; i < d; i++) {
            first[i] = at;
            /* Degree 0 has no least index: its one monomial is continued by every i. */
            for (size_t b = j == 1 ? 0 : before[i]; b < before[d]; b++, at++) {
                least[at] = (uint32_t)i;
                power[at] = (uint8_t)(least[b] == i ? power[b] + 1 : 1);
                /* j!/alpha! of the product from that of its factor; squares until the end. */
                map->root64[at] = map->root64[b] * (double)j / (double)power[at];
            }
        }
        first[d] = at;
    }
    for (size_t a = 0; a < r; a++) {
        map->root64[a] = sqrt(map->root64[a]);
        map->root32[a] = (float)map->root64[a];
    }
    status = GSL_SUCCESS;
done:
    free(least);
    free(power);
    return status;
}

/* The two sides share sqrt(b_j), b_j = max(|value_j|, |mass_j|); the key side
 * carries the sign, and the ratio where numerator and denominator differ. */
static void set_sides(struct feature_map *map)
{
    map->log2_peak = -HUGE_VAL;
    double log2_factorial = 0.0;
    for (size_t j = 0; j <= map->degree; j++) {
        const double b = fmax(fabs(map->value[j]), fabs(map->mass[j])), root = sqrt(b);
        map->side[FEATURE_QUERY][j] = root;
        map->side[FEATURE_VALUE][j] = b > 0.0 ? map->value[j] / b * root : 0.0;
        map->side[FEATURE_MASS][j] = b > 0.0 ? map->mass[j] / b * root : 0.0;
        if (j > 1) log2_factorial += log2((double)j);
        if (b > 0.0) map->log2_peak = fmax(map->log2_peak, 0.5 * (log2(b) + log2_factorial));
    }
    if (!(map->log2_peak > -HUGE_VAL)) map->log2_peak = 0.0;
}

static int make_polynomial(struct feature_map *map)
{
    int status = feature_count(map->dim, map->degree, &map->feat_dim);
    if (status) return status;
    set_sides(map);
    return map->feat_dim <= FEATURE_MAX_EXPLICIT ? list_monomials(map) : GSL_SUCCESS;
}

/* ---- random directions --------------------------------------------------------- */

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Rows in groups of dim are orthogonalised (twice: once leaves cond * 2^-53) and
 * given the lengths of independent Gaussian rows, so each row by itself is N(0, I). */
static int orthogonalise(struct feature_map *map, uint64_t seed)
{
    const size_t d = map->dim;
    double *other = malloc(d * sizeof *other);
    if (!other) return GSL_ENOMEM;
    for (size_t r = 0; r < map->feat_dim; r++) {
        double *row = map->omega + r * d;
        const double *group = map->omega + r / d * d * d;
        for (int pass = 0; pass < 2; pass++) {
            for (const double *base = group; base < row; base += d) {
                const double along = dot(row, base, d) / dot(base, base, d);
                for (size_t c = 0; c < d; c++) row[c] -= along * base[c];
            }
        }
        random_normal(seed, RANDOM_FEATURES, 1, r, other, d);
        const double stretch = sqrt(dot(other, other, d) / dot(row, row, d));
        for (size_t c = 0; c < d; c++) row[c] *= stretch;
    }
    free(other);
    return GSL_SUCCESS;
}

static int make_favor(struct feature_map *map, uint64_t seed, const double *omega)
{
    size_t size;
    map->feat_dim = map->spec.order;
    if (__builtin_mul_overflow(map->feat_dim, map->dim, &size) ||
        __builtin_mul_overflow(size, sizeof *map->omega, &size))
        return GSL_EOVRFLW;
    map->omega = malloc(size);
    if (!map->omega) return GSL_ENOMEM;
    if (omega) {
        for (size_t i = 0; i < map->feat_dim * map->dim; i++)
            if (!isfinite(map->omega[i] = omega[i])) return GSL_EDOM;
        return GSL_SUCCESS;
    }
    for (size_t r = 0; r < map->feat_dim; r++)
        random_normal(seed, RANDOM_FEATURES, 0, r, map->omega + r * map->dim, map->dim);
    return map->spec.family == FEATURE_FAVOR_ORTH ? orthogonalise(map, seed) : GSL_SUCCESS;
}

/* ---- maps ------------------------------------------------------------------------ */

static int map_new(const struct feature_spec *spec, size_t dim, feature_map **map)
{
    if (dim == 0 || dim > UINT32_MAX) return GSL_EINVAL;
    *map = calloc(1, sizeof **map);
    if (!*map) return GSL_ENOMEM;
    (*map)->spec = *spec;
    (*map)->dim = dim;
    (*map)->z_scale = pow((double)dim, -0.25);
    return GSL_SUCCESS;
}

int feature_map_alloc(const struct feature_spec *spec, size_t dim, double bound, uint64_t seed,
                      const double *omega, feature_map **out)
{
    *out = NULL;
    if (spec->family == FEATURE_CUSTOM || (omega && !is_favor(spec->family))) return GSL_EINVAL;
    int status = order_status(spec->family, spec->order);
    if (status) return status;
    feature_map *map;
    if ((status = map_new(spec, dim, &map))) return status;
    if (spec->family == FEATURE_ELU1) {
        map->feat_dim = dim;
    } else if (is_favor(spec->family)) {
        status = make_favor(map, seed, omega);
    } else {
        map->degree = spec->order + (spec->family == FEATURE_SPLIT ? 1 : 0);
        status = feature_polynomial(spec, bound, map->value, map->mass, NULL);
        if (!status) status = make_polynomial(map);
    }
    if (status) {
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

int feature_map_custom(size_t dim, size_t degree, const double *value, const double *mass, feature_map **out)
{
    *out = NULL;
    if (degree > FEATURE_MAX_DEGREE) return GSL_EDOM;
    for (size_t j = 0; j <= degree; j++)
        if (!isfinite(value[j]) || (mass && !isfinite(mass[j]))) return GSL_EDOM;
    const struct feature_spec spec = { FEATURE_CUSTOM, degree };
    feature_map *map;
    int status = map_new(&spec, dim, &map);
    if (status) return status;
    map->degree = degree;
    memcpy(map->value, value, (degree + 1) * sizeof *value);
    memcpy(map->mass, mass ? mass : value, (degree + 1) * sizeof *value);
    if ((status = make_polynomial(map))) {
        feature_map_free(map);
        return status;
    }
    *out = map;
    return GSL_SUCCESS;
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
    return map->spec.family == FEATURE_ELU1 || is_favor(map->spec.family);
}

int feature_is_polynomial(const feature_map *map)
{
    return !feature_is_positive(map);
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
    return feature_is_positive(map) || map->first != NULL;
}

const double *feature_omega(const feature_map *map)
{
    return map->omega;
}
