/* Laws and references of approximation/approx: plain loops from the equations. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <gsl/gsl_errno.h>

#include "approximation/approx.h"
#include "approximation/approx_theory.h"
#include "common/isa.h"
#include "common/random.h"

enum { N = 7, DIM = 5, LEN = 6, M = 37, R = 4 };
static const double SCALE = 0.4472135954999579;           /* 1/sqrt(5) */
static const double RTOL_ROUNDOFF = 1e-12, RTOL_EXP = 1e-15;
static const double RTOL_SOLVE = 1e-6;                     /* ridge 1e-13 of the mean diagonal */

struct instance { double Q[N * DIM], K[LEN * DIM], V[LEN * DIM], Kp[M * DIM], Vp[M * DIM]; };

static void draw(struct instance *x, uint64_t trial)
{
    random_normal(11, RANDOM_INPUTS, trial, 0, x->Q, N * DIM);
    random_normal(11, RANDOM_INPUTS, trial, 1, x->K, LEN * DIM);
    random_normal(11, RANDOM_INPUTS, trial, 2, x->V, LEN * DIM);
    random_normal(11, RANDOM_PREFIX, trial, 0, x->Kp, M * DIM);
    random_normal(11, RANDOM_PREFIX, trial, 1, x->Vp, M * DIM);
}

static double dot(const double *a, const double *b)
{
    double s = 0.0;
    for (int c = 0; c < DIM; c++) s += a[c] * b[c];
    return s * SCALE;
}

/* mass and num of w(t) over tokens, the definition. */
static void sums_ref(const struct instance *x, const double *K, const double *V, size_t len, size_t i,
                     double (*weight)(double), double *mass, double *num)
{
    *mass = 0.0;
    for (int c = 0; c < DIM; c++) num[c] = 0.0;
    for (size_t j = 0; j < len; j++) {
        const double w = weight(dot(x->Q + i * DIM, K + j * DIM));
        *mass += w;
        for (int c = 0; c < DIM; c++) num[c] += w * V[j * DIM + c];
    }
}

static double weight_exp(double t) { return exp(t); }
static double weight_half(double t) { return exp(0.5 * t); }
static double weight_value(double t) { return 1.0 + 0.9 * t + 0.4 * t * t + 0.2 * t * t * t; }
static double weight_mass(double t) { return 1.1 + t + 0.55 * t * t; }

static void test_exp(void **state)
{
    (void)state;
    double x[1000], y[1000];
    random_normal(3, RANDOM_OTHER, 0, 0, x, 1000);
    for (int i = 0; i < 1000; i++) x[i] *= i < 500 ? 3.0 : 250.0;
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        assert_int_equal(isa_force((enum isa)isa), GSL_SUCCESS);
        approx_exp(1000, x, y);
        for (int i = 0; i < 1000; i++)
            if (fabs(x[i]) < 700.0) CHECK_CLOSE(y[i], exp(x[i]), RTOL_EXP, 0.0);
        const double edge[] = { -709.0, 710.0, NAN, 0.0 };
        approx_exp(4, edge, y);
        assert_true(y[0] == 0.0 && y[1] == INFINITY && isnan(y[2]) && y[3] == 1.0);
    }
}

static void test_exact_sums(void **state)
{
    (void)state;
    struct instance x;
    draw(&x, 1);
    struct attn_sums s;
    assert_int_equal(attn_sums_alloc(&s, N, DIM), GSL_SUCCESS);
    assert_int_equal(attn_sums_exact(x.Q, x.K, x.V, LEN, SCALE, &s), GSL_SUCCESS);
    for (size_t i = 0; i < N; i++) {
        double mass, num[DIM];
        sums_ref(&x, x.K, x.V, LEN, i, weight_exp, &mass, num);
        CHECK_CLOSE(s.mass[i] * exp(s.shift[i]), mass, RTOL_ROUNDOFF, 0.0);
        CHECK_CLOSE(exp(attn_sums_log_mass(&s, i)), mass, RTOL_ROUNDOFF, 0.0);
        for (int c = 0; c < DIM; c++)
            CHECK_CLOSE(s.num[i * DIM + (size_t)c] * exp(s.shift[i]), num[c], RTOL_ROUNDOFF, 1e-13);
    }
    x.K[3] = NAN;
    assert_int_equal(attn_sums_exact(x.Q, x.K, x.V, LEN, SCALE, &s), GSL_EDOM);
    attn_sums_free(&s);
}

