/* training_dynamics and ntk_predict as programs: user data, refusals, kill and resume. */
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <gsl/gsl_errno.h>
#include "common/npy.h"
#include "common/random.h"
#include "prefix_ntk/prefix_model.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

enum { N = 5, D = 3 };

static const char *write_array(void **state, const char *name, const gsl_matrix *A)
{
    char why[256];
    const char *path = scratch_path(*state, name);
    assert_int_equal(npy_write_f64(path, A->data, 2, (const size_t[]){ A->size1, A->size2 }, why, sizeof why),
                     GSL_SUCCESS);
    return path;
}

static gsl_matrix *drawn(size_t rows, size_t cols, uint64_t trial, double scale)
{
    gsl_matrix *A = gsl_matrix_alloc(rows, cols);
    random_normal(31, RANDOM_OTHER, trial, 0, A->data, rows * cols);
    gsl_matrix_scale(A, scale);
    return A;
}

/* Contents of a file; the caller frees. */
static char *contents(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t size = 0, got;
    char buffer[4096];
    assert_non_null(file);
    FILE *out = open_memstream(&text, &size);
    while ((got = fread(buffer, 1, sizeof buffer, file)) > 0) fwrite(buffer, 1, got, out);
    fclose(file);
    fclose(out);
    return text;
}

/* Cell `column` (from 0) of data row `row` (from 1; -1: the last) of a table's text. */
static double cell(const char *table, int row, int column)
{
    char *rows = data_rows(table), *line = rows, *last = rows;
    for (int r = 0; *line && (row < 0 || r <= row); r++) {
        last = line;
        line += strcspn(line, "\n");
        if (*line) line++;
    }
    const char *at = last;
    for (int c = 0; c < column; c++) at += strcspn(at, ",") + 1;
    const double value = strtod(at, NULL);
    free(rows);
    return value;
}

/* User data and replay: three steps of the program are three steps of the gradient,
 * outputs, prefix, curve and loss agree with the library. */
