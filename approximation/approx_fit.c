/* Summaries (Z, k): accumulated from a prefix, fitted by least squares, trained by Adam. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_cblas.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_linalg.h>

#include "approximation/approx.h"

void summary_add(const double *Phi_k, const double *V, size_t count, size_t r, size_t dim,
                 double *Z, double *k)
{
    if (!count) return;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)r, (int)dim, (int)count, 1.0, Phi_k,
                (int)r, V, (int)dim, 1.0, Z, (int)dim);
    for (size_t i = 0; i < count; i++) cblas_daxpy((int)r, 1.0, Phi_k + i * r, 1, k, 1);
}

void summary_apply(const double *Phi, size_t r, const double *Z, const double *k,
                   struct attn_sums *out)
{
    const int n = (int)out->num_queries, dim = (int)out->dim;
    memset(out->shift, 0, out->num_queries * sizeof *out->shift);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, dim, (int)r, 1.0, Phi, (int)r, Z, dim,
                0.0, out->num, dim);
    cblas_dgemv(CblasRowMajor, CblasNoTrans, n, (int)r, 1.0, Phi, (int)r, k, 1, 0.0, out->mass, 1);
}

/* ---- least squares ---- */

/* x[0..cols) of each column solves (G + ridge tr(G)/r I) X = C; C (r, cols) is
 * overwritten. GSL_EDOM when the matrix is not positive definite. */
static int solve_ridge(const double *G, size_t r, double ridge, double *C, size_t cols, double *work)
{
    double trace = 0.0;
    for (size_t i = 0; i < r; i++) trace += G[i * r + i];
    memcpy(work, G, r * r * sizeof *work);
    for (size_t i = 0; i < r; i++) work[i * r + i] += ridge * trace / (double)r;
    gsl_matrix_view L = gsl_matrix_view_array(work, r, r);
    if (gsl_linalg_cholesky_decomp1(&L.matrix)) return GSL_EDOM;
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (int)r, (int)cols,
                1.0, work, (int)r, C, (int)cols);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, (int)r, (int)cols,
                1.0, work, (int)r, C, (int)cols);
    return GSL_SUCCESS;
}

/* One function, as both loops of the algorithm work on the same active set. */
int nnls_normal(const double *G, const double *c, size_t r, double *x)
{
    double *w = malloc(r * sizeof *w), *s = malloc(r * sizeof *s), *sub = malloc(r * r * sizeof *sub);
    size_t *set = malloc(r * sizeof *set);
    char *passive = calloc(r, 1);
    int status = GSL_ENOMEM;
    if (!w || !s || !sub || !set || !passive) goto done;
    double size = 0.0;
    for (size_t i = 0; i < r; i++) size = fmax(size, fabs(c[i]));
    memset(x, 0, r * sizeof *x);
    status = GSL_SUCCESS;
    /* Each outer step admits one variable; a finite number of sets bounds the work, and
     * 10 r steps bound what rounding can add. */
    for (size_t step = 0; step < 10 * r; step++) {
        memcpy(w, c, r * sizeof *w);
        cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)r, (int)r, -1.0, G, (int)r, x, 1, 1.0, w, 1);
        size_t best = r;
        for (size_t i = 0; i < r; i++)
            if (!passive[i] && w[i] > 1e-12 * size && (best == r || w[i] > w[best])) best = i;
        if (best == r) break;
        passive[best] = 1;
        for (;;) {
            size_t count = 0;
            for (size_t i = 0; i < r; i++)
                if (passive[i]) set[count++] = i;
            if (!count) break;
            for (size_t i = 0; i < count; i++) {
                s[i] = c[set[i]];
                for (size_t j = 0; j < count; j++) sub[i * count + j] = G[set[i] * r + set[j]];
                sub[i * count + i] *= 1.0 + 1e-13;
            }
            gsl_matrix_view A = gsl_matrix_view_array(sub, count, count);
            gsl_vector_view b = gsl_vector_view_array(s, count);
            if (gsl_linalg_cholesky_decomp1(&A.matrix) ||
                gsl_linalg_cholesky_svx(&A.matrix, &b.vector)) {
                /* The newcomer is dependent on the set to working precision: leave it out
                 * and keep the feasible point at hand. */
                passive[best] = 0;
                goto done;
            }
            double alpha = 1.0;
            for (size_t i = 0; i < count; i++)
                if (!(s[i] > 0.0)) alpha = fmin(alpha, x[set[i]] / (x[set[i]] - s[i]));
            if (!isfinite(alpha)) alpha = 0.0;
            int all_positive = 1;
            for (size_t i = 0; i < count; i++) {
                const double to = x[set[i]] + alpha * (s[i] - x[set[i]]);
                if (!(s[i] > 0.0) && to <= 1e-14 * fabs(s[i]) + 1e-300) {
                    x[set[i]] = 0.0;
                    passive[set[i]] = 0;
                    all_positive = 0;
                } else {
                    x[set[i]] = to;
                    if (!(s[i] > 0.0)) all_positive = 0;
                }
            }
            if (all_positive) break;
        }
    }
