#include "approximation/approx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_eigen.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_matrix.h>
#include <gsl/gsl_vector.h>

#include "approximation/approx_kernel.h"

void approx_exp(size_t n, const double *x, double *y)
{
#define KERNELS(isa) approx_exp_##isa
    static approx_exp_fn *const all[] = ISA_TABLE(KERNELS);
    all[isa_current()](n, x, y);
}

/* C (m, n) = alpha A (m, k) B + beta C; B is (k, n), or (n, k) when b_transposed. */
static void gemm(int b_transposed, size_t m, size_t n, size_t k, double alpha, const double *A,
                 const double *B, double beta, double *C)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, (int)m,
                (int)n, (int)k, alpha, A, (int)k, B, (int)(b_transposed ? k : n), beta, C, (int)n);
}

/* ---- masses and weighted values per query ---- */

int attn_sums_alloc(struct attn_sums *s, size_t num_queries, size_t dim)
{
    *s = (struct attn_sums){ .num_queries = num_queries, .dim = dim };
    s->shift = calloc(num_queries, sizeof *s->shift);
    s->mass = calloc(num_queries, sizeof *s->mass);
    s->num = calloc(num_queries * dim, sizeof *s->num);
    if (s->shift && s->mass && s->num) return GSL_SUCCESS;
    attn_sums_free(s);
    return GSL_ENOMEM;
}

void attn_sums_free(struct attn_sums *s)
{
    free(s->shift);
    free(s->mass);
    free(s->num);
    *s = (struct attn_sums){ 0 };
}

double attn_sums_log_mass(const struct attn_sums *s, size_t i)
{
    return log(s->mass[i]) + s->shift[i];
}

int attn_sums_exact(const double *Q, const double *K, const double *V, size_t len, double scale,
                    struct attn_sums *out)
{
    const size_t n = out->num_queries, dim = out->dim;
    double *scores = malloc(len * sizeof *scores);
    if (!scores && len) return GSL_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        double top = len ? -INFINITY : 0.0;
        for (size_t j = 0; j < len; j++) {
            scores[j] = scale * cblas_ddot((int)dim, Q + i * dim, 1, K + j * dim, 1);
            if (!(scores[j] <= top)) top = scores[j];
        }
        for (size_t j = 0; j < len; j++) scores[j] -= top;
        approx_exp(len, scores, scores);
        double mass = 0.0;
        memset(out->num + i * dim, 0, dim * sizeof *out->num);
        for (size_t j = 0; j < len; j++) {
            mass += scores[j];
            cblas_daxpy((int)dim, scores[j], V + j * dim, 1, out->num + i * dim, 1);
        }
        out->mass[i] = mass;
        out->shift[i] = top;
        if (!isfinite(top) || !isfinite(mass)) {
            free(scores);
            return GSL_EDOM;
        }
    }
    free(scores);
    return GSL_SUCCESS;
}

/* ---- a prefix read once ---- */

/* Elements of each array of the sums, and of the scratch. */
static size_t power_size(const struct prefix_sums *s) { return (s->degree + 1) * s->num_queries * (s->dim + 1); }
static size_t exact_size(const struct prefix_sums *s) { return s->num_temps * s->num_queries * (s->dim + 1); }
static size_t gram_size(const struct prefix_sums *s)
{
    return s->with_gram ? s->num_temps * s->num_queries * s->num_queries : 0;
}
static size_t work_size(const struct prefix_sums *s) { return PREFIX_SUMS_BLOCK * (2 * s->num_queries + s->dim + 1); }

size_t prefix_sums_bytes(size_t num_queries, size_t dim, size_t degree, size_t num_temps, int with_gram)
{
    const struct prefix_sums s = { .num_queries = num_queries, .dim = dim, .degree = degree, .num_temps = num_temps,
                                   .with_gram = with_gram };
    return (power_size(&s) + exact_size(&s) + gram_size(&s) + work_size(&s) + num_temps + num_queries) * sizeof(double);
}

size_t attn_sums_bytes(size_t num_queries, size_t dim)
{
    return num_queries * (dim + 2) * sizeof(double);
}