static void test_user_data(void **state)
{
    const size_t m = 40;
    const double eta = 2e-3;
    gsl_matrix *X = drawn(N, D, 1, 0.6), *Y = drawn(N, D, 2, 0.5), *W = drawn(m, D, 3, 0.7),
        *X_at = drawn(4, D, 4, 0.6);
    gsl_matrix *signs = gsl_matrix_alloc(1, m), *dW = gsl_matrix_alloc(m, D), *F = gsl_matrix_alloc(4, D);
    for (size_t r = 0; r < m; r++) gsl_matrix_set(signs, 0, r, r % 3 ? 1.0 : -1.0);
    gsl_vector_view a = gsl_matrix_row(signs, 0);
    char why[256], x[4096], y[4096], w[4096], s[4096], at[4096], f[4096], p[4096], c[4096];
    strcpy(x, write_array(state, "X.npy", X));
    strcpy(y, write_array(state, "Y.npy", Y));
    strcpy(w, write_array(state, "W.npy", W));
    strcpy(at, write_array(state, "at.npy", X_at));
    strcpy(s, scratch_path(*state, "a.npy"));
    assert_int_equal(npy_write_f64(s, signs->data, 1, &m, why, sizeof why), GSL_SUCCESS);
    strcpy(f, scratch_path(*state, "F.npy"));
    strcpy(p, scratch_path(*state, "P.npy"));
    strcpy(c, scratch_path(*state, "c.csv"));
    struct outcome o = run_program("training_dynamics", "--inputs", x, "--targets", y, "--prefix", w, "--sign-values",
                                   s, "--step-size", "0.002", "--num-steps", "3", "--at", at, "--pred-out", f,
                                       "--prefix-out", p,
                                   "--curve-out", c, "--quiet", NULL);
    assert_int_equal(o.code, 0);
    double loss = NAN, first = NAN;
    for (int step = 0; step <= 3; step++) {
        assert_int_equal(prefix_model_gradient(W, &a.vector, X, Y, dW, NULL, &loss, 1), GSL_SUCCESS);
        if (!step) first = loss;
        if (step < 3) {
            gsl_matrix_scale(dW, eta);
            gsl_matrix_sub(W, dW);
        }
    }
    char *curve = contents(c);
    CHECK_CLOSE(cell(o.out, 1, 7), first, 1e-12, 0.0);
    CHECK_CLOSE(cell(o.out, 1, 8), loss, 1e-10, 0.0);
    CHECK_CLOSE(cell(curve, 1, 4), first, 1e-12, 0.0);
    CHECK_CLOSE(cell(curve, 1, 5), first, 1e-10, 0.0);
    CHECK_CLOSE(cell(curve, -1, 2), 3.0, 0.0, 0.0);
    CHECK_CLOSE(cell(curve, -1, 3), 3.0 * eta * (double)m, 1e-12, 0.0);
    CHECK_CLOSE(cell(curve, -1, 4), loss, 1e-10, 0.0);
    struct npy got;
    assert_int_equal(npy_read(p, 0, &got, why, sizeof why), GSL_SUCCESS);
    CHECK_ALL_CLOSE(got.f64, W->data, m * D, 1e-10, 1e-12);
    npy_free(&got);
    assert_int_equal(prefix_model_forward(W, &a.vector, X_at, F, 1), GSL_SUCCESS);
    assert_int_equal(npy_read(f, 0, &got, why, sizeof why), GSL_SUCCESS);
    CHECK_ALL_CLOSE(got.f64, F->data, 4 * D, 1e-10, 1e-11);
    npy_free(&got);
    free(curve);
    outcome_free(&o);
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
    gsl_matrix_free(W);
    gsl_matrix_free(X_at);
    gsl_matrix_free(signs);
    gsl_matrix_free(dW);
    gsl_matrix_free(F);
}

/* Same rows for 1 and 3 threads, and whatever other lengths run beside. */
static void test_threads_and_grid(void **state)
{
    (void)state;
    struct outcome one = run_program("training_dynamics", "--num-samples", "9", "--dim", "8", "--prefix-len", "6000",
                                     "--num-steps", "12", "--threads", "1", "--quiet", NULL);
    struct outcome three = run_program("training_dynamics", "--num-samples", "9", "--dim", "8", "--prefix-len",
                                       "6000,64", "--num-steps", "12", "--threads", "3", "--quiet", NULL);
    assert_int_equal(one.code, 0);
    assert_int_equal(three.code, 0);
    char *a = data_rows(one.out), *b = data_rows(three.out);
    assert_true(strlen(a) > 100);
    assert_memory_equal(a, b, strlen(a));
    free(a);
    free(b);
    outcome_free(&one);
    outcome_free(&three);
}

