/* What every program promises: options, tables, arrays, signals. The program under
 * test is this file, started again with TEST_CLI_PROGRAM set. */
#include "cli/cli.h"
#include "common/npy.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the program -------------------------------------------------------------- */

enum { KEY_SIGMA = 256, KEY_LEN, KEY_RATES, KEY_LAW, KEY_LAWS, KEY_MATRIX, KEY_VECTOR, KEY_RAISE, KEY_CODE, KEY_BYTES,
       KEY_DEAF };

static struct {
    struct cli_common common;
    double sigma, *rates;
    size_t *lens, num_lens, num_rates, num_laws, signal, code, bytes;
    int law, *laws;
    bool deaf;
    const char *matrix, *vector;
} cfg = { .sigma = 0.7 };

static const char *const laws[] = { "random", "positive", "mirrored", NULL };

static const struct argp_option options[] = {
    { .name = "sigma", .key = KEY_SIGMA, .arg = "S", .doc = "a number above 0 (default 0.7)" },
    { .name = "prefix-len", .key = KEY_LEN, .arg = "M,...", .doc = "sizes from 2 to 1000 (default 8)" },
    { .name = "rates", .key = KEY_RATES, .arg = "R,...", .doc = "numbers (default none)" },
    { .name = "signs", .key = KEY_LAW, .arg = "LAW", .doc = "random, positive or mirrored (default random)" },
    { .name = "laws", .key = KEY_LAWS, .arg = "LAW,...", .doc = "several (default none)" },
    { .name = "matrix", .key = KEY_MATRIX, .arg = "FILE", .doc = "a matrix (default none)" },
    { .name = "vector", .key = KEY_VECTOR, .arg = "FILE", .doc = "a vector (default none)" },
    { .name = "raise", .key = KEY_RAISE, .arg = "N", .doc = "raise this signal (default none)" },
    { .name = "code", .key = KEY_CODE, .arg = "N", .doc = "fail with this code (default 0)" },
    { .name = "deaf", .key = KEY_DEAF, .doc = "do not look whether a signal came" },
    { .name = "bytes", .key = KEY_BYTES, .arg = "N", .doc = "memory wanted (default 0)" },
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case KEY_SIGMA: return cli_parse_double(state, key, arg, 0.0, &cfg.sigma);
    case KEY_LEN: return cli_parse_size_list(state, key, arg, 2, 1000, &cfg.lens, &cfg.num_lens);
    case KEY_RATES: return cli_parse_double_list(state, key, arg, -INFINITY, &cfg.rates, &cfg.num_rates);
    case KEY_LAW: return cli_parse_choice(state, key, arg, laws, &cfg.law);
    case KEY_LAWS: return cli_parse_choice_list(state, key, arg, laws, &cfg.laws, &cfg.num_laws);
    case KEY_MATRIX: cfg.matrix = arg; return 0;
    case KEY_VECTOR: cfg.vector = arg; return 0;
    case KEY_RAISE: return cli_parse_size(state, key, arg, 1, 31, &cfg.signal);
    case KEY_CODE: return cli_parse_size(state, key, arg, 0, 3, &cfg.code);
    case KEY_DEAF: cfg.deaf = true; return 0;
    case KEY_BYTES: return cli_parse_size(state, key, arg, 0, SIZE_MAX, &cfg.bytes);
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *c)
{
    (void)c;
    for (size_t i = 0; i < cfg.num_lens; i++)
        if (cfg.law == 2 && cfg.lens[i] % 2) return "--prefix-len: odd with --signs mirrored";
    return NULL;
}