/* Block after block equals the definition; a shift changes nothing; several
 * temperatures share the keys. */
static void test_prefix_stream(void **state)
{
    (void)state;
    struct instance x;
    draw(&x, 2);
    const double temps[] = { 1.0, 0.5 };
    double shift[N];
    for (int i = 0; i < N; i++) shift[i] = 0.3 * i - 0.7;
    const double num[] = { 1.0, 0.9, 0.4, 0.2 }, den[] = { 1.1, 1.0, 0.55 };
    for (int shifted = 0; shifted < 2; shifted++) {
        struct prefix_sums p, q;
        struct attn_sums s;
        assert_int_equal(prefix_sums_alloc(&p, N, DIM, SCALE, 3, temps, 2, shifted ? shift : NULL, 1), GSL_SUCCESS);
        assert_int_equal(prefix_sums_alloc(&q, N, DIM, SCALE, 3, temps, 2, NULL, 1), GSL_SUCCESS);
        assert_int_equal(attn_sums_alloc(&s, N, DIM), GSL_SUCCESS);
        for (size_t first = 0; first < M; ) {
            size_t end = prefix_sums_block_end(first);
            if (end > M) end = M;
            assert_int_equal(prefix_sums_add(&p, x.Q, x.Kp + first * DIM, x.Vp + first * DIM, end - first),
                             GSL_SUCCESS);
            first = end;
        }
        assert_int_equal(prefix_sums_copy(&q, &p), GSL_SUCCESS);
        assert_int_equal(q.prefix_len, M);
        double top = 0.0;
        for (size_t j = 0; j < M; j++) {
            double norm = 0.0;
            for (int c = 0; c < DIM; c++) norm += x.Kp[j * DIM + (size_t)c] * x.Kp[j * DIM + (size_t)c];
            if (sqrt(norm) > top) top = sqrt(norm);
        }
        CHECK_CLOSE(q.max_key_norm, top, RTOL_ROUNDOFF, 0.0);
        for (size_t i = 0; i < N; i++) {
            double mass, want[DIM], want_mass[DIM];
            for (size_t temp = 0; temp < 2; temp++) {
                assert_int_equal(prefix_sums_exact(&q, temp, &s), GSL_SUCCESS);
                sums_ref(&x, x.Kp, x.Vp, M, i, temp ? weight_half : weight_exp, &mass, want);
                CHECK_CLOSE(s.mass[i] * exp(s.shift[i]), mass, RTOL_ROUNDOFF, 0.0);
                for (int c = 0; c < DIM; c++)
                    CHECK_CLOSE(s.num[i * DIM + (size_t)c] * exp(s.shift[i]), want[c], RTOL_ROUNDOFF, 1e-12);
                /* A factorisation of full rank is the prefix itself. */
                struct attn_sums o;
                assert_int_equal(attn_sums_alloc(&o, N, DIM), GSL_SUCCESS);
                assert_int_equal(prefix_sums_oracle(&q, temp, N, &o), GSL_SUCCESS);
                CHECK_CLOSE(o.mass[i] * exp(o.shift[i]), mass, 1e-10, 0.0);
                attn_sums_free(&o);
            }
            assert_int_equal(prefix_sums_polynomial(&q, 1.0, 0, num, 3, den, 2, &s), GSL_SUCCESS);
            sums_ref(&x, x.Kp, x.Vp, M, i, weight_value, &mass, want);
            sums_ref(&x, x.Kp, x.Vp, M, i, weight_mass, &mass, want_mass);
            CHECK_CLOSE(s.mass[i], mass, RTOL_ROUNDOFF, 1e-12);
            for (int c = 0; c < DIM; c++)
                CHECK_CLOSE(s.num[i * DIM + (size_t)c], want[c], RTOL_ROUNDOFF, 1e-12);
        }
        /* Centred at temperature 0.7, and the Gaussian of the moments: token by token. */
        for (size_t i = 0; i < N; i++) {
            double c = 0.0, c2 = 0.0, mass = 0.0, want = 0.0, vbar = 0.0, cov = 0.0;
            for (size_t j = 0; j < M; j++) {
                const double u = 0.7 * dot(x.Q + i * DIM, x.Kp + j * DIM);
                c += u / M;
                c2 += u * u / M;
                vbar += x.Vp[j * DIM + 1] / M;
                cov += u * x.Vp[j * DIM + 1] / M;
            }
            for (size_t j = 0; j < M; j++) {
                const double u = 0.7 * dot(x.Q + i * DIM, x.Kp + j * DIM) - c;
                mass += exp(c) * weight_mass(u);
                want += exp(c) * weight_value(u) * x.Vp[j * DIM + 1];
            }
            assert_int_equal(prefix_sums_polynomial(&q, 0.7, 1, num, 3, den, 2, &s), GSL_SUCCESS);
            CHECK_CLOSE(s.mass[i] * exp(s.shift[i]), mass, RTOL_ROUNDOFF, 1e-11);
            CHECK_CLOSE(s.num[i * DIM + 1] * exp(s.shift[i]), want, RTOL_ROUNDOFF, 1e-11);
            assert_int_equal(prefix_sums_cumulant(&q, 0.7, &s), GSL_SUCCESS);
            CHECK_CLOSE(attn_sums_log_mass(&s, i), log(M) + c + 0.5 * (c2 - c * c), RTOL_ROUNDOFF, 0.0);
            CHECK_CLOSE(s.num[i * DIM + 1] / s.mass[i], vbar + cov - c * vbar, RTOL_ROUNDOFF, 1e-12);
        }
        assert_int_equal(prefix_sums_polynomial(&q, 1.0, 0, num, 4, den, 2, &s), GSL_EINVAL);
        prefix_sums_free(&p);
        prefix_sums_free(&q);
        attn_sums_free(&s);
    }
}

