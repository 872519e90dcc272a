/* The program ntk_convergence from outside: what the contract promises. */
#include "common/npy.h"
#include "common/random.h"
#include "prefix_ntk/ntk.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <gsl/gsl_errno.h>

#define PROGRAM "ntk_convergence"
enum { N = 5, D = 3 };
static char why[256];
static double X[N * D];

static const char *inputs(void *state, const char *name)
{
    const char *path = scratch_path(state, name);
    random_normal(51, RANDOM_INPUTS, 0, 0, X, N * D);
    for (size_t k = 0; k < N * D; k++) X[k] *= 0.6;
    assert_int_equal(npy_write_f64(path, X, 2, (size_t[]){ N, D }, why, sizeof why), GSL_SUCCESS);
    return path;
}

static char *text_of(const char *path)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char *text = calloc(1, 1 << 16);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

/* Cell `column` of data row `row` (0: the first after the header); the caller frees. */
static char *cell(const char *table, size_t row, size_t column)
{
    char *rows = data_rows(table), *rest = rows, *line = NULL, *value = NULL;
    for (size_t r = 0; r <= row + 1; r++) assert_non_null(line = strsep(&rest, "\n"));
    for (size_t c = 0; c <= column; c++) assert_non_null(value = strsep(&line, ","));
    value = strdup(value);
    free(rows);
    return value;
}

static double number(const char *table, size_t row, size_t column)
{
    char *text = cell(table, row, column);
    const double x = *text ? strtod(text, NULL) : NAN;
    free(text);
    return x;
}

static void done(struct outcome o)
{
    if (o.code) print_error("%s", o.err);
    assert_int_equal(o.code, 0);
    outcome_free(&o);
}

/* The command of the acceptance: the limit against the formula, long double, written out. */
static void test_limit_of_a_file(void **state)
{
    const char *in = inputs(*state, "X.npy"), *limit = scratch_path(*state, "K.npy"),
        *out = scratch_path(*state, "t.csv");
    done(run_program(PROGRAM, "--inputs", in, "--sigma", "0.7", "--kernel", "full", "--signs", "positive",
                     "--prefix-len", "256,1024,4096", "--num-trials", "8", "--limit-out", limit, "--out", out,
                     "--quiet", NULL));
    struct npy K;
    assert_int_equal(npy_read(limit, 0, &K, why, sizeof why), GSL_SUCCESS);
    assert_int_equal(K.rank, 2);
    assert_int_equal(K.shape[0], N * D);
    const long double s2 = 0.49L;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) {
            long double c = 0.0L;
            for (size_t k = 0; k < D; k++) c += (long double)X[i * D + k] * (long double)X[j * D + k];
            for (size_t k = 0; k < D; k++)
                for (size_t l = 0; l < D; l++) {
                    const long double want = expl(s2 * c) * ((1.0L + s2 * c) * (k == l ? 1.0L : 0.0L) +
                        (2.0L * s2 + s2 * s2 * c) * (long double)X[j * D + k] * (long double)X[i * D + l]);
                    CHECK_CLOSE(K.f64[(i * D + k) * N * D + j * D + l], (double)want, 1e-12, 1e-15);
                }
        }
    npy_free(&K);
    char *table = text_of(out);
    assert_non_null(strstr(table,
                           "\nkernel,signs,prefix_len,num_trials,rel_err_mean,rel_err_ci_lo,rel_err_ci_hi,rel_err_rms,"
                                  "rel_err_pred,lambda_min_mean,lambda_min_limit\nfull,positive,256,8,"));
    for (size_t row = 0; row < 3; row++) {
        assert_true(number(table, row, 5) < number(table, row, 4) && number(table, row, 4) < number(table, row, 6));
        CHECK_LESS(fabs(log(number(table, row, 7) / number(table, row, 8))), 1.0);
    }
    CHECK_CLOSE(number(table, 0, 8) / number(table, 2, 8), 4.0, 1e-12, 0.0);
    free(table);
}

