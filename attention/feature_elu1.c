/* elu1: phi = elu(z) + 1, number by number. */
#include "attention/feature_internal.h"

#include <gsl/gsl_errno.h>

static int order_status(size_t order)
{
    return order == 0 ? GSL_SUCCESS : GSL_EDOM;
}

static int count(const struct feature_spec *spec, size_t dim, size_t *feat_dim)
{
    (void)spec;
    *feat_dim = dim;
    return GSL_SUCCESS;
}

static int make(struct feature_map *map, const struct feature_source *source)
{
    (void)source;
    return count(&map->spec, map->dim, &map->feat_dim);
}

static size_t block(const struct feature_map *map)
{
    (void)map;
    return 16;
}

static size_t scratch(const struct feature_map *map, size_t rows)
{
    (void)map;
    (void)rows;
    return 0;
}

static void forward_f32(const struct feature_map *map, const struct feature_rows_f32 *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        rows->kernels->elu1_32(map->dim, (float)map->z_scale, rows->x + i * rows->ldx, rows->phi + i * rows->ldphi);
        if (rows->log_scale) rows->log_scale[i] = 0.0;
    }
}

static void backward_f32(const struct feature_map *map, const struct feature_rows_f32 *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        rows->kernels->elu1_back_32(map->dim, (float)map->z_scale, rows->x + i * rows->ldx,
                                   rows->dphi + i * rows->ldphi, rows->dx + i * rows->lddx, rows->accumulate);
}

static void forward_f64(const struct feature_map *map, const struct feature_rows_f64 *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        rows->kernels->elu1_64(map->dim, (double)map->z_scale, rows->x + i * rows->ldx, rows->phi + i * rows->ldphi);
        if (rows->log_scale) rows->log_scale[i] = 0.0;
    }
}

static void backward_f64(const struct feature_map *map, const struct feature_rows_f64 *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        rows->kernels->elu1_back_64(map->dim, (double)map->z_scale, rows->x + i * rows->ldx,
                                   rows->dphi + i * rows->ldphi, rows->dx + i * rows->lddx, rows->accumulate);
}

const struct feature_ops feature_elu1 = {
    .name = "elu1", .positive = true, .order_status = order_status, .count = count, .make = make,
    .block = block, .scratch = scratch, .forward_f32 = forward_f32, .forward_f64 = forward_f64,
    .backward_f32 = backward_f32, .backward_f64 = backward_f64,
};