/* The oracle leaves the Eckart-Young residual: ||E - U U^T E||_F^2 is the sum of the
 * eigenvalues left out, so one rank more never hurts, and rank 1 is the rank-1 SVD. */
static void test_oracle_residual(void **state)
{
    (void)state;
    struct instance x;
    draw(&x, 3);
    double E[N * M], before = INFINITY;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < M; j++) E[i * M + j] = exp(dot(x.Q + i * DIM, x.Kp + j * DIM));
    for (size_t rank = 1; rank <= N; rank++) {
        /* Token by token with one-hot values: num is then the factorised E itself. */
        double residual = 0.0;
        struct prefix_sums p;
        struct attn_sums s;
        assert_int_equal(prefix_sums_alloc(&p, N, DIM, SCALE, 0, NULL, 0, NULL, 1), GSL_SUCCESS);
        assert_int_equal(attn_sums_alloc(&s, N, DIM), GSL_SUCCESS);
        for (int chunk = 0; chunk < M; chunk += DIM) {
            double onehot[M * DIM] = { 0 };
            for (int c = 0; c < DIM && chunk + c < M; c++) onehot[(chunk + c) * DIM + c] = 1.0;
            prefix_sums_free(&p);
            assert_int_equal(prefix_sums_alloc(&p, N, DIM, SCALE, 0, NULL, 0, NULL, 1), GSL_SUCCESS);
            assert_int_equal(prefix_sums_add(&p, x.Q, x.Kp, onehot, M), GSL_SUCCESS);
            assert_int_equal(prefix_sums_oracle(&p, 0, rank, &s), GSL_SUCCESS);
            for (int i = 0; i < N; i++)
                for (int c = 0; c < DIM && chunk + c < M; c++) {
                    const double e = s.num[i * DIM + c] * exp(s.shift[i]) - E[i * M + chunk + c];
                    residual += e * e;
                }
        }
        prefix_sums_free(&p);
        attn_sums_free(&s);
        if (rank < N) CHECK_LESS(residual, before);
        else CHECK_LESS(sqrt(residual), 1e-9 * before + 1e-9);
        before = residual;
    }
}