static void test_refusals(void **state)
{
    gsl_matrix *X = drawn(N, D, 1, 0.6), *Y = drawn(N, D + 1, 2, 0.5);
    char x[4096], y[4096];
    strcpy(x, write_array(state, "RX.npy", X));
    strcpy(y, write_array(state, "RY.npy", Y));
    CHECK_REFUSAL(run_program("training_dynamics", "--inputs", x, NULL), 2, "training_dynamics", "--targets");
    CHECK_REFUSAL(run_program("training_dynamics", "--inputs", x, "--targets", y, NULL), 3, "training_dynamics",
                  "RY.npy");
    CHECK_REFUSAL(run_program("training_dynamics", "--inputs", x, "--targets", "/nonexistent.npy", NULL), 3,
                  "training_dynamics", "nonexistent");
    CHECK_REFUSAL(run_program("training_dynamics", "--signs", "mirrored", "--prefix-len", "7", NULL), 2,
                  "training_dynamics", "--prefix-len");
    CHECK_REFUSAL(run_program("training_dynamics", "--step-size", "-1", NULL), 2, "training_dynamics", "--step-size");
    CHECK_REFUSAL(run_program("training_dynamics", "--step-size", "fast", NULL), 2, "training_dynamics", "--step-size");
    CHECK_REFUSAL(run_program("training_dynamics", "--stop-loss", "-0.1", NULL), 2, "training_dynamics", "--stop-loss");
    CHECK_REFUSAL(run_program("training_dynamics", "--pred-out", "F.npy", NULL), 2, "training_dynamics", "--at");
    CHECK_REFUSAL(run_program("training_dynamics", "--prefix", x, NULL), 2, "training_dynamics", "--sign-values");
    CHECK_REFUSAL(run_program("training_dynamics", "--prefix-len", "100000000000", NULL), 1, "training_dynamics",
                  "longest prefix");
    CHECK_REFUSAL(run_program("ntk_predict", "--inputs", x, "--targets", x, NULL), 2, "ntk_predict", "--at");
    CHECK_REFUSAL(run_program("ntk_predict", "--inputs", x, "--targets", y, "--at", x, NULL), 3, "ntk_predict",
                  "RY.npy");
    CHECK_REFUSAL(run_program("ntk_predict", "--inputs", x, "--targets", x, "--at", y, NULL), 3, "ntk_predict",
                  "RY.npy");
    CHECK_REFUSAL(run_program("ntk_predict", "--inputs", x, "--targets", x, "--at", x, "--sigma", "0", NULL), 2,
                  "ntk_predict", "--sigma");
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
}

/* A divergent descent leaves empty cells, not NaN, and no file of predictions. */
static void test_divergence(void **state)
{
    (void)state;
    struct outcome o = run_program("training_dynamics", "--num-samples", "4", "--dim", "3", "--prefix-len", "64",
                                   "--step-size", "1e9", "--num-steps", "50", "--quiet", NULL);
    assert_int_equal(o.code, 0);
    assert_null(strstr(o.out, "nan"));
    assert_null(strstr(o.out, "inf"));
    outcome_free(&o);
    const char *f = scratch_path(*state, "none.npy");
    gsl_matrix *X = drawn(2, 3, 9, 1.0);
    char at[4096], none[4096];
    strcpy(none, f);
    strcpy(at, write_array(state, "div.npy", X));
    CHECK_REFUSAL(run_program("training_dynamics", "--num-samples", "4", "--dim", "3", "--prefix-len", "64",
                              "--step-size", "1e9", "--num-steps", "50", "--at", at, "--pred-out", none, "--quiet",
                              NULL), 1, "training_dynamics", "diverged");
    assert_int_not_equal(access(none, F_OK), 0);
    gsl_matrix_free(X);
}

/* The predictor reproduces the targets at its inputs; a repeated input is a warning. */
static void test_predict(void **state)
{
    gsl_matrix *X = drawn(N, D, 1, 0.9), *Y = drawn(N, D, 2, 0.5);
    char x[4096], y[4096], f[4096], why[256];
    struct npy got;
    strcpy(x, write_array(state, "PX.npy", X));
    strcpy(y, write_array(state, "PY.npy", Y));
    strcpy(f, scratch_path(*state, "PF.npy"));
    struct outcome o = run_program("ntk_predict", "--inputs", x, "--targets", y, "--at", x, "--sigma", "0.8", "--out",
                                   f, NULL);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.err, "");
    outcome_free(&o);
    assert_int_equal(npy_read(f, 0, &got, why, sizeof why), GSL_SUCCESS);
    CHECK_ALL_CLOSE(got.f64, Y->data, N * D, 1e-8, 1e-9);
    npy_free(&got);
    for (size_t k = 0; k < D; k++) {
        gsl_matrix_set(X, 4, k, gsl_matrix_get(X, 0, k));
        gsl_matrix_set(Y, 4, k, gsl_matrix_get(Y, 0, k));
    }
    strcpy(x, write_array(state, "PX.npy", X));
    strcpy(y, write_array(state, "PY.npy", Y));
    o = run_program("ntk_predict", "--inputs", x, "--targets", y, "--at", x, "--sigma", "0.8", "--out", f, NULL);
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.err, "singular"));
    outcome_free(&o);
    assert_int_equal(npy_read(f, 0, &got, why, sizeof why), GSL_SUCCESS);
    CHECK_ALL_CLOSE(got.f64, Y->data, N * D, 1e-7, 1e-8);
    npy_free(&got);
    gsl_matrix_free(X);
    gsl_matrix_free(Y);
}

