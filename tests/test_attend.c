/* The attend program against plain loops in double, and all it refuses. */
#include "common/npy.h"
#include "common/random.h"
#include "prefix_ntk/feature.h"
#include "tests/support/check.h"
#include "tests/support/feature_ref.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUN(...) run_program("attend", __VA_ARGS__, "--quiet", (char *)NULL)

static char why[256];
static const double TOL_GRAD = 2e-6;            /* gradients rounded to float32 against central differences */
static const double TOL_GRAD_F32 = 2e-5;        /* the same from sums in float32, whose terms cancel */
/* where they cancel to 0: terms of size 1, times 2^-24 */
static const double ATOL_GRAD = 1e-8, ATOL_GRAD_F32 = 5e-7;

enum method { EXACT, NTK, LINEAR };

/* One problem; arrays dense, prefix and summary per key/value head when their
 * `apart` is set, else shared by all heads and entries. */
struct problem {
    size_t B, H, Hkv, Lq, Lk, d, m, r;   /* m, r 0: none */
    int causal, prefix_apart, z_apart;
    double largest;                       /* |score| */
    const char *feature;
    enum method method;
    const size_t *lengths;
};

enum { Q, K, V, PK, PV, Z, KVEC, NUM_ARRAYS };
static const char *const array_names[] = { "q", "k", "v", "pk", "pv", "z", "kvec" };
static const char *const grad_names[] = { "dq", "dk", "dv", "dprefix_k", "dprefix_v", "dz", "dkvec" };

static size_t array_size(const struct problem *p, int a)
{
    const size_t prefixes = p->prefix_apart ? p->B * p->Hkv : 1, summaries = p->z_apart ? p->H : 1;
    switch (a) {
    case Q: return p->B * p->H * p->Lq * p->d;
    case K: case V: return p->B * p->Hkv * p->Lk * p->d;
    case PK: case PV: return prefixes * p->m * p->d;
    case Z: return summaries * p->r * p->d;
    default: return summaries * p->r;
    }
}

/* Extents of array `a` into shape; how many. Prefixes and summaries that all share have no batch and no heads. */
static size_t array_shape(const struct problem *p, int a, size_t shape[4])
{
    const bool prefix = a == PK || a == PV, summary = a == Z || a == KVEC;
    size_t rank = 0;
    if (!summary && (!prefix || p->prefix_apart)) {
        shape[rank++] = p->B;
        shape[rank++] = a == Q ? p->H : p->Hkv;
    }
    if (summary && p->z_apart) shape[rank++] = p->H;
    shape[rank++] = summary ? p->r : a == Q ? p->Lq : prefix ? p->m : p->Lk;
    if (a != KVEC) shape[rank++] = p->d;
    return rank;
}

/* Weights of key k seen from query q: value side and mass side. */
static void weigh(const struct problem *p, enum method method, const double *q, const double *k, double *value,
                  double *mass)
{
    double s = 0.0;
    for (size_t c = 0; c < p->d; c++) s += q[c] * k[c] / sqrt((double)p->d);
    if (method == EXACT) {
        *value = *mass = exp(s - p->largest);                 /* one shift for all: ratios do not see it */
        return;
    }
    const double unit = p->method == NTK ? exp(-p->largest) : 1.0;
    if (!strcmp(p->feature, "elu1")) {
        double *phi = malloc(2 * p->d * sizeof *phi);
        feature_ref_elu1(q, p->d, phi);
        feature_ref_elu1(k, p->d, phi + p->d);
        *value = 0.0;
        for (size_t c = 0; c < p->d; c++) *value += phi[c] * phi[p->d + c];
        *mass = *value *= unit;
        free(phi);
        return;
    }
    const int split = !strncmp(p->feature, "split", 5), degree = atoi(strchr(p->feature, ':') + 1);
    double term = 1.0, sum = 1.0;
    for (int j = 1; j <= degree; j++) sum += term *= s / j;
    *mass = sum * unit;
    *value = (sum + (split ? term * s / (degree + 1) : 0.0)) * unit;
}