static int program(int argc, char **argv)
{
    cli_parse(argc, argv, "A program for tests.", options, parse, check, &cfg.common);
    gsl_matrix *m = NULL;
    gsl_vector *v = NULL;
    int code = cli_memory(&cfg.common, (double)cfg.bytes, "the matrix");
    if (!code && cfg.matrix) code = cli_read_matrix(&cfg.common, cfg.matrix, &m);
    if (!code && cfg.vector) code = cli_read_vector(&cfg.common, cfg.vector, &v);
    struct table *t = code ? NULL : table_open(&cfg.common, NULL, "name,size,value");
    if (t) {
        table_note(t, "value: its square root; %s", "a note");
        for (size_t i = 0; i < cfg.num_lens; i++) {
            table_text(t, "a \"name\", quoted");
            table_int(t, cfg.lens[i]);
            table_num(t, sqrt((double)cfg.lens[i] - 3.0));
            table_end_row(t);
        }
        if (m) {
            table_text(t, "matrix");
            table_int(t, m->size1 * m->size2);
            table_num(t, gsl_matrix_get(m, m->size1 - 1, 0));
            table_end_row(t);
        }
        if (v) {
            table_text(t, "vector");
            table_int(t, v->size);
            table_empty(t);
            table_end_row(t);
        }
        if (cfg.signal) raise((int)cfg.signal);
        while (cfg.deaf) pause();
        code = cli_interrupted();
        if (cfg.code) code = cli_fail(&cfg.common, (int)cfg.code, "told to fail");
        code = table_close(t, code);
    } else if (!code) {
        code = EXIT_FAILED;
    }
    gsl_matrix_free(m);
    gsl_vector_free(v);
    return code;
}

/* ---- its promises --------------------------------------------------------------- */

static char self[4096];                     /* this program */
static const char name[] = "test_cli";

#define RUN(...) run_program(self, __VA_ARGS__, (char *)NULL)

static void test_table(void **state)
{
    (void)state;
    struct outcome o = RUN("--prefix-len", "4,2", "--profile=tiny", "--threads", "1", "--seed", "18446744073709551615");
    assert_int_equal(o.code, 0);
    assert_string_equal(o.err, "");
    assert_int_equal(strncmp(o.out, "# program=test_cli version=", 27), 0);
    static const char *const parts[] = { " commit=", " seed=18446744073709551615 ", " threads=1 ", " isa=",
                                         " blas=\"OpenBLAS ", " core=", " profile=tiny\n",
                                         "\n# value: its square root; a note\n", "# options: --prefix-len 4,2 " };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(o.out, parts[i])) fail_msg("no '%s' in\n%s", parts[i], o.out);
    char *rows = data_rows(o.out);
    assert_string_equal(rows, "name,size,value\n\"a \"\"name\"\", quoted\",4,1\n\"a \"\"name\"\", quoted\",2,\n");
    free(rows);
    outcome_free(&o);
}

static void test_help_and_version(void **state)
{
    (void)state;
    struct outcome o = RUN("--help");
    assert_int_equal(o.code, 0);
    assert_string_equal(o.err, "");
    static const char *const words[] = { "A program for tests.", "--sigma", "(default 0.7)", "--seed", "20240614",
                                         "--threads", "--out", "--quiet", "--profile", "--verdicts", "--ledger",
                                         "--version" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(o.out, words[i])) fail_msg("no '%s' in\n%s", words[i], o.out);
    outcome_free(&o);
    o = RUN("--version");
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "prefix-ntk"));
    outcome_free(&o);
}

