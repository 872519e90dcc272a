/* Rows of monomials in one number type: included with REAL, NAME, KERNEL and LIMIT. */

/* z of a polynomial map, divided by a power of two, and the factors to go with it. */
static long NAME(scaled_row)(const feature_map *map, const struct NAME(feature_rows) *rows, size_t i, REAL *z,
                             REAL *factor, int *z_shift)
{
    const REAL *x = rows->x + i * rows->ldx;
    double f[FEATURE_MAX_DEGREE + 1];
    const double z_max = rows->kernels->KERNEL(max_abs)(map->dim, x) * map->z_scale;
    const long log2_scale = polynomial_scale(map, rows->side, z_max, rows->log_scale != NULL, LIMIT, z_shift, f);
    for (size_t j = 0; j <= map->degree; j++) factor[j] = (REAL)f[j];
    const double scale = ldexp(map->z_scale, -*z_shift);
    for (size_t c = 0; c < map->dim; c++) z[c] = (REAL)(x[c] * scale);
    return log2_scale;
}

void NAME(feature_monomial_forward)(const struct feature_map *map, const struct NAME(feature_rows) *rows)
{
    REAL *z = rows->work, factor[FEATURE_MAX_DEGREE + 1];
    for (size_t i = 0; i < rows->count; i++) {
        int z_shift;
        const long log2_scale = NAME(scaled_row)(map, rows, i, z, factor, &z_shift);
        rows->kernels->KERNEL(monomial)(map, z, factor, rows->phi + i * rows->ldphi);
        if (rows->log_scale) rows->log_scale[i] = (double)log2_scale * 0.69314718055994530942;
    }
}

void NAME(feature_monomial_backward)(const struct feature_map *map, const struct NAME(feature_rows) *rows)
{
    const size_t d = map->dim, r = map->feat_dim;
    REAL *z = rows->work, *dz = z + d, *raw = dz + d, *draw = raw + r, factor[FEATURE_MAX_DEGREE + 1];
    for (size_t i = 0; i < rows->count; i++) {
        int z_shift;
        NAME(scaled_row)(map, rows, i, z, factor, &z_shift);
        rows->kernels->KERNEL(monomial_back)(map, z, factor, rows->dphi + i * rows->ldphi, raw, draw, dz);
        const double scale = ldexp(map->z_scale, -z_shift);
        REAL *dx = rows->dx + i * rows->lddx;
        for (size_t c = 0; c < d; c++) {
            const REAL g = (REAL)(dz[c] * scale);
            dx[c] = rows->accumulate ? dx[c] + g : g;
        }
    }
}
