/* The calls of one number type: included with REAL, NAME and KERNEL. */

/* The blocks of rows of one call; `bad` collects what is wrong with any of them. */
struct NAME(rows_job) {
    const feature_map *map;
    struct NAME(feature_rows) all;
    char *work;
    atomic_int bad;
};

static int NAME(all_finite)(const struct feature_kernels *kernels, size_t rows, size_t n, const REAL *x, size_t ld)
{
    int finite = 1;
    for (size_t i = 0; i < rows; i++) finite &= kernels->KERNEL(finite)(n, x + i * ld);
    return finite;
}

/* Block number `block` of the call's rows. */
static struct NAME(feature_rows) NAME(block_of)(const struct NAME(rows_job) *job, size_t block, int thread)
{
    const size_t most = job->map->ops->block(job->map), begin = block * most, left = job->all.count - begin;
    struct NAME(feature_rows) rows = job->all;
    rows.count = left < most ? left : most;
    rows.x += begin * rows.ldx;
    if (rows.phi) rows.phi += begin * rows.ldphi;
    if (rows.dphi) rows.dphi += begin * rows.ldphi;
    if (rows.log_scale) rows.log_scale += begin;
    if (rows.dx) rows.dx += begin * rows.lddx;
    rows.work = job->work + thread_bytes(job->map) * (size_t)thread;
    return rows;
}

static void NAME(rows_task)(void *context, size_t block, int thread)
{
    struct NAME(rows_job) *job = context;
    const feature_map *map = job->map;
    const struct NAME(feature_rows) rows = NAME(block_of)(job, block, thread);
    int bad = 0;
    if (!NAME(all_finite)(rows.kernels, rows.count, map->dim, rows.x, rows.ldx)) {
        bad = BAD_INPUT;
    } else if (rows.phi) {
        map->ops->NAME(forward)(map, &rows);
        if (!NAME(all_finite)(rows.kernels, rows.count, map->feat_dim, rows.phi, rows.ldphi)) bad = BAD_FEATURE;
    } else {
        map->ops->NAME(backward)(map, &rows);
        if (!NAME(all_finite)(rows.kernels, rows.count, map->dim, rows.dx, rows.lddx)) bad = BAD_FEATURE;
    }
    atomic_fetch_or(&job->bad, bad);
}

static int NAME(run_rows)(struct NAME(rows_job) *job, int num_threads, void *work)
{
    if (num_threads < 1) num_threads = 1;
    void *own = work ? NULL : malloc(feature_workspace(job->map, num_threads));
    if (!work && !own) return GSL_ENOMEM;
    const size_t rows = job->map->ops->block(job->map);
    job->work = (char *)align_up((uintptr_t)(work ? work : own));
    job->all.kernels = feature_kernels_get();
    atomic_init(&job->bad, 0);
    parallel_for((job->all.count + rows - 1) / rows, num_threads, NAME(rows_task), job);
    free(own);
    return bad_status(atomic_load(&job->bad));
}

int NAME(feature_forward)(const feature_map *map, enum feature_side side, size_t n,
                          const REAL *x, size_t ldx, REAL *phi, size_t ldphi,
                          double *log_scale, int num_threads, void *work)
{
    if (!feature_is_explicit(map)) return GSL_EUNSUP;
    if (n > 1 && (ldx < map->dim || ldphi < map->feat_dim)) return GSL_EBADLEN;
    struct NAME(rows_job) job = {
        .map = map,
        .all = { .side = side, .count = n, .x = x, .ldx = ldx, .phi = phi, .ldphi = ldphi, .log_scale = log_scale },
    };
    return NAME(run_rows)(&job, num_threads, work);
}

int NAME(feature_backward)(const feature_map *map, enum feature_side side, size_t n,
                           const REAL *x, size_t ldx, const REAL *dphi, size_t lddphi,
                           const double *log_scale, REAL *dx, size_t lddx, int accumulate,
                           int num_threads, void *work)
{
    if (!feature_is_explicit(map)) return GSL_EUNSUP;
    if (n > 1 && (ldx < map->dim || lddphi < map->feat_dim || lddx < map->dim)) return GSL_EBADLEN;
    struct NAME(rows_job) job = {
        .map = map,
        .all = { .side = side, .count = n, .x = x, .ldx = ldx, .dphi = dphi, .ldphi = lddphi,
                 .log_scale = (double *)log_scale, .dx = dx, .lddx = lddx, .accumulate = accumulate },
    };
    return NAME(run_rows)(&job, num_threads, work);
}