/* Same rows for any number of threads, and the row of one m for any grid it is in. */
static void test_threads_and_grid(void **state)
{
    const char *in = inputs(*state, "X2.npy");
    char *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        char count[8];
        snprintf(count, sizeof count, "%d", threads);
        struct outcome o = run_program(PROGRAM, "--inputs", in, "--signs", "random,mirrored", "--kernel", "key,full",
                                       "--prefix-len", "130,1026", "--num-trials", "5", "--threads", count, "--quiet",
                                       NULL);
        assert_int_equal(o.code, 0);
        char *rows = data_rows(o.out);
        if (!first) first = strdup(rows);
        assert_string_equal(rows, first);
        free(rows);
        outcome_free(&o);
    }
    free(first);
    struct outcome fine = run_program(PROGRAM, "--inputs", in, "--prefix-len", "4096,64,1026,64", "--num-trials", "5",
                                      "--quiet", NULL);
    struct outcome coarse = run_program(PROGRAM, "--inputs", in, "--prefix-len", "1026", "--num-trials", "5", "--quiet",
                                        NULL);
    char *a = data_rows(fine.out), *b = data_rows(coarse.out);
    assert_non_null(strstr(a, strchr(b, '\n')));          /* the one row of b, line breaks included */
    const size_t order[] = { 4096, 64, 1026, 64 };
    for (size_t i = 0; i < 4; i++) assert_true(number(fine.out, i, 2) == (double)order[i]);
    free(a);
    free(b);
    outcome_free(&fine);
    outcome_free(&coarse);
}

/* A prefix written is one that can be read: the same error, and the kernel is the library's. */
static void test_given_prefix(void **state)
{
    const char *in = inputs(*state, "X3.npy"), *W = scratch_path(*state, "W.npy"), *a = scratch_path(*state, "a.npy");
    const char *gram = scratch_path(*state, "G.npy"), *table = scratch_path(*state, "p.csv");
    for (int law = 0; law < 3; law++) {
        const char *signs = (const char *const[]){ "random", "positive", "mirrored" }[law];
        done(run_program(PROGRAM, "--inputs", in, "--signs", signs, "--prefix-len", "40,96", "--num-trials", "1",
                         "--prefix-out", W, "--sign-values-out", a, "--gram-out", gram, "--out", table, "--quiet",
                         NULL));
        struct outcome o = run_program(PROGRAM, "--inputs", in, "--signs", signs, "--prefix", W, "--sign-values", a,
                                       "--quiet", NULL);
        assert_int_equal(o.code, 0);
        char *drawn = text_of(table);
        CHECK_CLOSE(number(o.out, 0, 4), number(drawn, 1, 4), 1e-10, 0.0);
        assert_true(number(o.out, 0, 2) == 96.0);
        assert_true(isnan(number(o.out, 0, 5)) && isnan(number(o.out, 0, 6)));     /* one trial: no interval */
        free(drawn);
        outcome_free(&o);
        struct npy tokens, values, kernel;
        assert_int_equal(npy_read(W, 0, &tokens, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(npy_read(a, 0, &values, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(npy_read(gram, 0, &kernel, why, sizeof why), GSL_SUCCESS);
        assert_int_equal(tokens.shape[0], 96);
        gsl_matrix_view Wv = gsl_matrix_view_array(tokens.f64, 96, D), Xv = gsl_matrix_view_array(X, N, D);
        gsl_vector_view av = gsl_vector_view_array(values.f64, 96);
        gsl_matrix_view got = gsl_matrix_view_array(kernel.f64, N * D, N * D);
        gsl_matrix *J = gsl_matrix_alloc(N * D, 96 * D), *want = gsl_matrix_alloc(N * D, N * D);
        assert_int_equal(ntk_jacobian(&Wv.matrix, &av.vector, &Xv.matrix, NTK_FULL, J), GSL_SUCCESS);
        for (size_t p = 0; p < N * D; p++)
            for (size_t q = 0; q < N * D; q++) {
                double sum = 0.0;
                for (size_t r = 0; r < 96 * D; r++) sum += gsl_matrix_get(J, p, r) * gsl_matrix_get(J, q, r) / 96.0;
                gsl_matrix_set(want, p, q, sum);
            }
        CHECK_MATRIX_CLOSE(&got.matrix, want, 1e-12);
        gsl_matrix_free(want);
        gsl_matrix_free(J);
        npy_free(&kernel);
        npy_free(&values);
        npy_free(&tokens);
    }
}

static void test_lists(void **state)
{
    (void)state;
    struct outcome o = run_program(PROGRAM, "--num-samples", "4", "--dim", "2", "--kernel", "key,full", "--signs",
                                   "mirrored,random", "--prefix-len", "16,8", "--num-trials", "2", "--quiet", NULL);
    assert_int_equal(o.code, 0);
    const char *want[8][3] = { { "key", "mirrored", "16" }, { "key", "mirrored", "8" }, { "key", "random", "16" },
                               { "key", "random", "8" },
                               { "full", "mirrored", "16" }, { "full", "mirrored", "8" }, { "full", "random", "16" },
                               { "full", "random", "8" } };
    for (size_t row = 0; row < 8; row++)
        for (size_t column = 0; column < 3; column++) {
            char *got = cell(o.out, row, column);
            assert_string_equal(got, want[row][column]);
            free(got);
        }
    outcome_free(&o);
}

/* Repeated inputs: a warning, a singular limit, and errors as ever. */
static void test_duplicates(void **state)
{
    const char *path = scratch_file(*state, "twice.csv", "0.7,-0.2\n0.1,0.5\n0.7,-0.2\n");
    struct outcome o = run_program(PROGRAM, "--inputs", path, "--prefix-len", "512", "--num-trials", "4", "--quiet",
                                   NULL);
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.err, "twice.csv: rows 0 and 2 are equal"));
    CHECK_LESS(fabs(number(o.out, 0, 10)), 1e-14);
    CHECK_LESS(number(o.out, 0, 4), 0.5);
    outcome_free(&o);
    /* Zero inputs: the key kernel and its limit vanish; there is no relative error, and no NaN. */
    path = scratch_file(*state, "zero.csv", "0,0\n");
    o = run_program(PROGRAM, "--inputs", path, "--prefix-len", "16", "--kernel", "key", "--quiet", NULL);
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.err, "limit of the key kernel is 0"));
    assert_true(isnan(number(o.out, 0, 4)) && isnan(number(o.out, 0, 8)));
    assert_null(strstr(o.out, "nan"));
    outcome_free(&o);
}