/* T, and sum of G T when G is given. */
static double reference(const struct problem *p, double *const x[NUM_ARRAYS], const double *G, double *T)
{
    double loss = 0.0, *phi = malloc((p->r + 1) * sizeof *phi), *t = malloc((p->d + 1) * sizeof *t);
    for (size_t b = 0; b < p->B; b++)
        for (size_t h = 0; h < p->H; h++)
            for (size_t i = 0; i < p->Lq; i++) {
                const size_t d = p->d, kv = b * p->Hkv + h / (p->H / p->Hkv), at = ((b * p->H + h) * p->Lq + i) * d;
                const double *q = x[Q] + at;
                double D = 0.0, value, mass;
                memset(t, 0, d * sizeof *t);
                for (size_t j = 0; j < p->m; j++) {
                    const size_t key = ((p->prefix_apart ? kv : 0) * p->m + j) * d;
                    weigh(p, p->method, q, x[PK] + key, &value, &mass);
                    for (size_t c = 0; c < d; c++) t[c] += value * x[PV][key + c];
                    D += mass;
                }
                const size_t keys = p->lengths ? p->lengths[b] : p->Lk;
                for (size_t j = 0; j < keys && (!p->causal || j + p->Lq <= i + p->Lk); j++) {
                    const size_t key = (kv * p->Lk + j) * d;
                    weigh(p, p->method == NTK ? EXACT : p->method, q, x[K] + key, &value, &mass);
                    for (size_t c = 0; c < d; c++) t[c] += value * x[V][key + c];
                    D += mass;
                }
                if (p->r) {
                    if (!strcmp(p->feature, "elu1")) {
                        feature_ref_elu1(q, d, phi);
                    } else {
                        double c[FEATURE_MAX_DEGREE + 1];
                        const size_t degree = (size_t)atoi(strchr(p->feature, ':') + 1) + !strncmp(p->feature, "split",
                            5);
                        for (size_t j = 0; j <= degree; j++) c[j] = 1.0 / tgamma((double)j + 1.0);
                        feature_ref_monomials(q, d, degree, c, 0, phi);
                    }
                    const size_t z = p->z_apart ? h : 0;
                    const double unit = p->method == NTK ? exp(-p->largest) : 1.0;
                    for (size_t a = 0; a < p->r; a++) {
                        D += unit * phi[a] * x[KVEC][z * p->r + a];
                        for (size_t c = 0; c < d; c++) t[c] += unit * phi[a] * x[Z][(z * p->r + a) * d + c];
                    }
                }
                for (size_t c = 0; c < d; c++) {
                    if (T) T[at + c] = t[c] / D;
                    if (G) loss += G[at + c] * t[c] / D;
                }
            }
    free(phi);
    free(t);
    return loss;
}

/* float32 numbers, in double; queries and keys scaled to the largest |score| wanted. */
static void draw(const struct problem *p, double *x[NUM_ARRAYS], uint64_t seed)
{
    double norm[NUM_ARRAYS] = { 0 };
    for (int a = 0; a < NUM_ARRAYS; a++) {
        const size_t n = array_size(p, a);
        x[a] = malloc((n + 1) * sizeof(double));
        random_normal(seed, RANDOM_OTHER, 0, (uint64_t)a, x[a], n);
        for (size_t i = 0; i + p->d <= n; i += p->d) {
            double square = 0.0;
            for (size_t c = 0; c < p->d; c++) square += x[a][i + c] * x[a][i + c];
            norm[a] = fmax(norm[a], sqrt(square));
        }
    }
    const double scale = sqrt(p->largest * sqrt((double)p->d) / (norm[Q] * fmax(norm[K], norm[PK])));
    for (int a = 0; a < NUM_ARRAYS; a++)
        for (size_t i = 0; i < array_size(p, a); i++) {
            if (a == Q || a == K || a == PK) x[a][i] *= scale;
            /* The mass of degree 0 outweighs what could make a denominator negative. */
            if (a == KVEC) x[a][i] = strcmp(p->feature, "elu1") ? (i % p->r ? 0.01 * x[a][i] : 40.0) : fabs(x[a][i]);
            x[a][i] = (float)x[a][i];
        }
}

static void save(void *state, const struct problem *p, double *const x[NUM_ARRAYS])
{
    for (int a = 0; a < NUM_ARRAYS; a++) {
        size_t shape[4];
        char name[32];
        const size_t rank = array_shape(p, a, shape), n = array_size(p, a);
        if (!n) continue;
        snprintf(name, sizeof name, "%s.npy", array_names[a]);
        float *f = malloc(n * sizeof *f);
        for (size_t i = 0; i < n; i++) f[i] = (float)x[a][i];
        /* Both number types are read. */
        if (a % 2) assert_int_equal(npy_write_f64(scratch_path(state, name), x[a], rank, shape, why, sizeof why), 0);
        else assert_int_equal(npy_write_f32(scratch_path(state, name), f, rank, shape, why, sizeof why), 0);
        free(f);
    }
}

