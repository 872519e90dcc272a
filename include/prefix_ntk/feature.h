/* Feature maps phi with <phi(q), phi(k)> standing in for exp(s), s = <q,k>/sqrt(dim).
 *
 *   elu1        elu(z) + 1                                             feat_dim = dim
 *   taylor:G    sum_{j<=G} s^j/j!                                      C(dim+G, G)
 *   cheb:G      Chebyshev series of e^s on [-B,B], truncated at G      C(dim+G, G)
 *   minimax:G   polynomial of least relative error on [-B,B]           C(dim+G, G)
 *   split:G     Taylor, degree G+1 in the numerator (values), G in the
 *               denominator (mass), G even: never a non-positive mass  C(dim+G+1, G+1)
 *   favor:R     e^{<omega_r,z> - ||z||^2/2}/sqrt(R), omega_r ~ N(0,I)  R
 *   favor-orth:R  the same, omega orthogonal within groups of dim      R
 *
 * with z = x/dim^{1/4} (arXiv:2406.14036 section on NTK-Attention; FAVOR+:
 * arXiv:2009.14794). A polynomial map takes the monomials z^alpha by degree, then
 * in the order of Python's combinations_with_replacement, scaled by
 * sqrt(|c_j| j!/alpha!), c_j the coefficient of s^j; the sign of c_j stands on the
 * key side, so the two sides have different features:
 *
 *   FEATURE_QUERY   phi(q)
 *   FEATURE_VALUE   phi(k) as it weighs values (numerator):   Z += phi v^T
 *   FEATURE_MASS    phi(k) as it weighs mass (denominator):   k += phi
 *
 * VALUE and MASS differ for split:G only (MASS is zero on the top degree).
 *
 * Buffers are row-major with a row stride (>= the row's length, in numbers). The
 * library neither prints nor exits; functions return GSL codes (gsl_errno.h) and
 * are thread-safe (a map is read-only once made). Results do not depend on
 * num_threads. Inputs must be finite; they are used as given, never normalised. */
#ifndef PREFIX_NTK_FEATURE_H
#define PREFIX_NTK_FEATURE_H
#include <stddef.h>
#include <stdint.h>
#include "prefix_ntk/export.h"