/* Killed in the middle of its descent by each signal, the program goes on from there:
 * the rows are those of an undisturbed run, and the steps before the kill are not
 * made again (the saved state holds a step beyond 0). */
static void test_kill_and_resume(void **state)
{
    const char *bin = getenv("PREFIX_NTK_BIN");
    char program[4096], out[4096], curve[4096], saved[4200];
    snprintf(program, sizeof program, "%s/training_dynamics", bin ? bin : "build/bin");
    struct outcome whole = run_program("training_dynamics", "--num-samples", "8", "--dim", "8", "--prefix-len",
                                       "64,6000", "--threads", "1", "--num-steps", "1500", "--quiet", NULL);
    assert_int_equal(whole.code, 0);
    char *want = data_rows(whole.out);
    static const int signals[] = { SIGINT, SIGTERM, SIGKILL };
    for (size_t i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "kill%zu.csv", i);
        strcpy(out, scratch_path(*state, name));
        snprintf(name, sizeof name, "kill%zu_curve.csv", i);
        strcpy(curve, scratch_path(*state, name));
        snprintf(saved, sizeof saved, "%s.state", out);
        const pid_t pid = fork();
        if (pid == 0) {
            execl(program, program, "--num-samples", "8", "--dim", "8", "--prefix-len", "64,6000", "--threads", "1",
                  "--num-steps", "1500", "--out", out, "--curve-out", curve, "--quiet", (char *)NULL);
            _exit(127);
        }
        /* Once the journal is there and a little later: in the middle of the work. */
        for (int wait = 0; wait < 2000 && access(saved, F_OK); wait++)
            nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
        nanosleep(&(struct timespec){ 0, 150000000 }, NULL);
        kill(pid, signals[i]);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (signals[i] == SIGKILL) assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        else if (WEXITSTATUS(status) != 0) assert_int_equal(WEXITSTATUS(status), 128 + signals[i]);
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0) assert_int_not_equal(access(out, F_OK), 0);
        if (WIFSIGNALED(status) && !access(out, F_OK)) {        /* killed when all outputs were in place */
            char *text = contents(out), *rows = data_rows(text);
            assert_string_equal(rows, want);
            free(text);
            free(rows);
        }
        struct outcome again = run_program("training_dynamics", "--num-samples", "8", "--dim", "8", "--prefix-len",
                                           "64,6000", "--threads", "1", "--num-steps", "1500", "--out", out,
                                           "--curve-out", curve, "--quiet", NULL);
        assert_int_equal(again.code, 0);
        outcome_free(&again);
        char *text = contents(out), *rows = data_rows(text);
        assert_string_equal(rows, want);
        assert_int_not_equal(access(saved, F_OK), 0);
        glob_t left;
        strcat(saved, ".*");
        assert_int_equal(glob(saved, 0, NULL, &left), GLOB_NOMATCH);
        free(text);
        free(rows);
    }
    free(want);
    outcome_free(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_user_data),
        cmocka_unit_test(test_threads_and_grid),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_predict),
        cmocka_unit_test(test_kill_and_resume),
    };
    gsl_set_error_handler_off();
    return cmocka_run_group_tests_name("training_dynamics", tests, scratch_setup, scratch_teardown);
}
