/* Verdict rows of a program: rules from the ledger, one run replacing its own rows. */
#include "cli/cli.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEAD "\n| row | quantity | rule | verdict | measured | run |\n|---|---|---|---|---|---|\n"

static const char ledger_text[] =
    "# Theory\n\n### T2. Convergence\n\n**Source.** read; derived.\n\n**Class.** exact (a bound): `bound`; "
    "exploratory: `other`.\n" HEAD
    "| slope | slope of \"log\" error, per m | in [-0.55, -0.45] |  |  | sweep |\n"
    "| bound | bound | <= 2 |  |  | sweep |\n"
    "| other | another | >= 1 |  |  | bounds |\n\n"
    "### F1. Ours\n\n**Source.** ours.\n\n**Class.** same as T2 slope: `extra`.\n" HEAD
    "| extra | extra | >= 0 |  |  | sweep |\n";

static const char header[] = "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure,class,"
                             "same_as\n";

static char *contents(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 16);
    if (file) assert_true(fread(text, 1, (1 << 16) - 1, file) < (1 << 16) - 1);
    if (file) fclose(file);
    return text;
}

static void expect(const char *path, const char *want)
{
    char *text = contents(path);
    assert_string_equal(text, want);
    free(text);
}

static struct cli_common run_with(void *state, const char *verdicts)
{
    return (struct cli_common){ .program = "prog", .verdicts = verdicts,
                                .ledger = scratch_file(state, "notes.md", ledger_text) };
}

static void test_rows(void **state)
{
    const char *path = scratch_path(*state, "verdicts.csv");
    const struct cli_common cfg = run_with(*state, path);
    struct verdicts *v = verdicts_open(&cfg, "sweep");
    verdicts_add(v, "T2", "slope", (struct interval){ -0.5, -0.51, -0.49, 64 });
    verdicts_add(v, "T2", "bound", (struct interval){ 2.5, -INFINITY, INFINITY, 1 });
    verdicts_not_tested(v, "F1", "extra");
    assert_int_equal(verdicts_close(v, 0), 0);
    static const char first[] =
        "T2,slope,\"slope of \"\"log\"\" error, per m\",\"in [-0.55, "
        "-0.45]\",-0.5,-0.51000000000000001,-0.48999999999999999,64,"
        "supported,read,prog,sweep.svg,preregistered,\n"
        "T2,bound,bound,<= 2,2.5,,,1,inconclusive,read,prog,sweep.svg,exact,\n"
        "F1,extra,extra,>= 0,,,,,not tested,ours,prog,sweep.svg,preregistered,T2 slope\n";
    char want[2048];
    snprintf(want, sizeof want, "%s%s", header, first);
    expect(path, want);

    /* Another run adds its rows; run again, the first replaces its own only. */
    v = verdicts_open(&cfg, "bounds");
    verdicts_add(v, "T2", "other", (struct interval){ 0.5, 0.4, 0.6, 8 });
    assert_int_equal(verdicts_close(v, 0), 0);
    static const char other[] = "T2,other,another,>= "
                                "1,0.5,0.40000000000000002,0.59999999999999998,8,contradicted,read,prog,bounds.svg,"
                                "exploratory,\n";
    snprintf(want, sizeof want, "%s%s%s", header, first, other);
    expect(path, want);
    v = verdicts_open(&cfg, "sweep");
    verdicts_add(v, "T2", "bound", (struct interval){ 1, NAN, 1, 3 });
    assert_int_equal(verdicts_close(v, 0), 0);
    snprintf(want, sizeof want, "%s%s%s", header, other,
             "T2,bound,bound,<= 2,1,,1,3,inconclusive,read,prog,sweep.svg,exact,\n");
    expect(path, want);

    /* A table written without the last two columns is completed. */
    char older[2048];
    snprintf(older, sizeof older, "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure\n"
             "T2,other,another,>= 1,0.5,0.4,0.6,8,contradicted,read,prog,bounds.svg\nT2,slope,s,<= "
             "1,0,0,0,3,supported,read,prog,sweep.svg\n");
    path = scratch_file(*state, "verdicts.csv", older);
    v = verdicts_open(&cfg, "sweep");
    verdicts_add(v, "T2", "bound", (struct interval){ 1, NAN, 1, 3 });
    assert_int_equal(verdicts_close(v, 0), 0);
    snprintf(want, sizeof want, "%s%s%s", header,
             "T2,other,another,>= 1,0.5,0.4,0.6,8,contradicted,read,prog,bounds.svg,,\n",
             "T2,bound,bound,<= 2,1,,1,3,inconclusive,read,prog,sweep.svg,exact,\n");
    expect(path, want);

    /* A failed run changes nothing. */
    v = verdicts_open(&cfg, "sweep");
    verdicts_add(v, "T2", "slope", (struct interval){ 0, 0, 0, 3 });
    assert_int_equal(verdicts_close(v, 130), 130);
    expect(path, want);
}