static void test_usage(void **state)
{
    (void)state;
    static const struct { const char *words[3], *says; } bad[] = {
        { { "--nonsense" }, "--nonsense" },
        { { "--nonsense=3" }, "--nonsense" },
        { { "-s" }, "-s" },
        { { "stray" }, "stray" },
        { { "--" , "stray" }, "--" },
        { { "-" }, "-: unexpected" },
        { { "--s", "3" }, "--s: ambiguous" },
        { { "--sigma" }, "--sigma: needs a value" },
        { { "--quiet=yes" }, "--quiet: takes no value" },
        { { "--sigma", "0" }, "--sigma: 0 " },
        { { "--sigma", "-3" }, "--sigma: -3" },
        { { "--sigma", "nan" }, "--sigma: 'nan'" },
        { { "--sigma", "inf" }, "--sigma: 'inf'" },
        { { "--sigma", "1e999" }, "--sigma: '1e999'" },
        { { "--sigma", "0x1p3" }, "--sigma: '0x1p3'" },
        { { "--sigma", "0.7z" }, "--sigma: '0.7z'" },
        { { "--sigma", "" }, "--sigma: ''" },
        { { "--sigma", " 1" }, "--sigma: ' 1'" },
        { { "--prefix-len", "0" }, "--prefix-len: 0" },
        { { "--prefix-len", "1" }, "--prefix-len: 1 is below 2" },
        { { "--prefix-len", "1001" }, "--prefix-len: 1001 is above 1000" },
        { { "--prefix-len", "-3" }, "--prefix-len: '-3'" },
        { { "--prefix-len", "+3" }, "--prefix-len: '+3'" },
        { { "--prefix-len", "12x" }, "--prefix-len: '12x'" },
        { { "--prefix-len", "1e3" }, "--prefix-len: '1e3'" },
        { { "--prefix-len", "4,,8" }, "--prefix-len: '4,,8'" },
        { { "--prefix-len", "4,8," }, "--prefix-len: '4,8,'" },
        { { "--prefix-len", ",4" }, "--prefix-len: ',4'" },
        { { "--prefix-len", "" }, "--prefix-len: ''" },
        { { "--prefix-len", "4;8" }, "--prefix-len: '4;8'" },
        { { "--prefix-len", "99999999999999999999" }, "--prefix-len" },
        { { "--rates", "1,nan" }, "--rates: 'nan'" },
        { { "--signs", "both" }, "--signs: 'both' is not one of random, positive, mirrored" },
        { { "--signs", "rand" }, "--signs: 'rand'" },
        { { "--signs", "mirored" }, "is it mirrored?" },
        { { "--laws", "random,positiv" }, "is it positive?" },
        { { "--sgima", "1" }, "--sgima: unknown option; is it --sigma?" },
        { { "--laws", "random,x" }, "--laws: 'x'" },
        { { "--seed", "-1" }, "--seed: '-1'" },
        { { "--seed", "18446744073709551616" }, "--seed" },
        { { "--seed", "1.5" }, "--seed: '1.5'" },
        { { "--threads", "-1" }, "--threads: '-1'" },
        { { "--threads", "many" }, "--threads: 'many'" },
        { { "--threads", "100000" }, "--threads" },
        { { "--out", "" }, "--out" },
        { { "--verdicts", "v.csv" }, "--verdicts: needs --ledger" },
        { { "--signs=mirrored", "--prefix-len=4,7" }, "--prefix-len: odd" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_REFUSAL(run_program(self, bad[i].words[0], bad[i].words[1], bad[i].words[2], (char *)NULL), EXIT_USAGE,
                      name, bad[i].says);
}

static void test_instruction_set(void **state)
{
    (void)state;
    setenv("PREFIX_NTK_ISA", "sse9", 1);
    CHECK_REFUSAL(RUN("--quiet"), EXIT_USAGE, name, "PREFIX_NTK_ISA=sse9");
    setenv("PREFIX_NTK_ISA", "portable", 1);
    struct outcome o = RUN("--quiet");
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, " isa=portable "));
    outcome_free(&o);
    unsetenv("PREFIX_NTK_ISA");
}

static char *contents(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    char *text = calloc(1, 4096);
    assert_true(fread(text, 1, 4095, file) < 4095);
    fclose(file);
    return text;
}

