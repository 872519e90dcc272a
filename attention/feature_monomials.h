/* What the polynomial families share: phi of monomials, phi_alpha = root[alpha] side[.][j] z^alpha, j = |alpha|. A
 * family is its series of e^s. */
#ifndef ATTENTION_FEATURE_MONOMIALS_H
#define ATTENTION_FEATURE_MONOMIALS_H
#include "attention/feature_internal.h"

/* The part of a row of ops that they share; with FEATURE_MONOMIALS any degree up to FEATURE_MAX_DEGREE. */
#define FEATURE_MONOMIAL_ROWS                                                                                   \
    .takes_order = true, .polynomial = true, .count = feature_monomial_count, .make = feature_monomial_make,   \
    .block = feature_monomial_block, .scratch = feature_monomial_scratch,                                      \
    .forward_f32 = feature_monomial_forward_f32, .forward_f64 = feature_monomial_forward_f64,                  \
    .backward_f32 = feature_monomial_backward_f32, .backward_f64 = feature_monomial_backward_f64
#define FEATURE_MONOMIALS FEATURE_MONOMIAL_ROWS, .order_status = feature_monomial_order

int feature_monomial_order(size_t order);
int feature_monomial_count(const struct feature_spec *spec, size_t dim, size_t *feat_dim);
int feature_monomial_make(struct feature_map *map, const struct feature_source *source);
/* The same for coefficients that stand in map->value and map->mass. */
int feature_monomial_list(struct feature_map *map);
size_t feature_monomial_block(const struct feature_map *map);
size_t feature_monomial_scratch(const struct feature_map *map, size_t rows);
void feature_monomial_forward_f32(const struct feature_map *map, const struct feature_rows_f32 *rows);
void feature_monomial_forward_f64(const struct feature_map *map, const struct feature_rows_f64 *rows);
void feature_monomial_backward_f32(const struct feature_map *map, const struct feature_rows_f32 *rows);
void feature_monomial_backward_f64(const struct feature_map *map, const struct feature_rows_f64 *rows);

/* Series of e^s that more than one family uses, see struct feature_ops. */
feature_series feature_taylor_series, feature_cheb_series;

#endif
