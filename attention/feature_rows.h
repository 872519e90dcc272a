/* The drivers of one number type: included with REAL, NAME, KERNEL and LIMIT. */

/* z of a polynomial map, divided by a power of two, and the factors to go with it. */
static long NAME(polynomial_row)(const feature_map *map, const struct feature_kernels *kernels,
                                 enum feature_side side, const REAL *x, int scaled, REAL *z, REAL *factor,
                                 int *z_shift)
{
    double f[FEATURE_MAX_DEGREE + 1];
    const double z_max = kernels->KERNEL(max_abs)(map->dim, x) * map->z_scale;
    const long log2_scale = polynomial_scale(map, side, z_max, scaled, LIMIT, z_shift, f);
    for (size_t j = 0; j <= map->degree; j++) factor[j] = (REAL)f[j];
    const double scale = ldexp(map->z_scale, -*z_shift);
    for (size_t c = 0; c < map->dim; c++) z[c] = (REAL)(x[c] * scale);
    return log2_scale;
}

/* z of a block of rows and their exponents <omega_r, z>. */
static void NAME(favor_exponents)(const feature_map *map, size_t rows, const REAL *x, size_t ldx,
                                  double *z, double *t)
{
    const size_t d = map->dim, r = map->feat_dim;
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < d; c++) z[i * d + c] = (double)x[i * ldx + c] * map->z_scale;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)r, (blasint)d, 1.0,
                z, (blasint)d, map->omega, (blasint)d, 0.0, t, (blasint)r);
}

static int NAME(forward_rows)(const feature_map *map, const struct feature_kernels *kernels,
                              enum feature_side side, size_t rows, const REAL *x, size_t ldx,
                              REAL *phi, size_t ldphi, double *log_scale, void *work)
{
    const size_t d = map->dim, r = map->feat_dim;
    int bad = 0;
    for (size_t i = 0; i < rows; i++)
        if (!kernels->KERNEL(finite)(d, x + i * ldx)) bad |= BAD_INPUT;
    if (bad) return bad;
    if (map->spec.family == FEATURE_ELU1) {
        for (size_t i = 0; i < rows; i++) {
            kernels->KERNEL(elu1)(d, (REAL)map->z_scale, x + i * ldx, phi + i * ldphi);
            if (log_scale) log_scale[i] = 0.0;
        }
    } else if (map->omega) {
        double *z = work, *t = z + rows * d;
        NAME(favor_exponents)(map, rows, x, ldx, z, t);
        for (size_t i = 0; i < rows; i++) {
            const double offset = favor_offset(map, z + i * d);
            const double most = log_scale ? kernels->max_64(r, t + i * r) : offset;
            kernels->KERNEL(exp)(r, t + i * r, most, phi + i * ldphi);
            if (log_scale) log_scale[i] = most - offset;
        }
    } else {
        REAL *z = work, factor[FEATURE_MAX_DEGREE + 1];
        for (size_t i = 0; i < rows; i++) {
            int z_shift;
            const long log2_scale =
                NAME(polynomial_row)(map, kernels, side, x + i * ldx, log_scale != NULL, z, factor, &z_shift);
            kernels->KERNEL(monomial)(map, z, factor, phi + i * ldphi);
            if (log_scale) log_scale[i] = (double)log2_scale * 0.69314718055994530942;
        }
    }
    for (size_t i = 0; i < rows; i++)
        if (!kernels->KERNEL(finite)(r, phi + i * ldphi)) bad |= BAD_FEATURE;
    return bad;
}

/* The blocks of rows of one call; `bad` collects what is wrong with any of them. */
struct NAME(rows_job) {
    const feature_map *map;
    const struct feature_kernels *kernels;
    enum feature_side side;
    size_t n;
    const REAL *x;
    size_t ldx;
    REAL *phi;                     /* forward */
    const REAL *dphi;              /* backward */
    size_t ldphi;
    double *log_scale;             /* written by forward, read by backward */
    REAL *dx;
    size_t lddx;
    int accumulate;
    char *work;
    atomic_int bad;
};

static void NAME(forward_task)(void *context, size_t block, int thread)
{
    struct NAME(rows_job) *job = context;
    const size_t rows = block_rows(job->map), begin = block * rows;
    const size_t count = job->n - begin < rows ? job->n - begin : rows;
    atomic_fetch_or(&job->bad, NAME(forward_rows)(job->map, job->kernels, job->side, count, job->x + begin * job->ldx,
                                                  job->ldx, job->phi + begin * job->ldphi, job->ldphi,
                                                  job->log_scale ? job->log_scale + begin : NULL,
                                                  job->work + thread_bytes(job->map) * (size_t)thread));
}

/* Runs `task` on every block with scratch of its thread's own. */
static int NAME(run_rows)(struct NAME(rows_job) *job, void (*task)(void *, size_t, int), int num_threads, void *work)
{
    if (num_threads < 1) num_threads = 1;
    void *own = work ? NULL : malloc(feature_workspace(job->map, num_threads));
    if (!work && !own) return GSL_ENOMEM;
    const size_t rows = block_rows(job->map);
    job->work = (char *)align_up((uintptr_t)(work ? work : own));
    job->kernels = feature_kernels_get();
    atomic_init(&job->bad, 0);
    parallel_for((job->n + rows - 1) / rows, num_threads, task, job);
    free(own);
    return bad_status(atomic_load(&job->bad));
}