/* Killed in the middle and started again: the rows of a run that was left alone. */
static void test_resumes_after_a_kill(void **state)
{
    const char *bin = getenv("PREFIX_NTK_BIN"), *out = scratch_path(*state, "killed.csv"),
        *whole = scratch_path(*state, "whole.csv");
    char program[4096], journal[4096];
    snprintf(program, sizeof program, "%s/" PROGRAM, bin ? bin : "build/bin");
    snprintf(journal, sizeof journal, "%s.state", out);
#define LONG_RUN "--num-samples", "6", "--dim", "4", "--prefix-len", "256,32768", "--num-trials", "300", "--kernel", \
    "full,key", "--quiet"
    struct outcome o = run_program("/usr/bin/timeout", "--foreground", "-s", "KILL", "0.4", program, LONG_RUN, "--out",
                                   out, NULL);
    outcome_free(&o);
    assert_int_equal(access(out, F_OK), -1);              /* nothing half-written */
    assert_int_equal(access(journal, F_OK), 0);           /* but what was done is known */
    done(run_program(PROGRAM, LONG_RUN, "--out", out, NULL));
    assert_int_equal(access(journal, F_OK), -1);
    done(run_program(PROGRAM, LONG_RUN, "--out", whole, NULL));
    char *a = text_of(out), *b = text_of(whole), *rows_a = data_rows(a), *rows_b = data_rows(b);
    assert_string_equal(rows_a, rows_b);
    free(rows_b);
    free(rows_a);
    free(b);
    free(a);
}