done:
    free(w);
    free(s);
    free(sub);
    free(set);
    free(passive);
    return status;
}

/* Row i of the two regressions, from logarithms so that nothing overflows. With
 * exact_log = log(a + p): rho and Phi / (a + p). */
static void mass_rows(const struct summary_problem *p, double *A, double *rho)
{
    for (size_t i = 0; i < p->prefix->num_queries; i++) {
        const double lp = attn_sums_log_mass(p->prefix, i), la = attn_sums_log_mass(p->input, i);
        const double top = fmax(lp, la), total = top + log(exp(lp - top) + exp(la - top));
        rho[i] = exp(lp - total);
        for (size_t j = 0; j < p->r; j++) A[i * p->r + j] = p->Phi[i * p->r + j] * exp(-total);
    }
}

/* log D_i with D = a + Phi k; returns the number of rows with D <= 0. */
static size_t log_normaliser(const struct summary_problem *p, const double *k, double *log_d)
{
    size_t bad = 0;
    for (size_t i = 0; i < p->prefix->num_queries; i++) {
        const double shift = p->input->shift[i];
        const double mass = cblas_ddot((int)p->r, p->Phi + i * p->r, 1, k, 1);
        const double D = p->input->mass[i] + mass * exp(-shift);
        if (!(D > 0.0)) bad++;
        log_d[i] = log(D) + shift;
    }
    return bad;
}

static const double ridges[] = { 1e-13, 1e-11, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1 };
enum { NUM_RIDGES = sizeof ridges / sizeof *ridges };

/* G (r, r) both triangles = A^T A and C (r, cols) = A^T B over rows [first, end). */
static void normal_equations(const double *A, const double *B, size_t first, size_t end, size_t r,
                             size_t cols, double *G, double *C)
{
    const int rows = (int)(end - first);
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, (int)r, rows, 1.0, A + first * r, (int)r, 0.0,
                G, (int)r);
    for (size_t i = 0; i < r; i++)
        for (size_t j = 0; j < i; j++) G[j * r + i] = G[i * r + j];
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)r, (int)cols, rows, 1.0, A + first * r,
                (int)r, B + first * cols, (int)cols, 0.0, C, (int)cols);
}

/* sum over rows [first, end) of ||A x - b||^2. */
static double residual(const double *A, const double *B, size_t first, size_t end, size_t r,
                       size_t cols, const double *X, double *row)
{
    double sum = 0.0;
    for (size_t i = first; i < end; i++) {
        memcpy(row, B + i * cols, cols * sizeof *row);
        cblas_dgemv(CblasRowMajor, CblasTrans, (int)r, (int)cols, 1.0, X, (int)cols, A + i * r, 1,
                    -1.0, row, 1);
        sum += cblas_ddot((int)cols, row, 1, row, 1);
    }
    return sum;
}

/* Ridge regression of B (n, cols) on A (n, r), the ridge chosen on the last quarter of
 * the rows from ridges[lowest..]; X (r, cols). *chosen receives its index. */
static int ridge_chosen(const double *A, const double *B, size_t n, size_t r, size_t cols,
                        size_t lowest, double *X, size_t *chosen)
{
    const size_t cut = n - n / 4;
    double *G = malloc(r * r * sizeof *G), *work = malloc(r * r * sizeof *work);
    double *C = malloc(r * cols * sizeof *C), *row = malloc(cols * sizeof *row);
    int status = GSL_ENOMEM;
    if (!G || !work || !C || !row) goto done;
    double best = INFINITY;
    *chosen = lowest;
    normal_equations(A, B, 0, cut, r, cols, G, C);
    for (size_t i = lowest; i < NUM_RIDGES && cut < n; i++) {
        memcpy(X, C, r * cols * sizeof *X);
        if (solve_ridge(G, r, ridges[i], X, cols, work)) continue;
        const double loss = residual(A, B, cut, n, r, cols, X, row);
        if (loss < best) {
            best = loss;
            *chosen = i;
        }
    }
    normal_equations(A, B, 0, n, r, cols, G, C);
    for (status = GSL_EDOM; status && *chosen < NUM_RIDGES; ) {
        memcpy(X, C, r * cols * sizeof *X);
        status = solve_ridge(G, r, ridges[*chosen], X, cols, work);
        if (status) ++*chosen;
    }
done:
    free(G);
    free(work);
    free(C);
    free(row);
    return status;
}

