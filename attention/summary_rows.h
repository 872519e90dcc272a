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

int NAME(attn_fold_add)(struct attn_fold *fold, size_t n, const REAL *K, size_t ldk,
                        const REAL *V, size_t ldv, int num_threads, void *work)
{
    const feature_map *map = fold->map;
    if (n > 1 && (ldk < map->dim || ldv < fold->value_dim)) return GSL_EBADLEN;
    if (num_threads < 1) num_threads = 1;
    if (num_threads > (int)fold->lanes) num_threads = (int)fold->lanes;
    void *own = work ? NULL : malloc(attn_fold_workspace(map, fold->value_dim, num_threads));
    if (!work && !own) return GSL_ENOMEM;
    char *base = (char *)(((uintptr_t)(work ? work : own) + ALIGN - 1) / ALIGN * ALIGN);
    const size_t block = attn_fold_block(map), blocks = (n + block - 1) / block, lanes = fold->lanes;
    const size_t bytes = thread_bytes(map, fold->value_dim);
    const int differ = feature_sides_differ(map);
    int bad = 0;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && blocks > 1) reduction(max : bad)
    {
        double *mine = (double *)(base + bytes * (size_t)omp_get_thread_num());
#pragma omp for schedule(static)
        for (size_t l = 0; l < lanes; l++) {
            /* Block number next_block + b goes to lane (next_block + b) mod lanes. */
            const size_t first = (l + lanes - fold->next_block % lanes) % lanes;
            int status = GSL_SUCCESS;
            for (size_t b = first; b < blocks && !status; b += lanes) {
                const size_t begin = b * block, rows = n - begin < block ? n - begin : block;
                status = NAME(add_block)(&fold->lane[l], map, rows, K + begin * ldk, ldk, V + begin * ldv, ldv,
                                         differ, mine);
            }
            bad = status > bad ? status : bad;
        }
    }
    free(own);
    fold->count += n;
    fold->next_block += blocks;
    return bad;
}

int NAME(attn_fold_read)(const struct attn_fold *fold, REAL *Z, REAL *k, double *log_scale)
{
    const size_t r = fold->map->feat_dim, cols = fold->value_dim + 1;
    struct linear_state sum;
    const int status = read_state(fold, &sum);
    if (status) return status;
    const double scale = sum.scale > -HUGE_VAL ? sum.scale : 0.0;
    const double factor = log_scale ? 1.0 : exp(scale);
    double check = 0.0;
    for (size_t a = 0; a < r; a++) {
        for (size_t c = 0; c + 1 < cols; c++) {
            Z[a * (cols - 1) + c] = (REAL)(factor * sum.Zk[a * cols + c]);
            check += (double)Z[a * (cols - 1) + c] * 0.0;
        }
        k[a] = (REAL)(factor * sum.Zk[a * cols + cols - 1]);
        check += (double)k[a] * 0.0;
    }
    free(sum.Zk);
    if (log_scale) *log_scale = scale;
    return check == 0.0 ? GSL_SUCCESS : GSL_EOVRFLW;
}

static int NAME(backward_block)(const feature_map *map, size_t value_dim, size_t rows, const REAL *K, size_t ldk,
                                const REAL *V, size_t ldv, const double *dZ, const double *dk,
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
    /* dV = Phi dZ, dPhi = V dZ^T + 1 dk^T */
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
            dphi[i * r + a] = factor * (dphi[i * r + a] + (differ ? 0.0 : dk[a]));
            if (differ) dmass[i * r + a] = factor * dk[a];
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

int NAME(attn_fold_backward)(const feature_map *map, size_t value_dim, size_t n,
                             const REAL *K, size_t ldk, const REAL *V, size_t ldv,
                             const double *dZ, const double *dk, double log_scale,
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
    char *base = (char *)(((uintptr_t)(work ? work : own) + ALIGN - 1) / ALIGN * ALIGN);
    const size_t block = attn_fold_block(map), blocks = (n + block - 1) / block, bytes = thread_bytes(map, value_dim);
    const int differ = feature_sides_differ(map);
    int bad = 0;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && blocks > 1) reduction(max : bad)
    {
        double *mine = (double *)(base + bytes * (size_t)omp_get_thread_num());
#pragma omp for schedule(static)
        for (size_t b = 0; b < blocks; b++) {
            const size_t begin = b * block, rows = n - begin < block ? n - begin : block;
            const int status =
                NAME(backward_block)(map, value_dim, rows, K + begin * ldk, ldk, V + begin * ldv, ldv, dZ, dk, log_scale,
                                     dK + begin * lddk, lddk, dV + begin * lddv, lddv, accumulate, differ, mine);
            bad = status > bad ? status : bad;
        }
    }
    free(own);
    return bad;
}