#define REFUSED(exit_code, says, ...) CHECK_REFUSAL(run_program(PROGRAM, __VA_ARGS__, "--quiet", NULL), exit_code, \
                                                    PROGRAM, says)

static void test_refusals(void **state)
{
    const char *in = inputs(*state, "X4.npy"), *dir = scratch_path(*state, "no-such-folder/t.csv");
    const char *limit = scratch_path(*state, "never.npy");
    REFUSED(2, "--prefix-len", "--prefix-len", "0");
    REFUSED(2, "--prefix-len", "--prefix-len", "16,,32");
    REFUSED(2, "--prefix-len", "--prefix-len", "16,x");
    REFUSED(2, "--prefix-len", "--prefix-len", "16,33", "--signs", "mirrored");
    REFUSED(2, "--sigma", "--sigma", "0");
    REFUSED(2, "--sigma", "--sigma", "-0.5");
    REFUSED(2, "--sigma", "--sigma", "nan");
    REFUSED(2, "--kernel", "--kernel", "full,value");
    REFUSED(2, "--signs", "--signs", "negative");
    REFUSED(2, "--num-trials", "--num-trials", "0");
    REFUSED(2, "--limit-out", "--kernel", "full,key", "--limit-out", limit);
    REFUSED(2, "--prefix-out", "--signs", "random,positive", "--prefix-out", limit);
    REFUSED(2, "--inputs", "--inputs", in, "--dataset", "mnist");
    REFUSED(2, "--sign-values", "--sign-values", in);
    REFUSED(2, "--prefix", "--inputs", in, "--prefix", in);
    REFUSED(2, "--no-such-option", "--no-such-option");
    REFUSED(2, "stray", "stray");
    REFUSED(1, "memory", "--num-samples", "60000", "--dim", "500");
    REFUSED(1, "--sigma", "--sigma", "1000");
    REFUSED(1, "no-such-folder", "--out", dir);
    REFUSED(3, "absent.npy", "--inputs", "absent.npy");
    const struct { const char *name, *text; } bad[] = {
        { "ragged.csv", "0.1,0.2\n0.3\n" }, { "word.csv", "0.1,zwei\n" }, { "empty.csv", "" },
        { "nan.csv", "0.1,nan\n" },
        { "inf.csv", "0.1,inf\n" }, { "magic.npy", "not an array at all" }, { "kind.txt", "0.1,0.2\n" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        REFUSED(3, bad[i].name, "--inputs", scratch_file(*state, bad[i].name, bad[i].text), "--limit-out", limit);
    const char *W = scratch_file(*state, "W.csv", "0.1,0.2,0.3\n0.4,0.5,0.6\n"),
        *a = scratch_file(*state, "a.csv", "1\n-1\n");
    REFUSED(3, "a2.csv", "--inputs", in, "--prefix", W, "--sign-values", scratch_file(*state, "a2.csv", "1\n-1\n1\n"));
    REFUSED(3, "a3.csv", "--inputs", in, "--prefix", W, "--sign-values", scratch_file(*state, "a3.csv", "1\n0.5\n"));
    REFUSED(3, "a.csv", "--inputs", in, "--prefix", W, "--sign-values", a, "--signs", "positive");
    REFUSED(3, "W.csv", "--inputs", in, "--prefix", W, "--sign-values", a, "--signs", "mirrored");
    REFUSED(3, "W2.csv", "--inputs", in, "--prefix", scratch_file(*state, "W2.csv", "0.1,0.2\n"), "--signs",
            "positive");
    REFUSED(2, "--prefix-len", "--inputs", in, "--prefix", W, "--sign-values", a, "--prefix-len", "3");
    assert_int_equal(access(limit, F_OK), -1);
}

int main(void)
{
    gsl_set_error_handler_off();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit_of_a_file), cmocka_unit_test(test_threads_and_grid),
            cmocka_unit_test(test_given_prefix),
        cmocka_unit_test(test_lists), cmocka_unit_test(test_duplicates), cmocka_unit_test(test_resumes_after_a_kill),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
