/* The part of summary.c that sees the caller's number type: REAL and NAME defined. */

/* Rows of the caller, in double and without gaps; 0 when one is not finite. */
static int NAME(take_rows)(size_t rows, size_t cols, const REAL *from, size_t ld, double *to, size_t ldto)
{
    double sum = 0.0;
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < cols; c++) {
            to[i * ldto + c] = (double)from[i * ld + c];
            sum += to[i * ldto + c] * 0.0;
        }
    return sum == 0.0;
}

static int NAME(add_block)(struct linear_state *lane, const feature_map *map, size_t rows, const REAL *K,
                           size_t ldk, const REAL *V, size_t ldv, int differ, double *work)
{
    const size_t d = map->dim, r = map->feat_dim, cols = lane->value_dim + 1, block = attn_fold_block(map);
    double *keys = work, *values = keys + block * d, *log_scale = values + block * cols;
    double *phi = log_scale + block, *mass = phi + block * r;
    void *own = work + scratch_doubles(map, lane->value_dim);
    if (!NAME(take_rows)(rows, d, K, ldk, keys, d)) return GSL_EDOM;
    if (!NAME(take_rows)(rows, cols - 1, V, ldv, values, cols)) return GSL_EDOM;
    for (size_t i = 0; i < rows; i++) values[i * cols + cols - 1] = 1.0;
    int status = feature_forward_f64(map, FEATURE_VALUE, rows, keys, d, phi, r, log_scale, 1, own);
    if (!status && differ) status = feature_forward_f64(map, FEATURE_MASS, rows, keys, d, mass, r, log_scale, 1, own);
    if (!status) linear_state_add(lane, rows, phi, differ ? mass : NULL, values, log_scale);
    return status;
}

struct NAME(add_job) {
    struct attn_fold *fold;
    size_t n;
    const REAL *K, *V;
    size_t ldk, ldv;
    int differ;
    char *work;
    atomic_int bad;
};

/* The blocks of one lane, in order: block number next_block + b goes to lane (next_block + b) mod lanes. */
static void NAME(add_task)(void *context, size_t l, int thread)
{
    struct NAME(add_job) *job = context;
    struct attn_fold *fold = job->fold;
    const size_t block = attn_fold_block(fold->map), blocks = (job->n + block - 1) / block, lanes = fold->lanes;
    double *mine = (double *)(job->work + thread_bytes(fold->map, fold->value_dim) * (size_t)thread);
    int status = GSL_SUCCESS;
    for (size_t b = (l + lanes - fold->next_block % lanes) % lanes; b < blocks && !status; b += lanes) {
        const size_t begin = b * block, rows = job->n - begin < block ? job->n - begin : block;
        status = NAME(add_block)(&fold->lane[l], fold->map, rows, job->K + begin * job->ldk, job->ldk,
                                 job->V + begin * job->ldv, job->ldv, job->differ, mine);
    }
    note_status(&job->bad, status);
}

int NAME(attn_fold_add)(struct attn_fold *fold, size_t n, const REAL *K, size_t ldk,
                        const REAL *V, size_t ldv, int num_threads, void *work)
{
    const feature_map *map = fold->map;
    if (n > 1 && (ldk < map->dim || ldv < fold->value_dim)) return GSL_EBADLEN;
    if (num_threads < 1) num_threads = 1;
    if (num_threads > (int)fold->lanes) num_threads = (int)fold->lanes;
    void *own = work ? NULL : malloc(attn_fold_workspace(map, fold->value_dim, num_threads));
    if (!work && !own) return GSL_ENOMEM;
    struct NAME(add_job) job = { .fold = fold, .n = n, .K = K, .V = V, .ldk = ldk, .ldv = ldv,
                                 .differ = feature_sides_differ(map), .work = aligned(work ? work : own) };
    const size_t block = attn_fold_block(map), blocks = (n + block - 1) / block;
    atomic_init(&job.bad, GSL_SUCCESS);
    parallel_for(fold->lanes, blocks > 1 ? num_threads : 1, NAME(add_task), &job);
    free(own);
    fold->count += n;
    fold->next_block += blocks;
    return atomic_load(&job.bad);
}

int NAME(attn_fold_read)(const struct attn_fold *fold, REAL *Z, REAL *kvec, double *log_scale)
{
    const size_t r = fold->map->feat_dim, cols = fold->value_dim + 1;
    struct linear_state sum;
    const int status = read_state(fold, &sum);
    if (status) return status;
    const double scale = sum.scale > -HUGE_VAL ? sum.scale : 0.0;
    const double factor = log_scale ? 1.0 : exp(scale);
    double check = 0.0, mass = 0.0, kept = 0.0;
    for (size_t a = 0; a < r; a++) {
        for (size_t c = 0; c + 1 < cols; c++) {
            Z[a * (cols - 1) + c] = (REAL)(factor * sum.Zk[a * cols + c]);
            check += (double)Z[a * (cols - 1) + c] * 0.0;
        }
        kvec[a] = (REAL)(factor * sum.Zk[a * cols + cols - 1]);
        check += (double)kvec[a] * 0.0;
        mass = fmax(mass, fabs(sum.Zk[a * cols + cols - 1]));
        kept = fmax(kept, fabs((double)kvec[a]));
    }
    free(sum.Zk);
    if (log_scale) *log_scale = scale;
    if (check != 0.0) return GSL_EOVRFLW;
    return mass > 0.0 && kept < SMALLEST ? GSL_EUNDRFLW : GSL_SUCCESS;
}