/* Words of a command line, in order. */
struct words { const char *word[48]; size_t count; };

static void say(struct words *w, const char *option, const char *value)
{
    assert_true(w->count + 2 < sizeof w->word / sizeof *w->word);
    w->word[w->count++] = option;
    if (value) w->word[w->count++] = value;
}

/* Runs attend on the saved problem, with `more` options (NULL-terminated, or NULL). */
static struct outcome attend(void *state, const struct problem *p, const char *out, const char *const *more)
{
    static const char *const methods[] = { "exact", "ntk", "linear" };
    static const char *const names[] = { "--q", "--k", "--v", "--prefix-k", "--prefix-v", "--z", "--kvec" };
    struct words w = { 0 };
    char lengths[64] = "";
    for (int a = 0; a < NUM_ARRAYS; a++) {
        char file[32];
        snprintf(file, sizeof file, "%s.npy", array_names[a]);
        if (array_size(p, a)) say(&w, names[a], scratch_path(state, file));
    }
    say(&w, "--method", methods[p->method]);
    say(&w, "--feature", p->feature);
    say(&w, "--out", out);
    if (p->causal) say(&w, "--causal", NULL);
    for (size_t b = 0; p->lengths && b < p->B; b++)
        snprintf(lengths + strlen(lengths), sizeof lengths - strlen(lengths), b ? ",%zu" : "%zu", p->lengths[b]);
    if (p->lengths) say(&w, "--lengths", lengths);
    for (size_t i = 0; more && more[i]; i++) say(&w, more[i], NULL);
    say(&w, "--quiet", NULL);
    return run_program_list("attend", w.word);
}

static const size_t ragged[] = { 41, 0, 70 };

static const struct problem problems[] = {
    { .B = 1, .H = 1, .Hkv = 1, .Lq = 1, .Lk = 1, .d = 1, .largest = 0.7, .feature = "elu1", .method = EXACT },
    { .B = 2, .H = 4, .Hkv = 2, .Lq = 33, .Lk = 70, .d = 5, .m = 300, .causal = 1, .prefix_apart = 1, .largest = 3.0,
      .feature = "elu1", .method = EXACT },
    { .B = 3, .H = 2, .Hkv = 1, .Lq = 65, .Lk = 70, .d = 16, .m = 7, .largest = 400.0, .lengths = ragged,
      .feature = "elu1", .method = EXACT },
    { .B = 1, .H = 3, .Hkv = 1, .Lq = 20, .Lk = 31, .d = 3, .m = 40, .largest = 1e-3, .feature = "taylor:2",
      .method = NTK },
    { .B = 2, .H = 4, .Hkv = 2, .Lq = 40, .Lk = 35, .d = 5, .m = 90, .causal = 1, .prefix_apart = 1, .largest = 6.0,
      .feature = "elu1", .method = NTK },
    { .B = 2, .H = 4, .Hkv = 2, .Lq = 40, .Lk = 35, .d = 4, .r = 35, .z_apart = 1, .largest = 1.5, .feature = "split:2",
      .method = NTK },
    { .B = 2, .H = 2, .Hkv = 2, .Lq = 30, .Lk = 35, .d = 3, .m = 50, .r = 20, .prefix_apart = 1, .largest = 30.0,
      .feature = "split:2", .method = NTK },
    { .B = 1, .H = 2, .Hkv = 1, .Lq = 9, .Lk = 12, .d = 4, .m = 30, .causal = 1, .largest = 400.0,
      .feature = "taylor:4", .method = NTK },
    { .B = 2, .H = 2, .Hkv = 1, .Lq = 70, .Lk = 81, .d = 4, .m = 20, .causal = 1, .largest = 2.0, .feature = "split:2",
      .method = LINEAR },
    { .B = 3, .H = 4, .Hkv = 2, .Lq = 70, .Lk = 70, .d = 6, .m = 20, .r = 6, .z_apart = 1, .prefix_apart = 1,
      .largest = 5.0, .lengths = ragged, .feature = "elu1", .method = LINEAR },
    /* More than 4096 features: on the scores. C(21, 4) = 5985. */
    { .B = 1, .H = 2, .Hkv = 1, .Lq = 70, .Lk = 90, .d = 17, .m = 300, .causal = 1, .largest = 2.0,
      .feature = "taylor:4", .method = NTK },
    { .B = 2, .H = 2, .Hkv = 2, .Lq = 70, .Lk = 75, .d = 17, .m = 30, .causal = 1, .prefix_apart = 1, .largest = 2.0,
      .feature = "taylor:4", .method = LINEAR },
};
enum { NUM_PROBLEMS = sizeof problems / sizeof *problems };