int summary_fit_lstsq(const struct summary_problem *p, int nonnegative, double *Z, double *k)
{
    const size_t n = p->prefix->num_queries, r = p->r, dim = p->prefix->dim;
    double *A = malloc(n * r * sizeof *A), *B = malloc(n * dim * sizeof *B);
    double *rho = malloc(n * sizeof *rho), *log_d = malloc(n * sizeof *log_d);
    double *G = malloc(r * r * sizeof *G), *c = malloc(r * sizeof *c);
    int status = GSL_ENOMEM;
    if (!A || !B || !rho || !log_d || !G || !c) goto done;
    mass_rows(p, A, rho);
    if (nonnegative) {
        normal_equations(A, rho, 0, n, r, 1, G, c);
        if ((status = nnls_normal(G, c, r, k))) goto done;
        if (log_normaliser(p, k, log_d)) { status = GSL_EDOM; goto done; }
    } else {
        status = GSL_EDOM;
        for (size_t lowest = 0; lowest < NUM_RIDGES; lowest++) {
            size_t chosen;
            if ((status = ridge_chosen(A, rho, n, r, 1, lowest, k, &chosen))) goto done;
            status = log_normaliser(p, k, log_d) ? GSL_EDOM : GSL_SUCCESS;
            if (!status) break;
            lowest = chosen;
        }
        if (status) goto done;
    }
    /* T = (Na + Phi Z)/D is to be PA: Phi Z / D fits PA - Na / D. */
    for (size_t i = 0; i < n; i++) {
        const double lp = attn_sums_log_mass(p->prefix, i), la = attn_sums_log_mass(p->input, i);
        const double top = fmax(lp, la), total = top + log(exp(lp - top) + exp(la - top));
        const double ua = exp(p->input->shift[i] - total), up = exp(p->prefix->shift[i] - total);
        const double ud = exp(p->input->shift[i] - log_d[i]), scale = exp(-log_d[i]);
        for (size_t j = 0; j < r; j++) A[i * r + j] = p->Phi[i * r + j] * scale;
        for (size_t j = 0; j < dim; j++) {
            const double na = p->input->num[i * dim + j], np = p->prefix->num[i * dim + j];
            B[i * dim + j] = na * ua + np * up - na * ud;
        }
    }
    size_t chosen;
    status = ridge_chosen(A, B, n, r, dim, 0, Z, &chosen);
done:
    free(A);
    free(B);
    free(rho);
    free(log_d);
    free(G);
    free(c);
    return status;
}

/* ---- Adam ---- */

enum { ADAM_ARRAYS = 3 };                 /* gradient and its two moments */

static void adam_step(double *x, const double *grad, double *m1, double *m2, size_t n, double lr,
                      size_t step)
{
    const double b1 = 0.9, b2 = 0.999, eps = 1e-8;
    const double c1 = 1.0 - pow(b1, (double)step), c2 = 1.0 - pow(b2, (double)step);
    for (size_t i = 0; i < n; i++) {
        m1[i] = b1 * m1[i] + (1.0 - b1) * grad[i];
        m2[i] = b2 * m2[i] + (1.0 - b2) * grad[i] * grad[i];
        x[i] -= lr * (m1[i] / c1) / (sqrt(m2[i] / c2) + eps);
    }
}

/* Features in units of the input's shift, and the exact outputs. The output does not change when a row of Phi and its
 * input sums share a factor, so the shift is taken into Phi once. */
static void adam_problem(const struct summary_problem *p, double *Phi, double *target)
{
    const size_t n = p->prefix->num_queries, r = p->r, dim = p->prefix->dim;
    for (size_t i = 0; i < n; i++) {
        const double unit = exp(-p->input->shift[i]);
        for (size_t j = 0; j < r; j++) Phi[i * r + j] = p->Phi[i * r + j] * unit;
        const double up = exp(p->prefix->shift[i] - p->input->shift[i]);
        const double total = p->input->mass[i] + p->prefix->mass[i] * up;
        for (size_t j = 0; j < dim; j++)
            target[i * dim + j] = (p->input->num[i * dim + j] + p->prefix->num[i * dim + j] * up) / total;
    }
}

