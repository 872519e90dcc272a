/* The rows that the ledger calls exact come out the same whatever the seed: identities, guarantees and counts, each
 * by its program at a small size. */
#include "cli/ledger.h"
#include "cli/verdict_rows.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char ledger_path[] = "paper_notes.md";

/* run, program, and options that make it short; a seed that no profile has. */
static const struct { const char *run, *args[12]; } runs[] = {
    { "prefix_gradient", { "--step", "1e-3,1e-5,1e-7" } },
    { "score_concentration", { "--prefix-len", "1,16,256", "--num-trials", "1000" } },
    { "theorem_constants",
      { "--num-samples", "2,3", "--dim", "4", "--num-trials", "2", "--prefix-len", "64", "--max-work", "1e5" } },
    { "approximation_crossover", { "--num-trials", "20" } },
    { "polynomial_degree", { NULL } },
    { "error_bound", { "--num-trials", "3" } },
    { "summary_capacity", { "--num-trials", "2" } },
    { "parameter_count", { NULL } },
    { "released_kernel", { "--num-trials", "3", "--adam-steps", "100" } },
    { "summary_training", { "--num-trials", "3" } },
    { "kernel_routes", { "--num-trials", "2" } },
    { "score_centring", { "--num-trials", "4", "--prefix-len", "4096" } },
};
enum { NUM_RUNS = sizeof runs / sizeof *runs };

static void test_every_exact_row(void **state)
{
    char error[512], table[512], verdicts[512];
    struct ledger *l = ledger_read(ledger_path, error, sizeof error);
    if (!l) fail_msg("%s", error);
    snprintf(verdicts, sizeof verdicts, "%s", scratch_path(*state, "verdicts.csv"));
    for (size_t i = 0; i < NUM_RUNS; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.csv", runs[i].run);
        snprintf(table, sizeof table, "%s", scratch_path(*state, name));
        const char *const *a = runs[i].args;
        struct outcome o = run_program(runs[i].run, "--seed", "7", "--threads", "1", "--quiet", "--out", table,
                                       "--verdicts", verdicts, "--ledger", ledger_path, a[0], a[1], a[2], a[3], a[4],
                                       a[5], a[6], a[7], a[8], a[9], a[10], a[11], NULL);
        if (o.code) fail_msg("%s: exit %d, %s", runs[i].run, o.code, o.err);
        outcome_free(&o);
    }
    struct verdict_rows *v = verdict_rows_read(verdicts, error, sizeof error);
    if (!v) fail_msg("%s", error);
    size_t count = 0;
    for (size_t i = 0; i < l->num_rows; i++) {
        const struct ledger_row *want = &l->rows[i];
        if (want->class != ROW_EXACT || *want->same_claim) continue;
        const struct verdict_row *got = verdict_rows_find(v, want->claim, want->row);
        if (!got) fail_msg("%s %s is exact, and no run of this test measures it", want->claim, want->row);
        if (strcmp(got->verdict, want->verdict))
            fail_msg("%s %s is %s here, %s in the ledger", want->claim, want->row, got->verdict, want->verdict);
        count++;
    }
    assert_true(count > 0);
    verdict_rows_free(v);
    ledger_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_exact_row),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
