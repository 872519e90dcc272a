/* prefix_to_summary: its errors are those of plain loops, and of attend with the
 * summary it writes. */
#include "common/npy.h"
#include "common/random.h"
#include "tests/support/check.h"
#include "tests/support/feature_ref.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUN(...) run_program("prefix_to_summary", __VA_ARGS__, "--quiet", (char *)NULL)

enum { HEADS = 4, KV = 2, L = 19, LK = 11, M = 1300, D = 5 };     /* M: blocks and a rest */
enum { Q, K, V, PK, PV, NUM };

static char why[256];
static double *x[NUM];
static const size_t extent[NUM][3] = { { HEADS, L, D }, { KV, LK, D }, { KV, LK, D }, { KV, M, D }, { KV, M, D } };
static const char *const names[NUM] = { "q.npy", "k.npy", "v.npy", "pk.npy", "pv.npy" };

static int setup(void **state)
{
    if (scratch_setup(state)) return -1;
    for (int a = 0; a < NUM; a++) {
        const size_t n = extent[a][0] * extent[a][1] * extent[a][2];
        x[a] = malloc(n * sizeof **x);
        random_normal(12, RANDOM_OTHER, 0, (uint64_t)a, x[a], n);
        for (size_t i = 0; i < n; i++)
            x[a][i] = (float)((a == PV ? 0.5 * x[PK][i] : 0.0) + (a == PK || a == Q ? 0.9 : 1.0) * x[a][i]);
        if (npy_write_f64(scratch_path(*state, names[a]), x[a], 3, extent[a], why, sizeof why)) return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    for (int a = 0; a < NUM; a++) free(x[a]);
    return scratch_teardown(state);
}

static double score(const double *q, const double *k)
{
    double s = 0.0;
    for (size_t c = 0; c < D; c++) s += q[c] * k[c];
    return s / sqrt((double)D);
}

/* err_rel of a weight function, by loops. */
static double relative_by_loops(double (*weight)(const double *q, const double *k))
{
    double err = 0.0, effect = 0.0;
    for (size_t h = 0; h < HEADS; h++)
        for (size_t i = 0; i < L; i++) {
            const double *q = x[Q] + (h * L + i) * D;
            const size_t kv = h / (HEADS / KV);
            double a = 0.0, p = 0.0, w = 0.0, na[D] = { 0 }, np[D] = { 0 }, nw[D] = { 0 };
            for (size_t j = 0; j < LK; j++) {
                const double e = exp(score(q, x[K] + (kv * LK + j) * D));
                a += e;
                for (size_t c = 0; c < D; c++) na[c] += e * x[V][(kv * LK + j) * D + c];
            }
            for (size_t j = 0; j < M; j++) {
                const double *k = x[PK] + (kv * M + j) * D, e = exp(score(q, k)), f = weight(q, k);
                p += e;
                w += f;
                for (size_t c = 0; c < D; c++) {
                    np[c] += e * x[PV][(kv * M + j) * D + c];
                    nw[c] += f * x[PV][(kv * M + j) * D + c];
                }
            }
            for (size_t c = 0; c < D; c++) {
                const double pa = (na[c] + np[c]) / (a + p), t = (na[c] + nw[c]) / (a + w);
                err += (t - pa) * (t - pa);
                effect += (pa - na[c] / a) * (pa - na[c] / a);
            }
        }
    return sqrt(err / effect);
}

static double constant(const double *q, const double *k) { (void)q; (void)k; return 1.0; }
static double degree_2(const double *q, const double *k) { const double s = score(q, k); return 1.0 + s + s * s / 2.0; }
static double elu1(const double *q, const double *k)
{
    double a[D], b[D], w = 0.0;
    feature_ref_elu1(q, D, a);
    feature_ref_elu1(k, D, b);
    for (size_t c = 0; c < D; c++) w += a[c] * b[c];
    return w;
}

/* Cell `column` of the row that begins with `name`. */
static double cell(const char *table, const char *name, int column)
{
    char start[64];
    snprintf(start, sizeof start, "\n%s,", name);
    const char *at = strstr(table, start);
    assert_non_null(at);
    for (at++; column > 0; column--) at = strchr(at, ',') + 1;
    return atof(at);
}

#define FILES "--prefix-k", scratch_path(*state, "pk.npy"), "--prefix-v", scratch_path(*state, "pv.npy"), "--q", \
              scratch_path(*state, "q.npy"), "--k", scratch_path(*state, "k.npy"), "--v", scratch_path(*state, "v.npy")

static void errors_are_those_of_loops(void **state)
{
    struct outcome o = RUN(FILES, "--features", "elu1,taylor:2,split:2,favor:8");
    assert_int_equal(o.code, 0);
    CHECK_CLOSE(cell(o.out, "none", 4), 1.0, 1e-12, 0.0);
    CHECK_CLOSE(cell(o.out, "taylor:0", 4), relative_by_loops(constant), 1e-10, 0.0);
    CHECK_CLOSE(cell(o.out, "elu1", 4), relative_by_loops(elu1), 1e-10, 0.0);
    CHECK_CLOSE(cell(o.out, "taylor:2", 4), relative_by_loops(degree_2), 1e-10, 0.0);
    assert_true(cell(o.out, "split:2", 4) < cell(o.out, "taylor:2", 4));
    assert_true(cell(o.out, "split:2", 8) == 1.0 && cell(o.out, "elu1", 8) == 0.0);
    outcome_free(&o);
    /* Two maps too large, one fits. */
    o = RUN(FILES, "--features", "taylor:3,split:2,taylor:1", "--max-features", "10");
    assert_int_equal(o.code, 0);
    assert_null(strstr(o.out, "\nsplit:2"));
    assert_true(cell(o.out, "taylor:1", 8) == 1.0);
    outcome_free(&o);
}

/* attend with the written summary errs as the table says. */
static void the_summary_does_it(void **state)
{
    const char *z = scratch_path(*state, "z.npy"), *kvec = scratch_path(*state, "kvec.npy");
    struct outcome o = RUN(FILES, "--features", "taylor:2", "--z-out", z, "--kvec-out", kvec);
    assert_int_equal(o.code, 0);
    const double promised = cell(o.out, "taylor:2", 3);
    outcome_free(&o);
#define ATTEND(...) run_program("attend", "--q", scratch_path(*state, "q.npy"), "--k", scratch_path(*state, "k.npy"), \
                                "--v",                                                                                \
                                scratch_path(*state, "v.npy"), __VA_ARGS__, (char *)NULL)
    o = ATTEND("--method", "ntk", "--feature", "taylor:2", "--z", z, "--kvec", kvec, "--out",
               scratch_path(*state, "a.npy"));
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    o = ATTEND("--prefix-k", scratch_path(*state, "pk.npy"), "--prefix-v", scratch_path(*state, "pv.npy"), "--out",
               scratch_path(*state, "b.npy"));
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    struct npy a, b;
    double most = 0.0;
    assert_int_equal(npy_read(scratch_path(*state, "a.npy"), 0, &a, why, sizeof why), 0);
    assert_int_equal(npy_read(scratch_path(*state, "b.npy"), 0, &b, why, sizeof why), 0);
    for (size_t i = 0; i < a.size; i++) most = fmax(most, fabs(a.f64[i] - b.f64[i]));
    CHECK_CLOSE(most, promised, 1e-4, 0.0);
    npy_free(&a);
    npy_free(&b);
}