/* T - PA is (rho^ - rho)(mean_P - Attn) + rho^ (mean_P^ - mean_P), exactly. */
static void test_exact_split(void **state)
{
    (void)state;
    struct instance x;
    draw(&x, 4);
    struct attn_sums in, p, a;
    attn_sums_alloc(&in, N, DIM);
    attn_sums_alloc(&p, N, DIM);
    attn_sums_alloc(&a, N, DIM);
    attn_sums_exact(x.Q, x.K, x.V, LEN, SCALE, &in);
    attn_sums_exact(x.Q, x.Kp, x.Vp, M, SCALE, &p);
    double mass2 = 0.0, mean2 = 0.0, err2 = 0.0, effect2 = 0.0, worst = 0.0, T[N * DIM];
    for (size_t i = 0; i < N; i++) {
        sums_ref(&x, x.Kp, x.Vp, M, i, weight_value, &a.mass[i], a.num + i * DIM);
        const double ma = in.mass[i] * exp(in.shift[i]), mp = p.mass[i] * exp(p.shift[i]);
        const double rho = mp / (ma + mp), rho_hat = a.mass[i] / (ma + a.mass[i]);
        for (size_t c = 0; c < DIM; c++) {
            const double base = in.num[i * DIM + c] / in.mass[i], mean = p.num[i * DIM + c] / p.mass[i];
            const double pa = (1.0 - rho) * base + rho * mean;
            const double t = (base * ma + a.num[i * DIM + c]) / (ma + a.mass[i]);
            const double d1 = (rho_hat - rho) * (mean - base);
            const double d2 = rho_hat * (a.num[i * DIM + c] / a.mass[i] - mean);
            CHECK_CLOSE(d1 + d2, t - pa, RTOL_ROUNDOFF, 1e-14);
            mass2 += d1 * d1;
            mean2 += d2 * d2;
            err2 += (t - pa) * (t - pa);
            effect2 += (pa - base) * (pa - base);
            worst = fmax(worst, fabs(t - pa));
        }
    }
    struct approx_errors e;
    assert_int_equal(approx_compare(&in, &p, &a, &e, T), GSL_SUCCESS);
    CHECK_CLOSE(e.err_max, worst, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(e.err_rel, sqrt(err2 / effect2), RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(e.err_mass, sqrt(mass2 / effect2), RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(e.err_mean, sqrt(mean2 / effect2), RTOL_ROUNDOFF, 0.0);
    assert_int_equal(e.num_nonpositive, 0);
    /* No prefix at all is off by the whole effect; the prefix itself by nothing. */
    assert_int_equal(approx_compare(&in, &p, NULL, &e, NULL), GSL_SUCCESS);
    CHECK_CLOSE(e.err_rel, 1.0, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(e.err_mean, 0.0, 0.0, 1e-14);
    assert_int_equal(approx_compare(&in, &p, &p, &e, NULL), GSL_SUCCESS);
    CHECK_CLOSE(e.err_max, 0.0, 0.0, 1e-14);
    /* Two halves merged are the whole. */
    struct attn_sums half[3] = { in, p, a };
    struct approx_errors whole, both = { 0 }, part;
    assert_int_equal(approx_compare(&in, &p, &a, &whole, NULL), GSL_SUCCESS);
    for (size_t h = 0; h < 2; h++) {
        for (size_t s = 0; s < 3; s++) {
            const struct attn_sums *from = s == 0 ? &in : s == 1 ? &p : &a;
            half[s] = (struct attn_sums){ h ? N - 3 : 3, DIM, from->shift + 3 * h, from->mass + 3 * h,
                                          from->num + 3 * h * DIM };
        }
        assert_int_equal(approx_compare(&half[0], &half[1], &half[2], &part, NULL), GSL_SUCCESS);
        approx_errors_merge(&both, &part);
    }
    CHECK_CLOSE(both.err_rel, whole.err_rel, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(both.err_max, whole.err_max, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(both.err_mass, whole.err_mass, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(both.rho_mean, whole.rho_mean, RTOL_ROUNDOFF, 0.0);
    assert_int_equal(both.num_rows, N);
    /* A planted change of one mass is seen. */
    a.mass[2] = -2.0 * in.mass[2] * exp(in.shift[2]);
    assert_int_equal(approx_compare(&in, &p, &a, &e, NULL), GSL_SUCCESS);
    assert_int_equal(e.num_nonpositive, 1);
    assert_false(is_close(e.err_rel, sqrt(err2 / effect2), RTOL_ROUNDOFF, 0.0));
    attn_sums_free(&in);
    attn_sums_free(&p);
    attn_sums_free(&a);
}

/* |p(t)/e^t - 1| <= eps on every entry gives max |T - PA| <= 2 eps rho/(1 - eps rho) max |v|. */
static void test_bound(void **state)
{
    (void)state;
    for (uint64_t trial = 10; trial < 30; trial++) {
        struct instance x;
        draw(&x, trial);
        struct attn_sums in, p, a;
        attn_sums_alloc(&in, 1, DIM);
        attn_sums_alloc(&p, 1, DIM);
        attn_sums_alloc(&a, 1, DIM);
        attn_sums_exact(x.Q, x.K, x.V, LEN, SCALE, &in);
        attn_sums_exact(x.Q, x.Kp, x.Vp, M, SCALE, &p);
        sums_ref(&x, x.Kp, x.Vp, M, 0, weight_mass, &a.mass[0], a.num);
        double eps = 0.0, top = 0.0;
        for (size_t j = 0; j < M; j++) {
            const double t = dot(x.Q, x.Kp + j * DIM);
            eps = fmax(eps, fabs(weight_mass(t) / exp(t) - 1.0));
            for (size_t c = 0; c < DIM; c++) top = fmax(top, fabs(x.Vp[j * DIM + c]));
        }
        for (size_t j = 0; j < LEN * DIM; j++) top = fmax(top, fabs(x.V[j]));
        struct approx_errors e;
        assert_int_equal(approx_compare(&in, &p, &a, &e, NULL), GSL_SUCCESS);
        if (eps * e.rho_mean < 1.0)
            CHECK_LESS(e.err_max, 2.0 * eps * e.rho_mean / (1.0 - eps * e.rho_mean) * top);
        attn_sums_free(&in);
        attn_sums_free(&p);
        attn_sums_free(&a);
    }
}

/* Scores of 10^4: the log-space comparison stays finite and right. */
static void test_extreme_scores(void **state)
{
    (void)state;
    struct instance x;
    draw(&x, 5);
    for (int i = 0; i < N * DIM; i++) x.Q[i] *= 4000.0;
    struct attn_sums in, p;
    attn_sums_alloc(&in, N, DIM);
    attn_sums_alloc(&p, N, DIM);
    attn_sums_exact(x.Q, x.K, x.V, LEN, SCALE, &in);
    attn_sums_exact(x.Q, x.Kp, x.Vp, M, SCALE, &p);
    struct approx_errors e;
    double T[N * DIM];
    assert_int_equal(approx_compare(&in, &p, &p, &e, T), GSL_SUCCESS);
    CHECK_CLOSE(e.err_max, 0.0, 0.0, 1e-12);
    /* One-hot: the output is the value of the best key of all. */
    for (size_t i = 0; i < N; i++) {
        double best = -INFINITY;
        const double *v = NULL;
        for (size_t j = 0; j < LEN + M; j++) {
            const double *k = j < LEN ? x.K + j * DIM : x.Kp + (j - LEN) * DIM;
            const double t = dot(x.Q + i * DIM, k);
            if (t > best) {
                best = t;
                v = j < LEN ? x.V + j * DIM : x.Vp + (j - LEN) * DIM;
            }
        }
        CHECK_ALL_CLOSE(T + i * DIM, v, DIM, 1e-9, 1e-9);
    }
    attn_sums_free(&in);
    attn_sums_free(&p);
}

/* A summary that fits exactly is found: the prefix is made of features. */
static void test_lstsq(void **state)
{
    (void)state;
    enum { ROWS = 60 };
    double Q[ROWS * DIM], Phi[ROWS * R], Z[R * DIM], k[R], Zf[R * DIM], kf[R];
    struct instance x;
    draw(&x, 6);
    random_normal(5, RANDOM_INPUTS, 0, 0, Q, ROWS * DIM);
    random_uniform(5, RANDOM_FEATURES, 0, 0, Phi, ROWS * R);
    random_uniform(5, RANDOM_FEATURES, 0, 1, k, R);
    random_normal(5, RANDOM_FEATURES, 0, 2, Z, R * DIM);
    k[1] = 0.0;
    struct attn_sums in, p, a;
    attn_sums_alloc(&in, ROWS, DIM);
    attn_sums_alloc(&p, ROWS, DIM);
    attn_sums_alloc(&a, ROWS, DIM);
    attn_sums_exact(Q, x.K, x.V, LEN, SCALE, &in);
    summary_apply(Phi, R, Z, k, &p);
    double mass = 0.0;
    for (int j = 0; j < R; j++) mass += Phi[3 * R + j] * k[j];
    CHECK_CLOSE(p.mass[3], mass, RTOL_ROUNDOFF, 0.0);
    const struct summary_problem problem = { R, Phi, &in, &p };
    for (int nonnegative = 0; nonnegative < 2; nonnegative++) {
        assert_int_equal(summary_fit_lstsq(&problem, nonnegative, Zf, kf), GSL_SUCCESS);
        CHECK_ALL_CLOSE(kf, k, R, RTOL_SOLVE, 1e-9);
        CHECK_ALL_CLOSE(Zf, Z, R * DIM, RTOL_SOLVE, 1e-7);
    }
    /* A negative mass wanted: k >= 0 holds and the normal equations' own conditions do. */
    double G[R * R] = { 0 }, c[R] = { 0 }, sol[R];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < R; j++) {
            c[j] += Phi[i * R + j] * (Phi[i * R] - 0.8 * Phi[i * R + 1] + 0.1 * Q[i]);
            for (int l = 0; l < R; l++) G[j * R + l] += Phi[i * R + j] * Phi[i * R + l];
        }
    assert_int_equal(nnls_normal(G, c, R, sol), GSL_SUCCESS);
    int clipped = 0;
    for (int j = 0; j < R; j++) {
        double w = c[j];
        for (int l = 0; l < R; l++) w -= G[j * R + l] * sol[l];
        assert_true(sol[j] >= 0.0);
        if (sol[j] > 0.0) CHECK_CLOSE(w, 0.0, 0.0, 1e-9);
        else {
            CHECK_LESS(w, 1e-9);
            clipped++;
        }
    }
    assert_true(clipped > 0);
    attn_sums_free(&in);
    attn_sums_free(&p);
    attn_sums_free(&a);
}

static double adam_loss(const struct summary_problem *p, const double *Z, const double *k)
{
    struct attn_sums a;
    struct approx_errors e;
    attn_sums_alloc(&a, p->prefix->num_queries, p->prefix->dim);
    summary_apply(p->Phi, p->r, Z, k, &a);
    approx_compare(p->input, p->prefix, &a, &e, NULL);
    attn_sums_free(&a);
    return e.abs_rms * e.abs_rms / DIM;
}

/* The loss Adam reports is the mean squared error; its first step moves every entry by
 * lr against the sign of a central difference; many steps bring the loss down. */
static void test_adam(void **state)
{
    (void)state;
    struct instance x;
    draw(&x, 7);
    double Phi[N * R], Z[R * DIM] = { 0 }, k[R] = { 0.31, 0.17, 0.4, 0.23 }, Z1[R * DIM], k1[R], loss[400];
    random_uniform(5, RANDOM_FEATURES, 9, 0, Phi, N * R);
    struct attn_sums in, p;
    attn_sums_alloc(&in, N, DIM);
    attn_sums_alloc(&p, N, DIM);
    attn_sums_exact(x.Q, x.K, x.V, LEN, SCALE, &in);
    attn_sums_exact(x.Q, x.Kp, x.Vp, M, SCALE, &p);
    const struct summary_problem problem = { R, Phi, &in, &p };
    for (int param = SUMMARY_LINEAR; param <= SUMMARY_LOG; param++) {
        memcpy(Z1, Z, sizeof Z);
        memcpy(k1, k, sizeof k);
        assert_int_equal(summary_fit_adam(&problem, (enum summary_param)param, 1e-3, 1, N, Z1, k1, loss), GSL_SUCCESS);
        CHECK_CLOSE(loss[0], adam_loss(&problem, Z, k), RTOL_ROUNDOFF, 0.0);
        for (int j = 0; j < R + R * DIM; j++) {
            double Zs[R * DIM], ks[R];
            double side[2];
            for (int s = 0; s < 2; s++) {
                memcpy(Zs, Z, sizeof Z);
                memcpy(ks, k, sizeof k);
                (j < R ? ks + j : Zs + (j - R))[0] += (s ? 1.0 : -1.0) * 1e-5;
                side[s] = adam_loss(&problem, Zs, ks);
            }
            const double slope = (side[1] - side[0]) / 2e-5;
            const double moved = j < R ? (param == SUMMARY_LOG ? log(k1[j] / k[j]) : k1[j] - k[j])
                                       : Z1[j - R] - Z[j - R];
            assert_true(fabs(slope) > 1e-6);
            CHECK_CLOSE(moved, slope > 0.0 ? -1e-3 : 1e-3, 1e-2, 0.0);
        }
        assert_int_equal(summary_fit_adam(&problem, (enum summary_param)param, 0.05, 400, N, Z1, k1, loss),
                         GSL_SUCCESS);
        CHECK_LESS(loss[399], 0.5 * loss[0]);
    }
    /* k below 0: projected by one, kept by the other. */
    k[2] = -0.02;
    memcpy(k1, k, sizeof k);
    assert_int_equal(summary_fit_adam(&problem, SUMMARY_LINEAR, 1e-3, 1, N, Z1, k1, loss), GSL_SUCCESS);
    assert_true(k1[2] == 0.0);
    memcpy(k1, k, sizeof k);
    assert_int_equal(summary_fit_adam(&problem, SUMMARY_FREE, 1e-3, 1, N, Z1, k1, loss), GSL_SUCCESS);
    CHECK_CLOSE(fabs(k1[2] - k[2]), 1e-3, 1e-2, 0.0);
    /* |theta|: a negative theta moves as its absolute value does, one at 0 never. */
    k1[2] = -0.02;
    k1[1] = 0.0;
    assert_int_equal(summary_fit_adam(&problem, SUMMARY_ABS, 1e-3, 1, N, Z1, k1, loss), GSL_SUCCESS);
    CHECK_CLOSE(fabs(k1[2] - 0.02), 1e-3, 1e-2, 0.0);
    assert_true(k1[1] == 0.0);
    k[2] = 0.0;
    assert_int_equal(summary_fit_adam(&problem, SUMMARY_LOG, 0.05, 1, N, Z1, k, loss), GSL_EDOM);
    attn_sums_free(&in);
    attn_sums_free(&p);
}

/* E p'(t) / E p(t) by a trapezoidal rule: odd Taylor degrees give 1, even ones the closed form. */
static void test_taylor_shrink(void **state)
{
    (void)state;
    for (size_t g = 0; g <= 6; g++) {
        const double sd = 0.9;
        double c[7], f = 1.0, p = 0.0, dp = 0.0;
        for (size_t j = 0; j <= g; j++) {
            c[j] = 1.0 / f;
            f *= (double)(j + 1);
        }
        const double h = 1e-3;
        for (int i = -9000; i <= 9000; i++) {
            const double z = i * h, t = sd * z, w = h * exp(-0.5 * z * z) / sqrt(2.0 * M_PI);
            double v = 0.0, dv = 0.0;
            for (size_t j = g + 1; j-- > 0; ) {
                dv = dv * t + v;
                v = v * t + c[j];
            }
            p += w * v;
            dp += w * dv;
        }
        CHECK_CLOSE(taylor_shrink(g, sd), dp / p, 1e-10, 1e-12);
        }
    CHECK_CLOSE(taylor_shrink(2, 1.0), 1.0 / 1.5, RTOL_ROUNDOFF, 0.0);
    assert_false(is_close(taylor_shrink(2, 1.0), taylor_shrink(4, 1.0), 0.1, 0.0));
}

/* Degrees: the bound holds at the degree given and fails one below; the true relative
 * error of the Taylor polynomial at both ends is below it. */
static void test_degrees(void **state)
{
    (void)state;
    const double bs[] = { 0.3, 1.0, 4.5, 11.0 }, log_eps[] = { -1.0, -5.5, -14.0 };
    for (size_t bi = 0; bi < 4; bi++)
        for (size_t ei = 0; ei < 3; ei++) {
            const double b = bs[bi];
            const size_t g = taylor_degree_bound(b, log_eps[ei]);
            const double here = (double)(g + 1) * log(b) + b - lgamma((double)g + 2.0);
            CHECK_LESS(here, log_eps[ei] + 1e-12);
            if (g) assert_true((double)g * log(b) + b - lgamma((double)g + 1.0) > log_eps[ei]);
            double minus = 0.0, term = 1.0;
            for (size_t j = 0; j <= g; j++) {
                minus += term;
                term *= -b / (double)(j + 1);
            }
            CHECK_LESS(fabs(minus * exp(b) - 1.0), exp(log_eps[ei]) + 1e-9);
        }
    assert_int_equal(taylor_degree_bound(0.0, -3.0), 0);
    CHECK_CLOSE(exp(log_feature_count(8.0, 3.0)), 165.0, RTOL_ROUNDOFF, 0.0);
    CHECK_CLOSE(aggarwal_alman_rate(1.0, 20.0), 20.0 / log(20.0), RTOL_ROUNDOFF, 0.0);
}

/* The rate's formula against its definition by Monte Carlo: two queries, weights e^{t - s^2/2}. */
static void test_limit_rate(void **state)
{
    (void)state;
    enum { DRAWS = 200000 };
    const double u[2][2] = { { 0.5, -0.2 }, { 0.1, 0.6 } };
    double spread[2], norm2[2], sum = 0.0, below = 0.0;
    for (int i = 0; i < 2; i++) {
        norm2[i] = u[i][0] * u[i][0] + u[i][1] * u[i][1];
        spread[i] = sqrt(norm2[i]);
        below += norm2[i];
    }
    for (uint64_t r = 0; r < DRAWS; r++) {
        double p[2];
        random_normal(5, RANDOM_PREFIX, 77, r, p, 2);
        for (int i = 0; i < 2; i++) {
            const double w = exp(p[0] * u[i][0] + p[1] * u[i][1] - 0.5 * norm2[i]);
            for (int c = 0; c < 2; c++) sum += w * w * (p[c] - u[i][c]) * (p[c] - u[i][c]) / DRAWS;
        }
    }
    const double RTOL_MONTE_CARLO = 0.03;
    CHECK_CLOSE(gaussian_limit_rate(spread, norm2, 2, 2.0, 100.0), sqrt(sum / (100.0 * below)),
                RTOL_MONTE_CARLO, 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),          cmocka_unit_test(test_exact_sums),
        cmocka_unit_test(test_prefix_stream), cmocka_unit_test(test_oracle_residual),
        cmocka_unit_test(test_exact_split),  cmocka_unit_test(test_bound),
        cmocka_unit_test(test_extreme_scores), cmocka_unit_test(test_lstsq),
        cmocka_unit_test(test_adam),          cmocka_unit_test(test_taylor_shrink),
        cmocka_unit_test(test_degrees),       cmocka_unit_test(test_limit_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