static int NAME(backward_block)(const feature_map *map, size_t value_dim, size_t rows, const REAL *K, size_t ldk,
                                const REAL *V, size_t ldv, const double *dZ, const double *dkvec,
                                double scale, REAL *dK, size_t lddk, REAL *dV, size_t lddv,
                                int accumulate, int differ, double *work)
{
    const size_t d = map->dim, r = map->feat_dim, block = attn_fold_block(map);
    double *keys = work, *dkeys = keys + block * d, *values = dkeys + block * d, *dvalues = values + block * value_dim;
    double *log_scale = dvalues + block * value_dim, *phi = log_scale + block, *dphi = phi + block * r;
    double *dmass = dphi + block * r;
    void *own = work + scratch_doubles(map, value_dim);
    if (!NAME(take_rows)(rows, d, K, ldk, keys, d)) return GSL_EDOM;
    if (!NAME(take_rows)(rows, value_dim, V, ldv, values, value_dim)) return GSL_EDOM;
    int status = feature_forward_f64(map, FEATURE_VALUE, rows, keys, d, phi, r, log_scale, 1, own);
    if (status) return status;
    /* dV = Phi dZ, dPhi = V dZ^T + 1 dkvec^T */
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)value_dim, (blasint)r, 1.0,
                phi, (blasint)r, dZ, (blasint)value_dim, 0.0, dvalues, (blasint)value_dim);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)r, (blasint)value_dim, 1.0,
                values, (blasint)value_dim, dZ, (blasint)value_dim, 0.0, dphi, (blasint)r);
    for (size_t i = 0; i < rows; i++) {
        /* The true features are e^{log_scale} phi, the stored Z is e^{-scale} the true one. */
        const double factor = exp(log_scale[i] - scale);
        for (size_t c = 0; c < value_dim; c++) {
            const double g = factor * dvalues[i * value_dim + c];
            dV[i * lddv + c] = (REAL)(accumulate ? (double)dV[i * lddv + c] + g : g);
        }
        for (size_t a = 0; a < r; a++) {
            dphi[i * r + a] = factor * (dphi[i * r + a] + (differ ? 0.0 : dkvec[a]));
            if (differ) dmass[i * r + a] = factor * dkvec[a];
        }
    }
    status = feature_backward_f64(map, FEATURE_VALUE, rows, keys, d, dphi, r, log_scale, dkeys, d, 0, 1, own);
    if (!status && differ)
        status = feature_backward_f64(map, FEATURE_MASS, rows, keys, d, dmass, r, log_scale, dkeys, d, 1, 1, own);
    for (size_t i = 0; !status && i < rows; i++)
        for (size_t c = 0; c < d; c++) {
            const double g = dkeys[i * d + c];
            dK[i * lddk + c] = (REAL)(accumulate ? (double)dK[i * lddk + c] + g : g);
        }
    return status;
}

struct NAME(backward_job) {
    const feature_map *map;
    size_t value_dim, n;
    const REAL *K, *V;
    size_t ldk, ldv;
    const double *dZ, *dkvec;
    double log_scale;
    REAL *dK, *dV;
    size_t lddk, lddv;
    int accumulate, differ;
    char *work;
    atomic_int bad;
};

static void NAME(backward_task)(void *context, size_t b, int thread)
{
    struct NAME(backward_job) *j = context;
    const size_t block = attn_fold_block(j->map), begin = b * block, rows = j->n - begin < block ? j->n - begin : block;
    double *mine = (double *)(j->work + thread_bytes(j->map, j->value_dim) * (size_t)thread);
    note_status(&j->bad, NAME(backward_block)(j->map, j->value_dim, rows, j->K + begin * j->ldk, j->ldk,
                                              j->V + begin * j->ldv, j->ldv, j->dZ, j->dkvec, j->log_scale,
                                              j->dK + begin * j->lddk, j->lddk, j->dV + begin * j->lddv, j->lddv,
                                              j->accumulate, j->differ, mine));
}

int NAME(attn_fold_backward)(const feature_map *map, size_t value_dim, size_t n,
                             const REAL *K, size_t ldk, const REAL *V, size_t ldv,
                             const double *dZ, const double *dkvec, double log_scale,
                             REAL *dK, size_t lddk, REAL *dV, size_t lddv,
                             int accumulate, int num_threads, void *work)
{
    if (!feature_is_explicit(map)) return GSL_EUNSUP;
    if (value_dim == 0) return GSL_EINVAL;
    if (n > 1 && (ldk < map->dim || ldv < value_dim || lddk < map->dim || lddv < value_dim)) return GSL_EBADLEN;
    if (num_threads < 1) num_threads = 1;
    if (num_threads > MAX_LANES) num_threads = MAX_LANES;
    void *own = work ? NULL : malloc(attn_fold_workspace(map, value_dim, num_threads));
    if (!work && !own) return GSL_ENOMEM;
    struct NAME(backward_job) job = { map, value_dim, n, K, V, ldk, ldv, dZ, dkvec, log_scale, dK, dV, lddk, lddv,
                                      accumulate,
                                      feature_sides_differ(map), aligned(work ? work : own), GSL_SUCCESS };
    const size_t block = attn_fold_block(map);
    parallel_for((n + block - 1) / block, num_threads, NAME(backward_task), &job);
    free(own);
    return atomic_load(&job.bad);
}