/* Problems that the float32 kernels are for: a summary of listed features, scores whose e^s float32 holds. */
static int fits_f32(const struct problem *p)
{
    return p->largest < 100.0 && (p->method == EXACT || p->d < 17);
}

/* Rounding of outputs to float32 and of scores up to `largest`; f32: of features and sums as well, whose terms
 * cancel. */
static double tolerance_of(const struct problem *p, int f32)
{
    return (f32 ? 2e-5 : 2e-6) + 0x1p-23 * p->largest;
}

static void check_output(void *state, size_t n, int f32)
{
    const struct problem *p = &problems[n];
    double *x[NUM_ARRAYS];
    draw(p, x, 700 + n);
    save(state, p, x);
    const char *out = scratch_path(state, "out.npy");
    struct outcome o = attend(state, p, out, f32 ? (const char *const[]){ "--precision", "f32", NULL } : NULL);
    if (o.code) fail_msg("problem %zu: exit %d, %s", n, o.code, o.err);
    assert_string_equal(o.out, "");
    outcome_free(&o);
    struct npy a;
    assert_int_equal(npy_read(out, 0, &a, why, sizeof why), 0);
    assert_true(a.is_float32 && a.rank == 4 && a.size == array_size(p, Q));
    double *T = malloc(a.size * sizeof *T), scale = 0.0;
    reference(p, x, NULL, T);
    for (size_t i = 0; i < a.size; i++) scale = fmax(scale, fabs(T[i]));
    const double tolerance = tolerance_of(p, f32) * scale;
    for (size_t i = 0; i < a.size; i++) CHECK_CLOSE(a.f64[i], T[i], 0.0, tolerance);
    assert_false(is_close(a.f64[0] + 2.1 * tolerance, T[0], 0.0, tolerance));
    npy_free(&a);
    free(T);
    for (int i = 0; i < NUM_ARRAYS; i++) free(x[i]);
}

static void agrees_with_loops(void **state)
{
    for (size_t n = 0; n < NUM_PROBLEMS; n++) check_output(*state, n, 0);
}

static void float32_agrees_with_loops(void **state)
{
    for (size_t n = 0; n < NUM_PROBLEMS; n++)
        if (fits_f32(&problems[n])) check_output(*state, n, 1);
}

/* The gradient in array `a` as the file has it against a central difference along a random direction. */
static void check_gradient(void *state, size_t n, double *x[NUM_ARRAYS], const double *G, int a, int f32)
{
    const struct problem *p = &problems[n];
    const size_t size = array_size(p, a);
    const double rtol = f32 ? TOL_GRAD_F32 : TOL_GRAD, atol = f32 ? ATOL_GRAD_F32 : ATOL_GRAD;
    size_t shape[4];
    char file[64];
    snprintf(file, sizeof file, "grads/%s.npy", grad_names[a]);
    const char *path = scratch_path(state, file);
    assert_int_equal(access(path, F_OK) == 0, size > 0);
    if (!size) return;
    struct npy grad;
    assert_int_equal(npy_read(path, 0, &grad, why, sizeof why), 0);
    assert_true(grad.is_float32);
    assert_int_equal(grad.size, size);
    const size_t rank = array_shape(p, a, shape);
    assert_int_equal(grad.rank, rank);
    for (size_t i = 0; i < rank; i++) assert_int_equal(grad.shape[i], shape[i]);
    double *direction = malloc(size * sizeof *direction), *base = x[a], *moved = malloc(size * sizeof *moved);
    double value[2], got = 0.0, total = 0.0, widest = 0.0;
    random_normal(33, RANDOM_OTHER, n, (uint64_t)a, direction, size);
    for (size_t i = 0; i < size; i++) widest = fmax(widest, fabs(base[i]));
    const double h = 1e-5 * widest;
    for (int sign = 0; sign < 2; sign++) {
        for (size_t i = 0; i < size; i++) moved[i] = base[i] + (sign ? h : -h) * direction[i];
        x[a] = moved;
        value[sign] = reference(p, x, G, NULL);
        x[a] = base;
    }
    for (size_t i = 0; i < size; i++) {
        got += direction[i] * grad.f64[i];
        total += fabs(direction[i] * grad.f64[i]);
    }
    const double slope = (value[1] - value[0]) / (2.0 * h);
    if (fabs(slope) > 1e-3 * total) assert_false(is_close(-got, slope, 0.0, rtol * total));
    CHECK_CLOSE(got, slope, 0.0, rtol * total + atol);
    free(direction);
    free(moved);
    npy_free(&grad);
    unlink(path);
}

