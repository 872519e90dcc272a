/* Every program at a tiny size (tests/runs.sh): it ends well and says nothing, the rows of its tables have the
 * header's cells and finite numbers, all outputs are the same for one thread and for two; bad values are refused by
 * name. */
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <glob.h>
#include <unistd.h>

#include "cli/csv_record.h"

/* A shell that has sourced tests/runs.sh, run from the root of the tree as `make test` does. */
static struct outcome sh(void *state, const char *command)
{
    const char *bin = getenv("PREFIX_NTK_BIN");
    char *whole;
    assert_true(asprintf(&whole, "root=$PWD work='%s' build=$(cd '%s/..' && pwd) && . tests/runs.sh && "
                         "export PREFIX_NTK_DATA=\"$work/data\" && unset OPENBLAS_CORETYPE && %s",
                         scratch_path(state, "."), bin ? bin : "build/bin", command) > 0);
    struct outcome o = run_program("/bin/sh", "-c", whole, (char *)NULL);
    free(whole);
    return o;
}

static int setup(void **state)
{
    char line[256] = "";
    if (scratch_setup(state) || tiny_inputs_write(scratch_path(*state, "."), (struct reason){ line, sizeof line })) {
        print_error("%s\n", line);
        return -1;
    }
    struct outcome o = sh(*state, "runs_prepare");
    if (o.code) print_error("%s", o.err);
    const int code = o.code;
    outcome_free(&o);
    return code;
}

/* Columns that have an empty cell in one of the runs, which is how a table shows what does not exist there: all
 * others have none. */
static const char *const may_be_empty[] = {
    "accuracy_limit", "accuracy_mean", "agree_mean", "bound", "bytes", "bytes_share", "ci_hi", "ci_lo", "dim",
    "dropped", "eps_median", "err_rel", "err_times_m_max", "feat_dim", "feature", "fit", "gap", "gflop",
    "kl_ci_hi", "kl_ci_lo", "kl_mean", "law_amplitude", "law_exponent", "layer", "n", "needed_factor",
    "ns_per_token", "num_rounds", "num_samples", "num_trials", "output_scale_mean", "output_scale_pred",
    "prefix_len", "prefix_len_close", "prefix_len_needed", "prefix_mass", "ratio_max", "ratio_median",
    "ratio_sharp_max", "ratio_sharp_median", "ratio_to_moments", "rho_median", "same_as", "score_std",
    "share_above", "steps", "steps_bound_key", "steps_factor", "steps_pred", "steps_theorem",
    "test_accuracy_ci_hi", "test_accuracy_ci_lo", "threshold", "time_s", "tokens", "train_loss", "value", NULL
};

static bool is_among(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names)) names++;
    return *names != NULL;
}

/* What is wrong with a table, NULL when nothing is: a header and at least one row of as many cells, no number that is
 * not finite, no empty cell in a column that has none. Token ids and arrays, which have no header, are held to the
 * numbers only. Cuts the text up. */
static const char *table_fault(char *text, bool has_header)
{
    enum { MAX_CELLS = 64 };
    size_t columns = 0, rows = 0;
    char *cell[MAX_CELLS], *header[MAX_CELLS];
    while (text && *text == '#') text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL;
    for (; text && *text; rows++) {
        size_t cells;
        text = csv_record_split(text, cell, MAX_CELLS, &cells);
        if (cells == SIZE_MAX) return "a quote without an end";
        if (!rows) {
            columns = cells;
            memcpy(header, cell, sizeof cell);
        }
        if (has_header && cells != columns) return "a row with other cells than the header";
        for (size_t c = 0; c < cells && c < MAX_CELLS; c++) {
            char *end;
            const double x = strtod(cell[c], &end);
            if (end != cell[c] && !*end && !isfinite(x)) return "a number that is not finite";
            if (has_header && !*cell[c] && !is_among(header[c], may_be_empty)) return "an empty cell";
        }
    }
    return rows > has_header ? NULL : "no row";
}