static void refusals(void **state)
{
    const char *pk = scratch_path(*state, "pk.npy"), *pv = scratch_path(*state, "pv.npy"),
        *q = scratch_path(*state, "q.npy");
    const char *k = scratch_path(*state, "k.npy"), *flat = scratch_path(*state, "flat.npy");
    const char *never = scratch_path(*state, "never.npy"), *never_k = scratch_path(*state, "never_k.npy");
    const char *name = "prefix_to_summary";
    assert_int_equal(npy_write_f64(flat, x[K], 2, (size_t[]){ 2, 4 }, why, sizeof why), 0);
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--q", q), 2, name, "--prefix-v");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", q, "--k", k), 2, name, "--v");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", q, "--z-out", k), 2, name, "--kvec-out");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", q, "--features", "elu1,,taylor:1"), 2, name,
                  "--features");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", k, "--q", q), 3, name, "k.npy");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", flat), 3, name, "flat.npy");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", q, "--k", q, "--v", q), 3, name, "q.npy");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", q, "--features", "taylor:4", "--max-features", "9"), 1,
                  name, "features");
    CHECK_REFUSAL(RUN("--prefix-k", pk, "--prefix-v", pv, "--q", q, "--features", "elu1", "--z-out", never,
                      "--kvec-out", never_k, "--out", scratch_path(*state, "no/such.csv")), 1, name, "such.csv");
    assert_int_not_equal(access(never, F_OK), 0);
    assert_int_not_equal(access(never_k, F_OK), 0);
}

/* A trained prefix adapter becomes an adapter of NTK-Attention, which finetune evaluates; what is no prefix is
 * refused. */
static void test_adapter(void **state)
{
    char run[512], prefix[544], summary[512], again[512];
    snprintf(run, sizeof run, "%s", scratch_path(*state, "run"));
    snprintf(prefix, sizeof prefix, "%s/adapter", run);
    snprintf(summary, sizeof summary, "%s", scratch_path(*state, "summary"));
    snprintf(again, sizeof again, "%s", scratch_path(*state, "again"));
    struct outcome o = run_program("finetune", "--backbone", "vit-fashion", "--task", "shapes", "--method", "ptuning",
                                   "--prefix-len", "3", "--train-size", "40", "--epochs", "1", "--validation-size",
                                   "20", "--test-size", "20", "--quiet", "--out", run, NULL);
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    o = run_program("prefix_to_summary", "--adapter", prefix, "--features", "elu1", "--adapter-out", summary, NULL);
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "\nprefix,"));
    const char *row = strstr(o.out, "\nelu1,12672,");
    double validation, loss, test, test_loss;
    int chosen;
    assert_non_null(row);
    assert_int_equal(sscanf(row, "\nelu1,12672,%lf,%lf,%lf,%lf,%d", &validation, &loss, &test, &test_loss, &chosen), 5);
    assert_int_equal(chosen, 1);
    outcome_free(&o);
    o = run_program("finetune", "--backbone", "vit-fashion", "--task", "shapes", "--adapter", summary, "--epochs", "0",
                    "--out", again, NULL);
    assert_int_equal(o.code, 0);
    char says[64];
    snprintf(says, sizeof says, "test accuracy %.4f", test);
    assert_non_null(strstr(o.err, says));
    outcome_free(&o);
    CHECK_REFUSAL(run_program("prefix_to_summary", "--adapter", summary, NULL), 3, "prefix_to_summary", "not a prefix");
    CHECK_REFUSAL(run_program("prefix_to_summary", "--adapter", prefix, "--task", "nothing", NULL), 3,
                  "prefix_to_summary", "no such task");
    CHECK_REFUSAL(run_program("prefix_to_summary", "--adapter", prefix, "--bound", "2", NULL), 2, "prefix_to_summary",
                  "no bound");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_those_of_loops),
        cmocka_unit_test(the_summary_does_it),
        cmocka_unit_test(refusals),
        cmocka_unit_test(test_adapter),
    };
    return cmocka_run_group_tests_name("prefix_to_summary", tests, setup, teardown);
}