static void check_gradients(void *state, size_t n, int f32)
{
    const struct problem *p = &problems[n];
    double *x[NUM_ARRAYS], *G = malloc(array_size(p, Q) * sizeof *G);
    size_t shape[4];
    draw(p, x, 900 + n);
    save(state, p, x);
    random_normal(31, RANDOM_OTHER, 0, n, G, array_size(p, Q));
    array_shape(p, Q, shape);
    assert_int_equal(npy_write_f64(scratch_path(state, "g.npy"), G, 4, shape, why, sizeof why), 0);
    const char *const more[] = { "--grad-out", scratch_path(state, "g.npy"), "--grads", scratch_path(state, "grads"),
                                 "--precision", f32 ? "f32" : "f64", NULL };
    struct outcome o = attend(state, p, scratch_path(state, "out.npy"), more);
    if (o.code) fail_msg("problem %zu: exit %d, %s", n, o.code, o.err);
    outcome_free(&o);
    for (int a = 0; a < NUM_ARRAYS; a++) check_gradient(state, n, x, G, a, f32);
    free(G);
    for (int i = 0; i < NUM_ARRAYS; i++) free(x[i]);
}

static void gradients(void **state)
{
    for (size_t n = 0; n < NUM_PROBLEMS; n++)
        /* above: one-hot, nothing to differentiate */
        if (problems[n].largest < 100.0) check_gradients(*state, n, 0);
}

static void float32_gradients(void **state)
{
    for (size_t n = 0; n < NUM_PROBLEMS; n++)
        if (fits_f32(&problems[n])) check_gradients(*state, n, 1);
}

static void load(const char *path, struct npy *a)
{
    assert_int_equal(npy_read(path, 0, a, why, sizeof why), 0);
}

/* A summary written and given back stands for its prefix, for every kind of map; favor
 * draws the same directions from the same seed. */
static void summaries_stand_for_prefixes(void **state)
{
    static const char *const features[] = { "elu1", "taylor:3", "cheb:2", "minimax:4", "split:2", "favor:9",
                                            "favor-orth:11" };
    for (size_t f = 0; f < sizeof features / sizeof *features; f++) {
        const struct problem p = { .B = 2, .H = 4, .Hkv = 2, .Lq = 12, .Lk = 15, .d = 4, .m = 60, .prefix_apart = 1,
                                   .causal = 1, .largest = 1.2, .feature = features[f], .method = NTK };
        double *x[NUM_ARRAYS];
        draw(&p, x, 40 + f);
        save(*state, &p, x);
        const char *const more[] = { "--z-out", scratch_path(*state, "zo.npy"), "--kvec-out",
                                     scratch_path(*state, "ko.npy"), NULL };
        struct outcome o = attend(*state, &p, scratch_path(*state, "a.npy"), more);
        if (o.code) fail_msg("%s: %s", features[f], o.err);
        outcome_free(&o);
        /* The default bound, spelt out. */
        double norm[2] = { 0.0, 0.0 };
        for (int side = 0; side < 2; side++)
            for (size_t i = 0; i < array_size(&p, side ? PK : Q); i += p.d) {
                double square = 0.0;
                for (size_t c = 0; c < p.d; c++) square += x[side ? PK : Q][i + c] * x[side ? PK : Q][i + c];
                norm[side] = fmax(norm[side], sqrt(square));
            }
        char bound[64];
        snprintf(bound, sizeof bound, "%.17g", norm[0] * norm[1] / sqrt((double)p.d));
#define ARGS "--q", scratch_path(*state, "q.npy"), "--k", scratch_path(*state, "k.npy"), "--v",                       \
    scratch_path(*state, "v.npy"),                                                                                    \
             "--method", "ntk", "--causal", "--feature", features[f]
        o = RUN(ARGS, "--bound", bound, "--z", scratch_path(*state, "zo.npy"), "--kvec", scratch_path(*state, "ko.npy"),
                "--out", scratch_path(*state, "b.npy"));
        if (o.code) fail_msg("%s: %s", features[f], o.err);
        outcome_free(&o);
        struct npy a, b, z;
        load(scratch_path(*state, "a.npy"), &a);
        load(scratch_path(*state, "b.npy"), &b);
        load(scratch_path(*state, "zo.npy"), &z);
        assert_int_equal(z.rank, 4);
        assert_int_equal(z.shape[1], 2);
        double scale = 0.0;
        for (size_t i = 0; i < a.size; i++) scale = fmax(scale, fabs(a.f64[i]));
        for (size_t i = 0; i < a.size; i++) CHECK_CLOSE(b.f64[i], a.f64[i], 0.0, 2e-7 * scale);
        npy_free(&a); npy_free(&b); npy_free(&z);
        if (!strcmp(features[f], "cheb:2"))
            CHECK_REFUSAL(RUN(ARGS, "--z", scratch_path(*state, "zo.npy"), "--kvec", scratch_path(*state, "ko.npy"),
                              "--out", scratch_path(*state, "never.npy")), 2, "attend", "--bound");
        for (int i = 0; i < NUM_ARRAYS; i++) free(x[i]);
    }
    assert_int_not_equal(access(scratch_path(*state, "never.npy"), F_OK), 0);
}