int prefix_sums_alloc(struct prefix_sums *s, size_t num_queries, size_t dim, double scale,
                      size_t degree, const double *temps, size_t num_temps, const double *shift,
                      int with_gram)
{
    *s = (struct prefix_sums){ .num_queries = num_queries, .dim = dim, .degree = degree,
                               .num_temps = temps ? num_temps : 1, .with_gram = with_gram,
                               .scale = scale };
    s->temps = malloc(s->num_temps * sizeof *s->temps);
    s->shift = calloc(num_queries, sizeof *s->shift);
    s->power = calloc(power_size(s), sizeof *s->power);
    s->exact = calloc(exact_size(s), sizeof *s->exact);
    s->gram = with_gram ? calloc(gram_size(s), sizeof *s->gram) : NULL;
    s->work = malloc(work_size(s) * sizeof *s->work);
    if (!s->temps || !s->shift || !s->power || !s->exact || (with_gram && !s->gram) || !s->work) {
        prefix_sums_free(s);
        return GSL_ENOMEM;
    }
    for (size_t i = 0; i < s->num_temps; i++) s->temps[i] = temps ? temps[i] : 1.0;
    if (shift) memcpy(s->shift, shift, num_queries * sizeof *shift);
    return GSL_SUCCESS;
}

void prefix_sums_free(struct prefix_sums *s)
{
    free(s->temps);
    free(s->shift);
    free(s->power);
    free(s->exact);
    free(s->gram);
    free(s->work);
    *s = (struct prefix_sums){ 0 };
}

int prefix_sums_copy(struct prefix_sums *to, const struct prefix_sums *from)
{
    if (to->num_queries != from->num_queries || to->dim != from->dim ||
        to->degree != from->degree || to->num_temps != from->num_temps ||
        to->with_gram != from->with_gram)
        return GSL_EBADLEN;
    to->prefix_len = from->prefix_len;
    to->scale = from->scale;
    to->max_key_norm = from->max_key_norm;
    memcpy(to->temps, from->temps, from->num_temps * sizeof *to->temps);
    memcpy(to->shift, from->shift, from->num_queries * sizeof *to->shift);
    memcpy(to->power, from->power, power_size(from) * sizeof *to->power);
    memcpy(to->exact, from->exact, exact_size(from) * sizeof *to->exact);
    if (from->with_gram) memcpy(to->gram, from->gram, gram_size(from) * sizeof *to->gram);
    return GSL_SUCCESS;
}

size_t prefix_sums_block_end(size_t first)
{
    if (first >= PREFIX_SUMS_BLOCK) return (first / PREFIX_SUMS_BLOCK + 1) * PREFIX_SUMS_BLOCK;
    size_t end = 1;
    while (end <= first) end *= 2;
    return end;
}

int prefix_sums_add(struct prefix_sums *s, const double *Q, const double *Kp, const double *Vp,
                    size_t count)
{
    const size_t n = s->num_queries, dim = s->dim, cols = dim + 1;
    if (count > PREFIX_SUMS_BLOCK) return GSL_EINVAL;
    if (!count) return GSL_SUCCESS;
    double *t = s->work, *w = t + n * PREFIX_SUMS_BLOCK, *v = w + n * PREFIX_SUMS_BLOCK;
    for (size_t r = 0; r < count; r++) {
        memcpy(v + r * cols, Vp + r * dim, dim * sizeof *v);
        v[r * cols + dim] = 1.0;
        const double norm = cblas_dnrm2((int)dim, Kp + r * dim, 1);
        if (!isfinite(norm)) return GSL_EDOM;
        if (norm > s->max_key_norm) s->max_key_norm = norm;
    }
    gemm(1, n, count, dim, s->scale, Q, Kp, 0.0, t);
    for (size_t temp = 0; temp < s->num_temps; temp++) {
        const double theta = s->temps[temp];
        for (size_t i = 0; i < n; i++)
            for (size_t r = 0; r < count; r++)
                w[i * count + r] = theta * (t[i * count + r] - s->shift[i]);
        approx_exp(n * count, w, w);
        gemm(0, n, cols, count, 1.0, w, v, 1.0, s->exact + temp * n * cols);
        if (s->with_gram)
            cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)n, (int)count, 1.0, w,
                        (int)count, 1.0, s->gram + temp * n * n, (int)n);
    }
    for (size_t j = 0; j <= s->degree; j++) {
        if (j == 0)
            for (size_t i = 0; i < n * count; i++) w[i] = 1.0;
        else
            for (size_t i = 0; i < n * count; i++) w[i] *= t[i];
        gemm(0, n, cols, count, 1.0, w, v, 1.0, s->power + j * n * cols);
    }
    s->prefix_len += count;
    return GSL_SUCCESS;
}

