/* Inside of a feature map, and the row kernels it is computed with. */
#ifndef ATTENTION_FEATURE_INTERNAL_H
#define ATTENTION_FEATURE_INTERNAL_H
#include <stdbool.h>

#include "prefix_ntk/feature.h"

struct feature_ops;

struct feature_map {
    struct feature_spec spec;
    const struct feature_ops *ops;      /* of its family */
    size_t dim, feat_dim;
    double z_scale;                     /* z = z_scale x */

    /* Polynomial maps. phi_alpha = root[alpha] side[.][j] z^alpha, j = |alpha|. */
    size_t degree;
    double value[FEATURE_MAX_DEGREE + 1], mass[FEATURE_MAX_DEGREE + 1];   /* of s^j */
    double side[3][FEATURE_MAX_DEGREE + 1];
    double log2_peak;                   /* of root[alpha] |side[.][j]|, the largest */
    size_t *first;                      /* (degree + 1, dim + 1): see feature_first; NULL: not explicit */
    double *root64;                     /* (feat_dim): sqrt(j!/alpha!) */
    float *root32;

    double *omega;                      /* favor: (feat_dim, dim) */
};

/* Where, among all features, the monomials of degree j whose least index is >= i
 * begin. They are contiguous up to the end of the degree: first[j][dim]. */
static inline size_t feature_first(const struct feature_map *map, size_t j, size_t i)
{
    return map->first[j * (map->dim + 1) + i];
}

/* One kernel set per instruction set; the suffix is the number type. Rows are
 * contiguous; `factor` holds one number per degree, by which its monomials are
 * multiplied together with root. */
struct feature_kernels {
    void (*elu1_32)(size_t n, float z_scale, const float *x, float *phi);
    void (*elu1_64)(size_t n, double z_scale, const double *x, double *phi);
    /* dx = or += dphi elu'(z) z_scale */
    void (*elu1_back_32)(size_t n, float z_scale, const float *x, const float *dphi, float *dx, int accumulate);
    void (*elu1_back_64)(size_t n, double z_scale, const double *x, const double *dphi, double *dx, int accumulate);
    /* phi (feat_dim) from z (dim) */
    void (*monomial_32)(const struct feature_map *map, const float *z, const float *factor, float *phi);
    void (*monomial_64)(const struct feature_map *map, const double *z, const double *factor, double *phi);
    /* dz (dim) from dphi; raw, draw: scratch (feat_dim) each */
    void (*monomial_back_32)(const struct feature_map *map, const float *z, const float *factor,
                             const float *dphi, float *raw, float *draw, float *dz);
    void (*monomial_back_64)(const struct feature_map *map, const double *z, const double *factor,
                             const double *dphi, double *raw, double *draw, double *dz);
    /* out[i] = e^{t[i] - shift} */
    void (*exp_32)(size_t n, const double *t, double shift, float *out);
    void (*exp_64)(size_t n, const double *t, double shift, double *out);
    /* w[i] *= dphi[i]; the sum of the products */
    double (*weigh_32)(size_t n, const float *dphi, double *w);
    double (*weigh_64)(size_t n, const double *dphi, double *w);
    double (*max_64)(size_t n, const double *x);              /* n >= 1 */
    /* largest |x[i]| */
    double (*max_abs_32)(size_t n, const float *x);
    double (*max_abs_64)(size_t n, const double *x);
    /* 1 when no number is Inf or NaN */
    int (*finite_32)(size_t n, const float *x);
    int (*finite_64)(size_t n, const double *x);
};

const struct feature_kernels *feature_kernels_get(void);

/* Rows of a call, a block of them or all: what feature.h says of each, in one number type. */
#define FEATURE_ROWS(name, real)                                                                               \
    struct name {                                                                                              \
        const struct feature_kernels *kernels;                                                                 \
        enum feature_side side;                                                                                \
        size_t count, ldx, ldphi, lddx;                                                                        \
        const real *x, *dphi;                                                                                  \
        real *phi, *dx;             /* forward writes phi; backward reads dphi, of stride ldphi, writes dx */  \
        double *log_scale;          /* written by forward, read by backward; or NULL */                        \
        int accumulate;                                                                                        \
        void *work;                                                                                            \
    }
FEATURE_ROWS(feature_rows_f32, float);
FEATURE_ROWS(feature_rows_f64, double);
#undef FEATURE_ROWS

/* What a map is made from beside its spec: see feature_map_alloc. */
struct feature_source { double bound; uint64_t seed; const double *omega; };

/* c[0 .. degree] of a polynomial in s for e^s, on [-bound, bound] where the family needs one. *promised, HUGE_VAL at
 * first: the largest relative error the exact coefficients have there, for series that know it. */
typedef int feature_series(size_t degree, double bound, long double *c, double *promised);

/* A family of maps: one file and one row of `families` in feature_map.c. */
struct feature_ops {
    const char *name;
    bool takes_order;                   /* is written name:order */
    bool needs_bound, takes_omega;      /* of feature_map_alloc's arguments */
    bool positive;                      /* all features are >= 0 */
    bool polynomial;                    /* <phi(q), phi(k)> is a polynomial of the score ... */
    size_t above;                       /* ... of degree order + above in the numerator, order in the denominator, */
    feature_series *series;             /* ... with these coefficients; NULL: the caller's (custom) */
    int (*order_status)(size_t order);                                               /* GSL_EDOM: refused */
    int (*count)(const struct feature_spec *spec, size_t dim, size_t *feat_dim);     /* r */
    /* All of a map but its spec, ops, dim and z_scale. */
    int (*make)(struct feature_map *map, const struct feature_source *source);
    /* Rows worked on together, a function of the map alone, so that neither the thread that takes them nor their
     * number changes a bit; and the doubles of scratch they need. */
    size_t (*block)(const struct feature_map *map);
    size_t (*scratch)(const struct feature_map *map, size_t rows);
    void (*forward_f32)(const struct feature_map *map, const struct feature_rows_f32 *rows);
    void (*forward_f64)(const struct feature_map *map, const struct feature_rows_f64 *rows);
    void (*backward_f32)(const struct feature_map *map, const struct feature_rows_f32 *rows);
    void (*backward_f64)(const struct feature_map *map, const struct feature_rows_f64 *rows);
};

extern const struct feature_ops feature_elu1, feature_taylor, feature_cheb, feature_minimax, feature_split,
    feature_favor, feature_favor_orth, feature_custom;

/* The family of a spec; NULL when there is none. */
const struct feature_ops *feature_ops_of(const struct feature_spec *spec);

/* An empty map of the spec's family. GSL_EINVAL dim = 0 or above 2^32 - 1; GSL_ENOMEM. */
int feature_map_new(const struct feature_spec *spec, size_t dim, struct feature_map **map);

/* The same number for maps that are equal, in any process. */
uint64_t feature_map_identity(const struct feature_map *map);

/* Whether the features are elu(z) + 1, which the attention kernels make in passing. */
static inline int feature_is_elu1(const struct feature_map *map) { return map->spec.family == FEATURE_ELU1; }

/* Whether the VALUE and MASS sides are different features. */
int feature_sides_differ(const struct feature_map *map);

#endif
