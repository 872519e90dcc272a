/* Rows of favor in one number type: included with REAL, NAME and KERNEL. */

/* z of a block of rows and their exponents <omega_r, z>. */
static void NAME(exponents)(const struct feature_map *map, const struct NAME(feature_rows) *rows, double *z, double *t)
{
    const size_t d = map->dim, r = map->feat_dim;
    for (size_t i = 0; i < rows->count; i++)
        for (size_t c = 0; c < d; c++) z[i * d + c] = (double)rows->x[i * rows->ldx + c] * map->z_scale;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows->count, (blasint)r, (blasint)d, 1.0,
                z, (blasint)d, map->omega, (blasint)d, 0.0, t, (blasint)r);
}

static void NAME(forward)(const struct feature_map *map, const struct NAME(feature_rows) *rows)
{
    const size_t d = map->dim, r = map->feat_dim;
    double *z = rows->work, *t = z + rows->count * d;
    NAME(exponents)(map, rows, z, t);
    for (size_t i = 0; i < rows->count; i++) {
        const double offset = favor_offset(map, z + i * d);
        const double most = rows->log_scale ? rows->kernels->max_64(r, t + i * r) : offset;
        rows->kernels->KERNEL(exp)(r, t + i * r, most, rows->phi + i * rows->ldphi);
        if (rows->log_scale) rows->log_scale[i] = most - offset;
    }
}

/* phi_r = e^{<omega_r,z> - offset}: dz = sum_r dphi_r phi_r (omega_r - z). */
static void NAME(backward)(const struct feature_map *map, const struct NAME(feature_rows) *rows)
{
    const size_t d = map->dim, r = map->feat_dim, n = rows->count;
    double *z = rows->work, *t = z + n * d, *w = t + n * r, *dz = w + n * r;
    NAME(exponents)(map, rows, z, t);
    for (size_t i = 0; i < n; i++) {
        const double shift = favor_offset(map, z + i * d) + (rows->log_scale ? rows->log_scale[i] : 0.0);
        rows->kernels->exp_64(r, t + i * r, shift, w + i * r);
        const double total = rows->kernels->KERNEL(weigh)(r, rows->dphi + i * rows->ldphi, w + i * r);
        for (size_t c = 0; c < d; c++) dz[i * d + c] = -total * z[i * d + c];
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n, (blasint)d, (blasint)r, 1.0,
                w, (blasint)r, map->omega, (blasint)d, 1.0, dz, (blasint)d);
    for (size_t i = 0; i < n; i++) {
        REAL *dx = rows->dx + i * rows->lddx;
        for (size_t c = 0; c < d; c++) {
            const double g = dz[i * d + c] * map->z_scale;
            dx[c] = (REAL)(rows->accumulate ? (double)dx[c] + g : g);
        }
    }
}