/* Laws: a zero summary is plain attention to the bit; results do not see the number of
 * threads; an exact prefix in front equals input keys seen by everyone. */
static void laws(void **state)
{
    const struct problem p = { .B = 1, .H = 4, .Hkv = 2, .Lq = 50, .Lk = 600, .d = 8, .r = 45, .largest = 4.0,
                               .feature = "taylor:2", .method = NTK };
    double *x[NUM_ARRAYS];
    draw(&p, x, 5);
    for (int a = Z; a <= KVEC; a++) memset(x[a], 0, array_size(&p, a) * sizeof(double));
    save(*state, &p, x);
#define QKV "--q", scratch_path(*state, "q.npy"), "--k", scratch_path(*state, "k.npy"), "--v", \
    scratch_path(*state, "v.npy")
    struct outcome o = attend(*state, &p, scratch_path(*state, "ntk.npy"), (const char *const[]){ "--threads", "1",
        NULL });
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    o = RUN(QKV, "--method", "exact", "--threads", "3", "--out", scratch_path(*state, "exact.npy"));
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    struct npy a, b;
    load(scratch_path(*state, "ntk.npy"), &a);
    load(scratch_path(*state, "exact.npy"), &b);
    CHECK_SAME_BITS(a.f64, b.f64, a.size);
    npy_free(&a);
    /* The keys of one head as the prefix of another call. */
    size_t shape[3] = { 2, 600, 8 };
    assert_int_equal(npy_write_f64(scratch_path(*state, "p.npy"), x[K], 3, shape, why, sizeof why), 0);
    assert_int_equal(npy_write_f64(scratch_path(*state, "w.npy"), x[V], 3, shape, why, sizeof why), 0);
    shape[0] = 4; shape[1] = 50;
    assert_int_equal(npy_write_f64(scratch_path(*state, "q.npy"), x[Q], 3, shape, why, sizeof why), 0);
    shape[0] = 2; shape[1] = 0;
    assert_int_equal(npy_write_f64(scratch_path(*state, "none.npy"), x[K], 3, shape, why, sizeof why), 0);
    o = RUN("--q", scratch_path(*state, "q.npy"), "--k", scratch_path(*state, "none.npy"), "--v",
            scratch_path(*state, "none.npy"), "--prefix-k", scratch_path(*state, "p.npy"), "--prefix-v",
                scratch_path(*state, "w.npy"), "--out",
            scratch_path(*state, "moved.npy"));
    if (o.code) fail_msg("%s", o.err);
    outcome_free(&o);
    load(scratch_path(*state, "moved.npy"), &a);
    for (size_t i = 0; i < a.size; i++) CHECK_CLOSE(a.f64[i], b.f64[i], 0.0, 1e-6);
    npy_free(&a);
    npy_free(&b);
    for (int i = 0; i < NUM_ARRAYS; i++) free(x[i]);
}