static void test_output_files(void **state)
{
    const char *path = scratch_file(*state, "t.csv", "what was there before\n");
    const int count = scratch_count(*state);
    chmod(path, 0640);
    /* A failing run leaves the old file, and nothing beside it. */
    CHECK_REFUSAL(RUN("--out", path, "--code", "1"), EXIT_FAILED, name, "told to fail");
    CHECK_REFUSAL(RUN("--out", path, "--code", "3"), EXIT_DATA, name, "told to fail");
    char *text = contents(path);
    assert_string_equal(text, "what was there before\n");
    free(text);
    assert_int_equal(scratch_count(*state), count);

    struct outcome o = RUN("--out", path, "--prefix-len", "12");
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "");
    outcome_free(&o);
    text = contents(path);
    assert_non_null(strstr(text, "name,size,value\n"));
    assert_non_null(strstr(text, ",12,3\n"));
    free(text);
    assert_int_equal(scratch_count(*state), count);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);

    /* A link keeps leading to the file, which is replaced. */
    const char *link = scratch_path(*state, "link.csv");
    assert_int_equal(symlink("t.csv", link), 0);
    o = RUN("--out", link, "--prefix-len", "19");
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    text = contents(path);
    assert_non_null(strstr(text, ",19,4\n"));
    free(text);

    /* What it took in memory, where `make reproduce` asks for it. */
    setenv("PREFIX_NTK_USAGE", scratch_path(*state, "usage"), 1);
    o = RUN("--out", "/dev/null");
    unsetenv("PREFIX_NTK_USAGE");
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    text = contents(scratch_path(*state, "usage"));
    assert_true(atof(text) > 1e6 && atof(text) < 1e10);
    free(text);
    assert_int_equal(stat("/dev/null", &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    CHECK_REFUSAL(RUN("--out", "/dev/full"), EXIT_FAILED, name, "/dev/full: No space left");
    CHECK_REFUSAL(RUN("--out", scratch_path(*state, "none/t.csv")), EXIT_FAILED, name, "none/t.csv: No such file");
    CHECK_REFUSAL(RUN("--out", scratch_path(*state, ".")), EXIT_FAILED, name, "directory");

    /* Into a redirected file /dev/stdout appends where the redirection stands. */
    o = RUN("--out", "/dev/stdout", "--prefix-len", "7");
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, ",7,2\n"));
    outcome_free(&o);
}

static void test_signals(void **state)
{
    const char *path = scratch_path(*state, "signal.csv");
    const int count = scratch_count(*state);
    const struct { const char *number; int code; } signals[] = { { "2", 130 }, { "15", 143 } };
    for (size_t i = 0; i < 2; i++) {
        struct outcome o = RUN("--out", path, "--raise", signals[i].number);
        assert_int_equal(o.code, signals[i].code);
        outcome_free(&o);
        assert_int_equal(scratch_count(*state), count);
    }
    /* Within a unit of work without end it is ended, and leaves nothing either. */
    struct outcome o = RUN("--out", path, "--raise", "15", "--deaf");
    assert_int_equal(o.code, 143);
    outcome_free(&o);
    assert_int_equal(scratch_count(*state), count);
}

static void test_memory(void **state)
{
    (void)state;
    CHECK_REFUSAL(RUN("--bytes", "18446744073709551615"), EXIT_FAILED, name, "the matrix needs");
    struct outcome o = RUN("--bytes", "1000000");
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    const struct cli_common common = { .program = "test" };
    assert_int_equal(cli_memory(&common, NAN, "nothing"), EXIT_FAILED);
}