int prefix_sums_exact(const struct prefix_sums *s, size_t temp, struct attn_sums *out)
{
    const size_t n = s->num_queries, dim = s->dim, cols = dim + 1;
    if (temp >= s->num_temps) return GSL_EINVAL;
    if (out->num_queries != n || out->dim != dim) return GSL_EBADLEN;
    const double *sums = s->exact + temp * n * cols;
    for (size_t i = 0; i < n; i++) {
        memcpy(out->num + i * dim, sums + i * cols, dim * sizeof *sums);
        out->mass[i] = sums[i * cols + dim];
        out->shift[i] = s->temps[temp] * s->shift[i];
        if (!isfinite(out->mass[i])) return GSL_EDOM;
    }
    return GSL_SUCCESS;
}

/* Mean score of row i: <q_i, kbar> scale. */
static double score_mean(const struct prefix_sums *s, size_t i)
{
    const size_t n = s->num_queries, cols = s->dim + 1;
    return s->power[(n + i) * cols + s->dim] / s->power[i * cols + s->dim];
}

/* out[0..degree]: coefficients of p(x - c) in powers of x (repeated synthetic division). */
static void shift_polynomial(const double *p, size_t degree, double c, double *out)
{
    memcpy(out, p, (degree + 1) * sizeof *out);
    for (size_t i = 0; i < degree; i++)
        for (size_t j = degree; j-- > i; ) out[j] -= c * out[j + 1];
}

int prefix_sums_polynomial(const struct prefix_sums *s, double theta, int centred,
                           const double *num, size_t degree_num, const double *den,
                           size_t degree_den, struct attn_sums *out)
{
    const size_t n = s->num_queries, dim = s->dim, cols = dim + 1;
    const size_t degree = degree_num > degree_den ? degree_num : degree_den;
    if (degree > s->degree || (centred && s->degree < 1) || !s->prefix_len) return GSL_EINVAL;
    if (out->num_queries != n || out->dim != dim) return GSL_EBADLEN;
    double *cn = malloc(2 * (degree + 1) * sizeof *cn);
    if (!cn) return GSL_ENOMEM;
    double *cd = cn + degree + 1;
    memset(out->num, 0, n * dim * sizeof *out->num);
    for (size_t i = 0; i < n; i++) {
        const double c = centred ? theta * score_mean(s, i) : 0.0;
        shift_polynomial(num, degree_num, c, cn);
        shift_polynomial(den, degree_den, c, cd);
        out->shift[i] = c;
        out->mass[i] = 0.0;
        double power = 1.0;
        for (size_t j = 0; j <= degree; j++, power *= theta) {
            const double *m = s->power + (j * n + i) * cols;
            if (j <= degree_num) cblas_daxpy((int)dim, cn[j] * power, m, 1, out->num + i * dim, 1);
            if (j <= degree_den) out->mass[i] += cd[j] * power * m[dim];
        }
    }
    free(cn);
    return GSL_SUCCESS;
}

int prefix_sums_cumulant(const struct prefix_sums *s, double theta, struct attn_sums *out)
{
    const size_t n = s->num_queries, dim = s->dim, cols = dim + 1;
    if (s->degree < 2 || !s->prefix_len) return GSL_EINVAL;
    if (out->num_queries != n || out->dim != dim) return GSL_EBADLEN;
    for (size_t i = 0; i < n; i++) {
        const double *m0 = s->power + i * cols, *m1 = m0 + n * cols, *m2 = m1 + n * cols;
        const double len = m0[dim], c = m1[dim] / len;
        const double var = fmax(m2[dim] / len - c * c, 0.0);
        out->shift[i] = theta * c + 0.5 * theta * theta * var;
        out->mass[i] = len;
        for (size_t j = 0; j < dim; j++) {
            const double vbar = m0[j] / len;
            out->num[i * dim + j] = len * (vbar + theta * (m1[j] / len - c * vbar));
        }
    }
    return GSL_SUCCESS;
}