static void test_checker(void **state)
{
    (void)state;
    static const struct { const char *text; int has_header, is_bad; } cases[] = {
        { "# seed=1\na,gap\n0.7,-1.3\nx,\n", 1, 0 }, { "\"a, b\",c\n1,2\n", 1, 0 }, { "1,2\n3\n", 0, 0 },
        { "a,b\n0.7\n", 1, 1 }, { "a,b\n0.7,nan\n", 1, 1 }, { "a,b\n-inf,2\n", 1, 1 },
        { "a,b\n1,\n", 1, 1 }, { "a,measured_by\n,2\n", 1, 1 },
        { "a,b\n", 1, 1 }, { "# seed=1\n", 0, 1 }, { "a\n\"x\n", 1, 1 }, { "a,b\n1,2\n1,2,3\n", 1, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        strcpy(text, cases[i].text);
        assert_int_equal(table_fault(text, cases[i].has_header) != NULL, cases[i].is_bad);
    }
}

static void check_tables(void *state, const char *run)
{
    /* Outputs that are arrays or token ids, one line each. */
    static const char *const headless[] = { "tokens.csv", "t.csv", "g.csv", NULL };
    glob_t found;
    int status = glob(scratch_path(state, "one/*.csv"), 0, NULL, &found);
    if (!status) status = glob(scratch_path(state, "one/out/*.csv"), GLOB_APPEND, NULL, &found) == GLOB_NOSPACE;
    if (status) return;                 /* a program that writes arrays */
    for (size_t i = 0; i < found.gl_pathc; i++) {
        FILE *file = fopen(found.gl_pathv[i], "rb");
        char *text = NULL;
        size_t room = 0;
        assert_true(file && getdelim(&text, &room, '\0', file) > 0);
        fclose(file);
        bool has_header = strcmp(run, "attend:exact") != 0;
        const char *name = strrchr(found.gl_pathv[i], '/') + 1;
        for (size_t h = 0; headless[h]; h++) has_header &= strcmp(name, headless[h]) != 0;
        const char *fault = table_fault(text, has_header);
        /* Not every run decides rows, and tables that agree have no difference. */
        if (fault && !strcmp(fault, "no row") && (!strcmp(name, "verdicts.csv") || !strcmp(run, "compare")))
            fault = NULL;
        if (fault) fail_msg("%s: %s: %s", run, name, fault);
        free(text);
    }
    globfree(&found);
}

static void test_every_program(void **state)
{
    struct outcome list = sh(*state, "echo $runs");
    assert_int_equal(list.code, 0);
    char *rest = list.out;
    size_t count = 0;
    for (char *run; (run = strsep(&rest, " \n")); ) {
        if (!*run) continue;
        char command[128];
        snprintf(command, sizeof command, "twice %s", run);
        struct outcome o = sh(*state, command);
        if (o.code) fail_msg("%s: %s", run, o.err);
        outcome_free(&o);
        check_tables(*state, run);
        count++;
    }
    assert_true(count > 50);
    outcome_free(&list);
    /* Two runs that differ are seen. */
    struct outcome o = sh(*state, "twice prefix_gradient && for f in \"$work\"/two/*.csv; do echo 1 >> \"$f\"; done &&"
                                  "[ \"$(sum \"$work/one\")\" != \"$(sum \"$work/two\")\" ]");
    assert_int_equal(o.code, 0);
    outcome_free(&o);
}

static void test_no_program_is_missing(void **state)
{
    struct outcome o = sh(*state, "for p in $build/bin/*; do case \" $(echo $runs) \" in *\" ${p##*/} \"*) ;;"
                                  " *) echo ${p##*/} >&2; exit 1 ;; esac; done");
    if (o.code) fail_msg("not among the runs of tests/runs.sh: %s", o.err);
    outcome_free(&o);
}

/* A value each program refuses, by the option's name. */
static const struct { const char *name, *bad[3]; } refusals[] = {
    { "prefix_gradient", { "--step", "1e-4,-1", "--step" } },
    { "ntk_freezing", { "--prefix-len", "1", "--prefix-len" } },
    { "ntk_spectrum", { "--num-draws", "1", "--num-draws" } },
    { "ntk_prefix_needed", { "--confidence", "1.5", "--confidence" } },
    { "ntk_rank", { "--prefix-len", "0", "--prefix-len" } },
    { "ntk_real_layer", { "--signs", "mirror", "--signs" } },
    { "theorem_constants", { "--max-work", "0", "--max-work" } },
    { "contraction_violations", { "--prefix-len", "7", "--prefix-len" } },
    { "prefix_scaling", { "--num-data", "0", "--num-data" } },
    { "training_laziness", { "--num-data", "0", "--num-data" } },
    { "real_prefix_training", { "--step-size", "-1", "--step-size" } },
    { "score_concentration", { "--delta", "1", "--delta" } },
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t p = 0; p < sizeof refusals / sizeof *refusals; p++)
        CHECK_REFUSAL(run_program(refusals[p].name, refusals[p].bad[0], refusals[p].bad[1], NULL), 2, refusals[p].name,
                      refusals[p].bad[2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checker), cmocka_unit_test(test_every_program),
        cmocka_unit_test(test_no_program_is_missing), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, setup, scratch_teardown);
}
