/* The kernels of one number type: included with REAL, NAME and ROOT defined. */

static void NAME(elu1)(size_t n, REAL z_scale, const REAL *x, REAL *phi)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        const REAL z = x[i] * z_scale, e = NAME(exp)(z);
        phi[i] = z > (REAL)0 ? z + (REAL)1 : e;
    }
}

static void NAME(elu1_back)(size_t n, REAL z_scale, const REAL *x, const REAL *dphi, REAL *dx, int accumulate)
{
    const REAL keep = accumulate ? (REAL)1 : (REAL)0;
    if (!accumulate) memset(dx, 0, n * sizeof *dx);
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        const REAL z = x[i] * z_scale, e = NAME(exp)(z);
        dx[i] = keep * dx[i] + dphi[i] * z_scale * (z > (REAL)0 ? (REAL)1 : e);
    }
}

/* All monomials without their coefficients: degree j is z_i times a tail of degree
 * j - 1, for each i in turn. */
static void NAME(raw_monomials)(const struct feature_map *map, const REAL *z, REAL *raw)
{
    const size_t d = map->dim;
    raw[0] = (REAL)1;
    if (map->degree) memcpy(raw + 1, z, d * sizeof *z);
    for (size_t j = 2; j <= map->degree; j++) {
        REAL *restrict to = raw + feature_first(map, j, 0);
        const size_t end = feature_first(map, j - 1, d);
        for (size_t i = 0; i < d; i++) {
            const REAL zi = z[i];
            const REAL *restrict tail = raw + feature_first(map, j - 1, i);
            const size_t len = end - feature_first(map, j - 1, i);
#pragma omp simd
            for (size_t t = 0; t < len; t++) to[t] = zi * tail[t];
            to += len;
        }
    }
}

static void NAME(monomial)(const struct feature_map *map, const REAL *z, const REAL *factor, REAL *phi)
{
    NAME(raw_monomials)(map, z, phi);
    phi[0] *= factor[0];
    for (size_t j = 1; j <= map->degree; j++) {
        const REAL *restrict root = map->ROOT;
        const REAL f = factor[j];
        const size_t end = feature_first(map, j, map->dim);
#pragma omp simd
        for (size_t a = feature_first(map, j, 0); a < end; a++) phi[a] *= root[a] * f;
    }
}

static void NAME(monomial_back)(const struct feature_map *map, const REAL *z, const REAL *factor,
                                const REAL *dphi, REAL *raw, REAL *draw, REAL *dz)
{
    const size_t d = map->dim;
    memset(dz, 0, d * sizeof *dz);
    if (!map->degree) return;
    NAME(raw_monomials)(map, z, raw);
    for (size_t j = 1; j <= map->degree; j++) {
        const REAL *restrict root = map->ROOT;
        const REAL f = factor[j];
        const size_t end = feature_first(map, j, d);
#pragma omp simd
        for (size_t a = feature_first(map, j, 0); a < end; a++) draw[a] = dphi[a] * (root[a] * f);
    }
    /* to[t] = z_i tail[t], backwards */
    for (size_t j = map->degree; j >= 2; j--) {
        const REAL *restrict dto = draw + feature_first(map, j, 0);
        const size_t end = feature_first(map, j - 1, d);
        for (size_t i = 0; i < d; i++) {
            const size_t begin = feature_first(map, j - 1, i), len = end - begin;
            const REAL *restrict tail = raw + begin;
            REAL *restrict dtail = draw + begin;
            const REAL zi = z[i];
            REAL sum = (REAL)0;
#pragma omp simd reduction(+ : sum)
            for (size_t t = 0; t < len; t++) {
                sum += dto[t] * tail[t];
                dtail[t] += zi * dto[t];
            }
            dz[i] += sum;
            dto += len;
        }
    }
    for (size_t i = 0; i < d; i++) dz[i] += draw[1 + i];
}

static void NAME(exp_rows)(size_t n, const double *t, double shift, REAL *out)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = (REAL)exp_64(t[i] - shift);
}

static double NAME(weigh)(size_t n, const REAL *dphi, double *w)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) {
        w[i] *= (double)dphi[i];
        sum += w[i];
    }
    return sum;
}

static double NAME(max_abs)(size_t n, const REAL *x)
{
    REAL most = (REAL)0;
#pragma omp simd reduction(max : most)
    for (size_t i = 0; i < n; i++) {
        const REAL size = x[i] < (REAL)0 ? -x[i] : x[i];
        most = size > most ? size : most;
    }
    return (double)most;
}

static int NAME(finite)(size_t n, const REAL *x)
{
    REAL sum = (REAL)0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += x[i] * (REAL)0;     /* NaN as soon as one is not finite */
    return sum == (REAL)0;
}