int prefix_sums_oracle(const struct prefix_sums *s, size_t temp, size_t rank, struct attn_sums *out)
{
    const size_t n = s->num_queries, dim = s->dim;
    if (!s->with_gram || temp >= s->num_temps) return GSL_EINVAL;
    int status = prefix_sums_exact(s, temp, out);
    if (status || rank >= n) return status;
    gsl_matrix *G = gsl_matrix_alloc(n, n), *U = gsl_matrix_alloc(n, n);
    gsl_vector *eig = gsl_vector_alloc(n);
    gsl_eigen_symmv_workspace *ws = gsl_eigen_symmv_alloc(n);
    double *proj = calloc(rank * (dim + 1) + 1, sizeof *proj);
    status = GSL_ENOMEM;
    if (!G || !U || !eig || !ws || !proj) goto done;
    /* Rows were scaled by e^{-shift}; the factorisation is of E itself, up to the one
     * factor that keeps it finite. */
    double top = -INFINITY;
    for (size_t i = 0; i < n; i++) top = fmax(top, out->shift[i]);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            const double x = s->gram[(temp * n + i) * n + j] *
                             exp(out->shift[i] - top) * exp(out->shift[j] - top);
            gsl_matrix_set(G, i, j, x);
            gsl_matrix_set(G, j, i, x);
        }
    if ((status = gsl_eigen_symmv(G, eig, U, ws))) goto done;
    gsl_eigen_symmv_sort(eig, U, GSL_EIGEN_SORT_VAL_DESC);
    /* U_r U_r^T E applied to (V, 1) is U_r U_r^T applied to the exact sums. */
    for (size_t i = 0; i < n; i++) {
        const double w = exp(out->shift[i] - top);
        for (size_t c = 0; c < rank; c++) {
            const double u = gsl_matrix_get(U, i, c) * w;
            cblas_daxpy((int)dim, u, out->num + i * dim, 1, proj + c * (dim + 1), 1);
            proj[c * (dim + 1) + dim] += u * out->mass[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        out->shift[i] = top;
        out->mass[i] = 0.0;
        memset(out->num + i * dim, 0, dim * sizeof *out->num);
        for (size_t c = 0; c < rank; c++) {
            const double u = gsl_matrix_get(U, i, c);
            cblas_daxpy((int)dim, u, proj + c * (dim + 1), 1, out->num + i * dim, 1);
            out->mass[i] += u * proj[c * (dim + 1) + dim];
        }
    }
done:
    gsl_matrix_free(G);
    gsl_matrix_free(U);
    gsl_vector_free(eig);
    if (ws) gsl_eigen_symmv_free(ws);
    free(proj);
    return status;
}

/* ---- comparison ---- */

/* Sums over the rows that entered and their numbers. */
struct error_sums { double err2, effect2, out2, mass2, mean2, rho, rho_hat; size_t used; };

static void set_errors(const struct error_sums *s, struct approx_errors *out)
{
    const double count = s->used ? (double)s->used : NAN;
    out->num_rows = s->used;
    if (!s->used) out->err_max = NAN;
    out->err_rel = sqrt(s->err2) / sqrt(s->effect2);
    out->err_mass = sqrt(s->mass2) / sqrt(s->effect2);
    out->err_mean = sqrt(s->mean2) / sqrt(s->effect2);
    out->abs_rms = sqrt(s->err2 / count);
    out->effect_rms = sqrt(s->effect2 / count);
    out->out_rms = sqrt(s->out2 / count);
    out->rho_mean = s->rho / count;
    out->mass_mean = s->rho_hat / count;
}

int approx_compare(const struct attn_sums *input, const struct attn_sums *prefix,
                   const struct attn_sums *approx, struct approx_errors *out, double *T)
{
    const size_t n = prefix->num_queries, dim = prefix->dim;
    struct error_sums s = { 0 };
    *out = (struct approx_errors){ 0 };
    for (size_t i = 0; i < n; i++) {
        /* Everything in units of the largest of the three masses. */
        double top = attn_sums_log_mass(prefix, i);
        if (input && input->mass[i] > 0.0) top = fmax(top, attn_sums_log_mass(input, i));
        if (approx && approx->mass[i] != 0.0)
            top = fmax(top, log(fabs(approx->mass[i])) + approx->shift[i]);
        const double ua = input ? exp(input->shift[i] - top) : 0.0;
        const double up = exp(prefix->shift[i] - top);
        const double uh = approx ? exp(approx->shift[i] - top) : 0.0;
        const double a = input ? input->mass[i] * ua : 0.0, p = prefix->mass[i] * up;
        const double ph = approx ? approx->mass[i] * uh : 0.0;
        const double D = a + ph, exact = a + p;
        if (!(exact > 0.0) || !isfinite(D)) return GSL_EDOM;
        const int empty = !input && !approx;
        if (!(D > 0.0) && !empty) {
            out->num_nonpositive++;
            if (T)
                for (size_t c = 0; c < dim; c++)
                    T[i * dim + c] = ((input ? input->num[i * dim + c] * ua : 0.0) +
                                      prefix->num[i * dim + c] * up) / exact;
            continue;
        }
        const double rho = p / exact, rho_hat = empty ? 0.0 : ph / D;
        s.used++;
        s.rho += rho;
        s.rho_hat += rho_hat;
        for (size_t c = 0; c < dim; c++) {
            const double na = input ? input->num[i * dim + c] * ua : 0.0;
            const double np = prefix->num[i * dim + c] * up;
            const double nh = approx ? approx->num[i * dim + c] * uh : 0.0;
            const double base = a > 0.0 ? na / a : 0.0;
            const double mean = p > 0.0 ? np / p : 0.0;
            const double pa = (na + np) / exact;
            const double t = empty ? 0.0 : (na + nh) / D;
            const double e = t - pa;
            const double by_mass = (rho_hat - rho) * (mean - base);
            /* rho^ (mean^ - mean), which stays finite where p^ = 0. */
            const double by_mean = empty ? 0.0 : (nh - ph * mean) / D;
            if (T) T[i * dim + c] = t;
            if (!isfinite(e)) return GSL_EDOM;
            out->err_max = fmax(out->err_max, fabs(e));
            s.err2 += e * e;
            s.effect2 += (pa - base) * (pa - base);
            s.out2 += pa * pa;
            s.mass2 += by_mass * by_mass;
            s.mean2 += by_mean * by_mean;
        }
    }
    set_errors(&s, out);
    return GSL_SUCCESS;
}

void approx_errors_merge(struct approx_errors *into, const struct approx_errors *more)
{
    if (!into->num_rows || !more->num_rows) {
        const size_t bad = into->num_nonpositive + more->num_nonpositive;
        if (!into->num_rows) *into = *more;
        into->num_nonpositive = bad;
        return;
    }
    const double a = (double)into->num_rows, b = (double)more->num_rows, all = a + b;
    const double ea = into->effect_rms * into->effect_rms * a, eb = more->effect_rms * more->effect_rms * b;
    into->err_max = fmax(into->err_max, more->err_max);
    into->err_rel = sqrt((into->err_rel * into->err_rel * ea + more->err_rel * more->err_rel * eb) / (ea + eb));
    into->err_mass = sqrt((into->err_mass * into->err_mass * ea + more->err_mass * more->err_mass * eb) / (ea + eb));
    into->err_mean = sqrt((into->err_mean * into->err_mean * ea + more->err_mean * more->err_mean * eb) / (ea + eb));
    into->abs_rms = sqrt((into->abs_rms * into->abs_rms * a + more->abs_rms * more->abs_rms * b) / all);
    into->effect_rms = sqrt((ea + eb) / all);
    into->out_rms = sqrt((into->out_rms * into->out_rms * a + more->out_rms * more->out_rms * b) / all);
    into->rho_mean = (into->rho_mean * a + more->rho_mean * b) / all;
    into->mass_mean = (into->mass_mean * a + more->mass_mean * b) / all;
    into->num_nonpositive += more->num_nonpositive;
    into->num_rows += more->num_rows;
}