static void refused(void *state, const char *stem, const char *claim, const char *row, int times)
{
    const char *path = scratch_path(state, "refused.csv");
    const struct cli_common cfg = run_with(state, path);
    struct verdicts *v = verdicts_open(&cfg, stem);
    for (int i = 0; i < times; i++) verdicts_add(v, claim, row, (struct interval){ 1, 1, 1, 3 });
    assert_int_equal(verdicts_close(v, 0), EXIT_FAILED);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_refusals(void **state)
{
    refused(*state, "sweep", "T3", "slope", 1);
    refused(*state, "sweep", "T2", "slop", 1);
    refused(*state, "sweep", "T2", "other", 1);
    refused(*state, "sweep", "T2", "slope", 2);
    assert_int_equal(verdicts_close(NULL, 0), EXIT_FAILED);

    /* A file that is no verdict table is not overwritten. */
    const char *path = scratch_file(*state, "mine.csv", "my,own,table\n1,2,3\n");
    struct cli_common cfg = run_with(*state, path);
    struct verdicts *v = verdicts_open(&cfg, "sweep");
    assert_int_equal(verdicts_close(v, 0), EXIT_FAILED);
    expect(path, "my,own,table\n1,2,3\n");
    cfg.ledger = scratch_path(*state, "missing.md");
    v = verdicts_open(&cfg, "sweep");
    assert_int_equal(verdicts_close(v, 0), EXIT_FAILED);

    /* Without --verdicts nothing happens. */
    cfg.verdicts = NULL;
    v = verdicts_open(&cfg, "sweep");
    verdicts_add(v, "T99", "nothing", (struct interval){ 1, 1, 1, 3 });
    assert_int_equal(verdicts_close(v, 0), 0);
    assert_int_equal(verdicts_close(verdicts_open(&cfg, "sweep"), 143), 143);
}

/* Programs that end at once lose none of each other's rows. */
static void test_side_by_side(void **state)
{
    enum { RUNS = 12 };
    char text[4096];
    size_t len = (size_t)snprintf(text, sizeof text, "# A\n\n### T2. Many\n\n**Source.** read.\n%s", HEAD);
    for (int i = 0; i < RUNS; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "| row%d | q | >= 0 |  |  | run%d |\n", i, i);
    const char *path = scratch_path(*state, "many.csv");
    const struct cli_common cfg = { .program = "prog", .verdicts = path,
                                    .ledger = scratch_file(*state, "many.md", text) };
    for (int i = 0; i < RUNS; i++)
        if (fork() == 0) {
            char stem[16], row[16];
            snprintf(stem, sizeof stem, "run%d", i);
            snprintf(row, sizeof row, "row%d", i);
            struct verdicts *v = verdicts_open(&cfg, stem);
            verdicts_add(v, "T2", row, (struct interval){ i, i, i, 1 });
            _exit(verdicts_close(v, 0));
        }
    for (int i = 0, status; i < RUNS; i++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    char *rows = contents(path);
    for (int i = 0; i < RUNS; i++) {
        char want[32];
        snprintf(want, sizeof want, "\nT2,row%d,", i);
        assert_non_null(strstr(rows, want));
    }
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_side_by_side),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