int NAME(feature_forward)(const feature_map *map, enum feature_side side, size_t n,
                          const REAL *x, size_t ldx, REAL *phi, size_t ldphi,
                          double *log_scale, int num_threads, void *work)
{
    if (!feature_is_explicit(map)) return GSL_EUNSUP;
    if (n > 1 && (ldx < map->dim || ldphi < map->feat_dim)) return GSL_EBADLEN;
    struct NAME(rows_job) job = { .map = map, .side = side, .n = n, .x = x, .ldx = ldx, .phi = phi, .ldphi = ldphi,
                                  .log_scale = log_scale };
    return NAME(run_rows)(&job, NAME(forward_task), num_threads, work);
}

static int NAME(backward_rows)(const feature_map *map, const struct feature_kernels *kernels,
                               enum feature_side side, size_t rows, const REAL *x, size_t ldx,
                               const REAL *dphi, size_t lddphi, const double *log_scale,
                               REAL *dx, size_t lddx, int accumulate, void *work)
{
    const size_t d = map->dim, r = map->feat_dim;
    int bad = 0;
    for (size_t i = 0; i < rows; i++)
        if (!kernels->KERNEL(finite)(d, x + i * ldx)) bad |= BAD_INPUT;
    if (bad) return bad;
    if (map->spec.family == FEATURE_ELU1) {
        for (size_t i = 0; i < rows; i++)
            kernels->KERNEL(elu1_back)(d, (REAL)map->z_scale, x + i * ldx, dphi + i * lddphi,
                                       dx + i * lddx, accumulate);
    } else if (map->omega) {
        /* phi_r = e^{<omega_r,z> - offset}: dz = sum_r dphi_r phi_r (omega_r - z). */
        double *z = work, *t = z + rows * d, *w = t + rows * r, *dz = w + rows * r;
        NAME(favor_exponents)(map, rows, x, ldx, z, t);
        for (size_t i = 0; i < rows; i++) {
            const double shift = favor_offset(map, z + i * d) + (log_scale ? log_scale[i] : 0.0);
            kernels->exp_64(r, t + i * r, shift, w + i * r);
            const double total = kernels->KERNEL(weigh)(r, dphi + i * lddphi, w + i * r);
            for (size_t c = 0; c < d; c++) dz[i * d + c] = -total * z[i * d + c];
        }
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)d, (blasint)r, 1.0,
                    w, (blasint)r, map->omega, (blasint)d, 1.0, dz, (blasint)d);
        for (size_t i = 0; i < rows; i++)
            for (size_t c = 0; c < d; c++) {
                const double g = dz[i * d + c] * map->z_scale;
                dx[i * lddx + c] = (REAL)(accumulate ? (double)dx[i * lddx + c] + g : g);
            }
    } else {
        REAL *z = work, *dz = z + d, *raw = dz + d, *draw = raw + r, factor[FEATURE_MAX_DEGREE + 1];
        for (size_t i = 0; i < rows; i++) {
            int z_shift;
            NAME(polynomial_row)(map, kernels, side, x + i * ldx, log_scale != NULL, z, factor, &z_shift);
            kernels->KERNEL(monomial_back)(map, z, factor, dphi + i * lddphi, raw, draw, dz);
            const double scale = ldexp(map->z_scale, -z_shift);
            for (size_t c = 0; c < d; c++) {
                const REAL g = (REAL)(dz[c] * scale);
                dx[i * lddx + c] = accumulate ? dx[i * lddx + c] + g : g;
            }
        }
    }
    for (size_t i = 0; i < rows; i++)
        if (!kernels->KERNEL(finite)(d, dx + i * lddx)) bad |= BAD_FEATURE;
    return bad;
}

static void NAME(backward_task)(void *context, size_t block, int thread)
{
    struct NAME(rows_job) *job = context;
    const size_t rows = block_rows(job->map), begin = block * rows;
    const size_t count = job->n - begin < rows ? job->n - begin : rows;
    atomic_fetch_or(&job->bad, NAME(backward_rows)(job->map, job->kernels, job->side, count, job->x + begin * job->ldx,
                                                   job->ldx, job->dphi + begin * job->ldphi, job->ldphi,
                                                   job->log_scale ? job->log_scale + begin : NULL,
                                                   job->dx + begin * job->lddx, job->lddx, job->accumulate,
                                                   job->work + thread_bytes(job->map) * (size_t)thread));
}

int NAME(feature_backward)(const feature_map *map, enum feature_side side, size_t n,
                           const REAL *x, size_t ldx, const REAL *dphi, size_t lddphi,
                           const double *log_scale, REAL *dx, size_t lddx, int accumulate,
                           int num_threads, void *work)
{
    if (!feature_is_explicit(map)) return GSL_EUNSUP;
    if (n > 1 && (ldx < map->dim || lddphi < map->feat_dim || lddx < map->dim)) return GSL_EBADLEN;
    struct NAME(rows_job) job = { .map = map, .side = side, .n = n, .x = x, .ldx = ldx, .dphi = dphi, .ldphi = lddphi,
                                  .log_scale = (double *)log_scale, .dx = dx, .lddx = lddx, .accumulate = accumulate };
    return NAME(run_rows)(&job, NAME(backward_task), num_threads, work);
}