static const char *npy(void *state, const char *name, size_t rank, size_t a, size_t b, size_t c, size_t e)
{
    double *x = malloc((a * b * c * e + 1) * sizeof *x);
    random_normal(17, RANDOM_OTHER, rank, a + 10 * b, x, a * b * c * e);
    const char *path = scratch_path(state, name);
    assert_int_equal(npy_write_f64(path, x, rank, (size_t[]){ a, b, c, e }, why, sizeof why), 0);
    free(x);
    return path;
}

static void refusals(void **state)
{
    const char *q = npy(*state, "rq.npy", 3, 4, 5, 3, 1), *k = npy(*state, "rk.npy", 3, 2, 6, 3, 1),
        *v = npy(*state, "rv.npy", 3, 2, 6, 3, 1);
    const char *pk = npy(*state, "rpk.npy", 2, 7, 3, 1, 1), *pv = npy(*state, "rpv.npy", 2, 7, 3, 1, 1),
        *z = npy(*state, "rz.npy", 2, 3, 3, 1, 1);
    const char *kvec = npy(*state, "rkv.npy", 1, 3, 1, 1, 1), *out = scratch_path(*state, "refused.npy");
    const char *odd = npy(*state, "odd.npy", 3, 3, 6, 3, 1), *wide = npy(*state, "wide.npy", 3, 2, 6, 4, 1),
        *flat = npy(*state, "flat.npy", 2, 6, 3, 1, 1);
    const char *one = npy(*state, "one.npy", 1, 6, 1, 1, 1), *absent = scratch_path(*state, "absent.npy");
    const char *text = scratch_file(*state, "text.npy", "not an array"), *other = scratch_file(*state, "q.txt",
        "1,2\n");
    const int before = scratch_count(*state);
#define CALL(...) RUN("--out", out, "--q", q, "--k", k, "--v", v, __VA_ARGS__)
#define BASE(Q, K, V, ...) RUN("--out", out, "--q", Q, "--k", K, "--v", V, __VA_ARGS__)
    /* usage */
    CHECK_REFUSAL(RUN("--out", out, "--q", q, "--k", k), 2, "attend", "--v");
    CHECK_REFUSAL(CALL("--prefix-k", pk), 2, "attend", "--prefix-v");
    CHECK_REFUSAL(CALL("--z", z, "--method", "ntk"), 2, "attend", "--kvec");
    CHECK_REFUSAL(CALL("--z", z, "--kvec", kvec), 2, "attend", "exact attention takes no summary");
    CHECK_REFUSAL(CALL("--z-out", out), 2, "attend", "--z-out");
    CHECK_REFUSAL(CALL("--method", "ntk", "--z-out", out), 2, "attend", "--z-out");
    CHECK_REFUSAL(CALL("--grads", out), 2, "attend", "--grad-out");
    CHECK_REFUSAL(CALL("--method", "fast"), 2, "attend", "--method");
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "taylor:x"), 2, "attend", "--feature");
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "split:3"), 2, "attend", "--feature");
    CHECK_REFUSAL(CALL("--method", "ntk", "--omega", z), 2, "attend", "--omega");
    CHECK_REFUSAL(CALL("--bound", "0"), 2, "attend", "--bound");
    CHECK_REFUSAL(CALL("--bound", "nan"), 2, "attend", "--bound");
    CHECK_REFUSAL(CALL("--lengths", "1,2"), 2, "attend", "--lengths");
    CHECK_REFUSAL(CALL("--lengths", "7"), 2, "attend", "--lengths");
    CHECK_REFUSAL(CALL("stray"), 2, "attend", "stray");
    /* data, by the name of the file */
    CHECK_REFUSAL(BASE(absent, k, v, "--causal"), 3, "attend", "absent.npy");
    CHECK_REFUSAL(BASE(text, k, v, "--causal"), 3, "attend", "text.npy");
    CHECK_REFUSAL(BASE(other, k, v, "--causal"), 3, "attend", "q.txt");
    CHECK_REFUSAL(BASE(one, one, one, "--causal"), 3, "attend", "one.npy");
    CHECK_REFUSAL(BASE(q, odd, odd, "--causal"), 3, "attend", "odd.npy");
    CHECK_REFUSAL(BASE(q, wide, wide, "--causal"), 3, "attend", "wide.npy");
    CHECK_REFUSAL(BASE(q, flat, flat, "--causal"), 3, "attend", "flat.npy");
    CHECK_REFUSAL(BASE(q, k, q, "--causal"), 3, "attend", "rq.npy");
    CHECK_REFUSAL(CALL("--prefix-k", wide, "--prefix-v", wide), 3, "attend", "wide.npy");
    CHECK_REFUSAL(CALL("--prefix-k", odd, "--prefix-v", odd), 3, "attend", "odd.npy");
    CHECK_REFUSAL(CALL("--prefix-k", pk, "--prefix-v", flat), 3, "attend", "flat.npy");
    CHECK_REFUSAL(CALL("--method", "ntk", "--z", flat, "--kvec", kvec), 3, "attend", "flat.npy");
    CHECK_REFUSAL(CALL("--method", "ntk", "--z", z, "--kvec", one), 3, "attend", "one.npy");
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "favor:2", "--omega", z), 3, "attend", "rz.npy");
    CHECK_REFUSAL(CALL("--grad-out", k, "--grads", scratch_path(*state, "no")), 3, "attend", "rk.npy");
    /* runs that fail */
    const char *negative = scratch_path(*state, "neg.npy");
    const double minus[4] = { -1e6, 0.1, 0.2, 0.3 };
    assert_int_equal(npy_write_f64(negative, minus, 1, (size_t[]){ 4 }, why, sizeof why), 0);
    const char *z4 = npy(*state, "z4.npy", 2, 4, 3, 1, 1);
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "taylor:1", "--z", z4, "--kvec", negative), 1, "attend",
                  "batch 0, head 0, row 0");
    CHECK_REFUSAL(CALL("--lengths", "0"), 1, "attend", "batch 0, head 0, row 0");
    /* Rows that see nothing are told from normalisers that failed. */
    CHECK_REFUSAL(CALL("--lengths", "0"), 1, "attend", "the row sees no key (--lengths");
    CHECK_REFUSAL(BASE(k, q, q, "--causal"), 3, "attend", "heads");
    const char *longer = npy(*state, "longer.npy", 3, 2, 9, 3, 1), *none = npy(*state, "no-key.npy", 3, 2, 0, 3, 1);
    CHECK_REFUSAL(BASE(longer, k, v, "--causal"), 1, "attend", "row 0: the row sees no key (--causal");
    CHECK_REFUSAL(BASE(longer, k, v, "--causal", "--method", "linear"), 1, "attend",
                  "row 0: the row sees no key (--causal");
    CHECK_REFUSAL(BASE(longer, none, none, "--causal"), 1, "attend", "row 0: the row sees no key (there is none");
    /* A summary below the range of doubles is not written as zeros. */
    const char *far = scratch_path(*state, "far.npy");
    const double long_key[6] = { 300.0, -200.0, 100.0, 150.0, -250.0, 350.0 };
    assert_int_equal(npy_write_f64(far, long_key, 2, (size_t[]){ 2, 3 }, why, sizeof why), 0);
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "favor:8", "--prefix-k", far, "--prefix-v", far, "--kvec-out",
                       scratch_path(*state, "never-k.npy")), 1, "attend", "below the range of doubles");
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "taylor:1", "--z", z4, "--kvec", negative, "--z-out",
                       scratch_path(*state, "never-z.npy")), 1, "attend",
                  "D <= 0");
    /* Float32 does not hold e^{||k||^2/2} of these, and has no attention on the scores. */
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "favor:8", "--prefix-k", far, "--prefix-v", far, "--precision",
                       "f32"), 1,
                  "attend", "float32");
    CHECK_REFUSAL(CALL("--method", "ntk", "--feature", "taylor:60", "--prefix-k", pk, "--prefix-v", pv, "--z-out",
                       scratch_path(*state, "no/such/z.npy")), 1, "attend", "");
    /* The last of several outputs cannot be written: the others are taken back. */
    CHECK_REFUSAL(RUN("--q", q, "--k", k, "--v", v, "--grad-out", q, "--grads", scratch_path(*state, "new"), "--out",
                      scratch_path(*state, "no/such/o.npy")), 1, "attend", "o.npy");
    assert_int_equal(scratch_count(*state), before + 5);
    /* A pipe gets the array itself. */
    struct outcome o = RUN("--q", q, "--k", k, "--v", v);
    assert_int_equal(o.code, 0);
    assert_memory_equal(o.out, "\x93NUMPY", 6);
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_loops),
        cmocka_unit_test(float32_agrees_with_loops),
        cmocka_unit_test(gradients),
        cmocka_unit_test(float32_gradients),
        cmocka_unit_test(summaries_stand_for_prefixes),
        cmocka_unit_test(laws),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("attend", tests, scratch_setup, scratch_teardown);
}