#ifdef __cplusplus
extern "C" {
#endif

enum feature_family {
    FEATURE_ELU1, FEATURE_TAYLOR, FEATURE_CHEB, FEATURE_MINIMAX, FEATURE_SPLIT,
    FEATURE_FAVOR, FEATURE_FAVOR_ORTH, FEATURE_CUSTOM
};

enum feature_side { FEATURE_QUERY, FEATURE_VALUE, FEATURE_MASS };

enum {
    FEATURE_MAX_DEGREE = 64,            /* of a polynomial */
    FEATURE_MAX_EXPLICIT = 1 << 24      /* monomials a map may list; beyond: on scores only */
};

struct feature_spec {
    enum feature_family family;
    size_t order;                       /* G or R; 0 for elu1 */
};

typedef struct feature_map feature_map;

/* ---- making a map ------------------------------------------------------- */

/* "elu1", "taylor:4", "favor-orth:128", ... GSL_EINVAL: unknown name, missing or
 * superfluous number, anything but decimal digits after the colon; GSL_EDOM: a
 * number the family refuses (odd G for split, degree above FEATURE_MAX_DEGREE,
 * R = 0 or above FEATURE_MAX_EXPLICIT). *spec is untouched on failure. */
PREFIX_NTK_API int feature_spec_parse(const char *text, struct feature_spec *spec);

/* The text of a spec into text[size]; the length it needs (as snprintf). */
PREFIX_NTK_API int feature_spec_text(const struct feature_spec *spec, char *text, size_t size);

/* Whether feature_map_alloc needs a bound B (cheb, minimax). */
PREFIX_NTK_API int feature_needs_bound(const struct feature_spec *spec);

/* Whether feature_map_alloc takes directions for it (favor). */
PREFIX_NTK_API int feature_takes_omega(const struct feature_spec *spec);

/* feature_is_polynomial of its maps. */
PREFIX_NTK_API int feature_spec_is_polynomial(const struct feature_spec *spec);

/* Degrees in the score of numerator and denominator. GSL_EINVAL when its maps are not polynomial. */
PREFIX_NTK_API int feature_degrees(const struct feature_spec *spec, size_t *value, size_t *mass);

/* feature_dim of its maps for head dimension dim. GSL_EINVAL no such family; GSL_EDOM an order it refuses;
 * GSL_EOVRFLW. */
PREFIX_NTK_API int feature_spec_dim(const struct feature_spec *spec, size_t dim, size_t *feat_dim);

/* The line that explains a non-zero status of the two functions below and of
 * feature_spec_parse; a constant. */
PREFIX_NTK_API const char *feature_strerror(int status);

/* A map for head dimension dim. bound: B of cheb and minimax, finite and >= 0 (0 is
 * the Taylor limit), ignored by the others. seed: stream of favor's omega, row r is
 * a function of (seed, r, dim) alone. omega: NULL, or (order, dim) row-major to use
 * in place of drawn ones (copied; favor families only).
 *
 * GSL_EINVAL dim = 0, bad bound, not a favor map but omega given; GSL_EDOM omega not
 * finite; GSL_EOVRFLW feat_dim overflows size_t, or e^B does (B > 600); GSL_EMAXITER
 * no best polynomial in double precision at this degree and bound; GSL_ENOMEM. */
PREFIX_NTK_API int feature_map_alloc(const struct feature_spec *spec, size_t dim, double bound,
                                     uint64_t seed, const double *omega, feature_map **map);

/* The same from text: feature_spec_parse, then feature_map_alloc. */
PREFIX_NTK_API int feature_parse(const char *text, size_t dim, double bound, uint64_t seed,
                                 const double *omega, feature_map **map);

/* A polynomial map from coefficient arrays [degree + 1] of the numerator and the
 * denominator (mass NULL: the same); FEATURE_CUSTOM. */
PREFIX_NTK_API int feature_map_custom(size_t dim, size_t degree, const double *value,
                                      const double *mass, feature_map **map);

PREFIX_NTK_API void feature_map_free(feature_map *map);      /* accepts NULL */

/* ---- what a map is --------------------------------------------------------- */

PREFIX_NTK_API size_t feature_dim(const feature_map *map);   /* r, whether listed or not */
PREFIX_NTK_API size_t feature_head_dim(const feature_map *map);
PREFIX_NTK_API struct feature_spec feature_map_spec(const feature_map *map);

/* Whether two maps are the same function: family, sizes, and every coefficient or direction, bit by
 * bit, however and wherever each was made. */
PREFIX_NTK_API int feature_map_equal(const feature_map *a, const feature_map *b);

/* Whether phi can be written out: false for a polynomial map with
 * r > FEATURE_MAX_EXPLICIT, which only feature_score serves. */
PREFIX_NTK_API int feature_is_explicit(const feature_map *map);

/* Whether <phi(q), phi(k)> is a polynomial of the score (every family but elu1 and
 * favor), so that feature_score applies. */
PREFIX_NTK_API int feature_is_polynomial(const feature_map *map);

/* Whether all features are >= 0 (elu1, favor): no summary of them with k >= 0 can
 * give a negative mass. */
PREFIX_NTK_API int feature_is_positive(const feature_map *map);

/* C(dim + degree, degree). GSL_EOVRFLW beyond size_t. */
PREFIX_NTK_API int feature_count(size_t dim, size_t degree, size_t *count);

/* omega of a favor map, (r, dim), owned by the map; NULL for the others. */
PREFIX_NTK_API const double *feature_omega(const feature_map *map);

/* ---- the polynomial behind a map ------------------------------------------- */

/* Coefficients of s^j. value and mass hold order + 1 numbers (split: order + 2);
 * mass may be NULL. *rel_error (may be NULL): largest |p(s)/e^s - 1| of the
 * numerator on [-bound, bound], measured on the coefficients as returned. Codes of
 * feature_map_alloc; GSL_EINVAL for elu1 and favor. */
PREFIX_NTK_API int feature_polynomial(const struct feature_spec *spec, double bound,
                                      double *value, double *mass, double *rel_error);

/* p(s) of numerator and denominator for n scores (mass may be NULL); no features
 * needed: the way for large r. GSL_EINVAL when the map is not polynomial. */
PREFIX_NTK_API int feature_score(const feature_map *map, size_t n, const double *score,
                                 double *value, double *mass);

/* dp/ds of both, likewise. */
PREFIX_NTK_API int feature_score_slope(const feature_map *map, size_t n, const double *score,
                                       double *value, double *mass);

/* ---- features ----------------------------------------------------------------- */

/* Bytes of scratch the functions below need, for any n; num_threads below 1 counts as 1. */
PREFIX_NTK_API size_t feature_workspace(const feature_map *map, int num_threads);

/* phi of n rows.
 *
 * x          in   (n, dim), row stride ldx
 * phi        out  (n, r), row stride ldphi; may not alias x
 * log_scale  out  n numbers, or NULL. Given, the true features of row i are
 *                 e^{log_scale[i]} phi[i] and nothing overflows whatever x is (the
 *                 scale is 0 for elu1, and for polynomial maps until the top
 *                 monomials could leave the range); NULL gives the true ones.
 * work       feature_workspace bytes, or NULL to allocate
 *
 * GSL_EOVRFLW a feature overflows (log_scale NULL) or is not a number; GSL_EDOM x not finite;
 * GSL_EBADLEN a stride too short; GSL_EUNSUP the map is not explicit; GSL_ENOMEM.
 * float32: float arithmetic, relative error of each feature a few 2^-24 (monomials:
 * times degree; favor: exponents in double). float64: a few 2^-53, likewise. */
PREFIX_NTK_API int feature_forward_f32(const feature_map *map, enum feature_side side, size_t n,
                                       const float *x, size_t ldx, float *phi, size_t ldphi,
                                       double *log_scale, int num_threads, void *work);
PREFIX_NTK_API int feature_forward_f64(const feature_map *map, enum feature_side side, size_t n,
                                       const double *x, size_t ldx, double *phi, size_t ldphi,
                                       double *log_scale, int num_threads, void *work);

/* dx = J_phi(x)^T dphi (accumulate 0) or dx += the same (1), row by row.
 *
 * x          in   as given to forward; phi is recomputed
 * dphi       in   (n, r), row stride lddphi: gradient in the features *as forward
 *                 wrote them*, the scale held constant
 * log_scale  in   n numbers forward wrote, or NULL if forward had NULL
 * dx         out  (n, dim), row stride lddx; may not alias the inputs
 *
 * Codes as above. */
PREFIX_NTK_API int feature_backward_f32(const feature_map *map, enum feature_side side, size_t n,
                                        const float *x, size_t ldx, const float *dphi,
                                        size_t lddphi, const double *log_scale, float *dx,
                                        size_t lddx, int accumulate, int num_threads, void *work);
PREFIX_NTK_API int feature_backward_f64(const feature_map *map, enum feature_side side, size_t n,
                                        const double *x, size_t ldx, const double *dphi,
                                        size_t lddphi, const double *log_scale, double *dx,
                                        size_t lddx, int accumulate, int num_threads, void *work);

#ifdef __cplusplus
}
#endif
#endif