/* k from the parameters, which LINEAR keeps from falling below 0. */
static void set_mass(enum summary_param param, size_t r, double *theta, double *k)
{
    for (size_t j = 0; j < r; j++) {
        if (param == SUMMARY_LINEAR && !(theta[j] > 0.0)) theta[j] = 0.0;
        k[j] = param == SUMMARY_LOG ? exp(theta[j]) : param == SUMMARY_ABS ? fabs(theta[j]) : theta[j];
    }
}

int summary_fit_adam(const struct summary_problem *p, enum summary_param param, double lr,
                     size_t num_steps, size_t batch, double *Z, double *k, double *losses)
{
    const size_t n = p->prefix->num_queries, r = p->r, dim = p->prefix->dim;
    if (!batch || batch > n) return GSL_EINVAL;
    double *Phi = malloc(n * r * sizeof *Phi), *target = malloc(n * dim * sizeof *target);
    double *state = calloc(ADAM_ARRAYS * (r * dim + r) + r, sizeof *state);
    double *N = malloc(batch * dim * sizeof *N), *dD = malloc(batch * sizeof *dD);
    double *mass = malloc(batch * sizeof *mass);
    int status = GSL_ENOMEM;
    if (!Phi || !target || !state || !N || !dD || !mass) goto done;
    double *dZ = state, *Z1 = dZ + r * dim, *Z2 = Z1 + r * dim;
    double *dk = Z2 + r * dim, *k1 = dk + r, *k2 = k1 + r, *theta = k2 + r;
    status = GSL_SUCCESS;
    for (size_t j = 0; j < r; j++) {
        if (param == SUMMARY_LOG && !(k[j] > 0.0)) { status = GSL_EDOM; goto done; }
        theta[j] = param == SUMMARY_LOG ? log(k[j]) : k[j];
    }
    adam_problem(p, Phi, target);
    const size_t num_batches = n / batch;
    for (size_t step = 1; step <= num_steps; step++) {
        const size_t first = ((step - 1) % num_batches) * batch;
        const double *phi = Phi + first * r;
        memcpy(N, p->input->num + first * dim, batch * dim * sizeof *N);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)batch, (int)dim, (int)r, 1.0, phi,
                    (int)r, Z, (int)dim, 1.0, N, (int)dim);
        cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)batch, (int)r, 1.0, phi, (int)r, k, 1, 0.0, mass, 1);
        double loss = 0.0;
        const double unit = 1.0 / (double)(batch * dim);
        for (size_t i = 0; i < batch; i++) {
            const double D = p->input->mass[first + i] + mass[i];
            if (!(D > 0.0) || !isfinite(D)) { status = GSL_EDOM; goto done; }
            double dot = 0.0;
            for (size_t j = 0; j < dim; j++) {
                const double t = N[i * dim + j] / D, e = t - target[(first + i) * dim + j];
                const double g = 2.0 * e * unit;              /* dLoss/dT */
                loss += e * e * unit;
                dot += g * t;
                N[i * dim + j] = g / D;                       /* dN = G/D */
            }
            dD[i] = -dot / D;                                 /* dD = -rowsum(G T)/D */
        }
        if (losses) losses[step - 1] = loss;
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)r, (int)dim, (int)batch, 1.0, phi,
                    (int)r, N, (int)dim, 0.0, dZ, (int)dim);  /* dZ = Phi^T dN */
        cblas_dgemv(CblasRowMajor, CblasTrans, (int)batch, (int)r, 1.0, phi, (int)r, dD, 1, 0.0, dk, 1);
        if (param == SUMMARY_LOG)
            for (size_t j = 0; j < r; j++) dk[j] *= k[j];     /* k = e^theta */
        if (param == SUMMARY_ABS)
            for (size_t j = 0; j < r; j++) dk[j] *= (theta[j] > 0.0) - (theta[j] < 0.0);    /* k = |theta| */
        adam_step(Z, dZ, Z1, Z2, r * dim, lr, step);
        adam_step(theta, dk, k1, k2, r, lr, step);
        set_mass(param, r, theta, k);
    }
done:
    free(Phi);
    free(target);
    free(state);
    free(N);
    free(dD);
    free(mass);
    return status;
}