static void test_arrays(void **state)
{
    char why[128];
    const double x[] = { 0.7, -1.3, 2.9, 3.1, -0.4, 8.5 };
    const char *matrix = scratch_path(*state, "m.npy"), *vector = scratch_path(*state, "v.npy");
    const char *empty = scratch_path(*state, "empty.npy"), *cube = scratch_path(*state, "cube.npy");
    assert_int_equal(npy_write_f64(matrix, x, 2, (size_t[]){ 3, 2 }, why, sizeof why), 0);
    assert_int_equal(npy_write_f64(vector, x, 1, (size_t[]){ 6 }, why, sizeof why), 0);
    assert_int_equal(npy_write_f64(empty, x, 2, (size_t[]){ 0, 2 }, why, sizeof why), 0);
    assert_int_equal(npy_write_f64(cube, x, 3, (size_t[]){ 1, 3, 2 }, why, sizeof why), 0);

    struct outcome o = RUN("--matrix", matrix, "--vector", vector);
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "\nmatrix,6,-0.4"));
    assert_non_null(strstr(o.out, "\nvector,6,\n"));
    outcome_free(&o);
    o = RUN("--matrix", scratch_file(*state, "m.csv", "1,2\n3,4\n"), "--vector",
            scratch_file(*state, "v.csv", "1\n2\n3\n"));
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "\nmatrix,4,3\n"));
    assert_non_null(strstr(o.out, "\nvector,3,\n"));
    outcome_free(&o);

    CHECK_REFUSAL(RUN("--matrix", vector), EXIT_DATA, name, "v.npy: has 1 dimensions");
    CHECK_REFUSAL(RUN("--matrix", cube), EXIT_DATA, name, "cube.npy: has 3 dimensions");
    CHECK_REFUSAL(RUN("--matrix", empty), EXIT_DATA, name, "empty.npy: an empty matrix (0, 2)");
    CHECK_REFUSAL(RUN("--vector", matrix), EXIT_DATA, name, "m.npy: has 2 dimensions");
    CHECK_REFUSAL(RUN("--vector", scratch_path(*state, "m.csv")), EXIT_DATA, name, "m.csv: has 2 dimensions");
    CHECK_REFUSAL(RUN("--matrix", scratch_path(*state, "missing.npy")), EXIT_DATA, name, "missing.npy: No such file");
    CHECK_REFUSAL(RUN("--matrix", scratch_file(*state, "m.txt", "1\n")), EXIT_DATA, name, "m.txt: neither");
    CHECK_REFUSAL(RUN("--matrix", scratch_file(*state, "ragged.csv", "1,2\n3\n")), EXIT_DATA, name,
                  "ragged.csv: line 2");
    CHECK_REFUSAL(RUN("--matrix", scratch_file(*state, "nan.csv", "1,nan\n")), EXIT_DATA, name, "nan.csv: line 1");

    /* What is written comes back, from a view of a larger matrix too. */
    const struct cli_common common = { .program = "test" };
    double data[] = { 1, 2, 9, 3, 4, 9 };
    gsl_matrix_view wide = gsl_matrix_view_array(data, 2, 3), left = gsl_matrix_submatrix(&wide.matrix, 0, 0, 2, 2);
    gsl_vector_view column = gsl_matrix_column(&wide.matrix, 1);
    gsl_matrix *m = NULL;
    gsl_vector *v = NULL;
    assert_int_equal(cli_write_matrix(&common, matrix, &left.matrix), 0);
    assert_int_equal(cli_write_vector(&common, vector, &column.vector), 0);
    assert_int_equal(cli_read_matrix(&common, matrix, &m), 0);
    assert_int_equal(cli_read_vector(&common, vector, &v), 0);
    assert_true(m->size1 == 2 && m->size2 == 2 && gsl_matrix_get(m, 1, 0) == 3.0 && gsl_matrix_get(m, 1, 1) == 4.0);
    assert_true(v->size == 2 && gsl_vector_get(v, 0) == 2.0 && gsl_vector_get(v, 1) == 4.0);
    gsl_matrix_free(m);
    gsl_vector_free(v);
}

int main(int argc, char **argv)
{
    if (getenv("TEST_CLI_PROGRAM")) return program(argc, argv);
    setenv("TEST_CLI_PROGRAM", "1", 1);
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_help_and_version), cmocka_unit_test(test_usage),
        cmocka_unit_test(test_instruction_set), cmocka_unit_test(test_output_files), cmocka_unit_test(test_signals),
        cmocka_unit_test(test_memory),      cmocka_unit_test(test_arrays),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
