/* The ledger, the verdict table, `verify`, `ledger` and `report`: good files pass,
 * and each planted mistake is caught. */
#include "cli/ledger.h"
#include "cli/verdict_rows.h"
#include "tests/support/check.h"
#include "tests/support/run_program.h"
#include "tests/support/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TABLE_HEAD "\n| row | quantity | rule | verdict | measured | run |\n|---|---|---|---|---|---|\n"

static const char ledger_text[] =
    "# Theory\n\nText before.\n\n"
    "### T2. Convergence of $K_m$\n\n**Statement.** It converges.\n\n**Source.** read (abstract); derived.\n" TABLE_HEAD
    "| slope | slope of the error, in $\\|K\\|$ | in [-0.55, -0.45] | supported | -0.5 | sweep |\n"
    "| constant | measured over predicted | in [0.9, 1.1] | inconclusive |  | sweep |\n\n"
    "# Ours\n\n## Kernels\n\n"
    "### F1. A finding\n\n**Source.**\nours.\n" TABLE_HEAD
    "| bound | largest score over B | <= 1 | contradicted | 3.2 | bounds |\n"
    "| later | not decided | >= 0 | not tested |  |  |\n";

static const char rows_header[] = "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure\n";
static const char slope_row[] = "T2,slope,\"slope, of\",\"in [-0.55, "
                                "-0.45]\",-0.4987,-0.5031,-0.4942,64,supported,read,conv,sweep.svg\n";
static const char constant_row[] = "T2,constant,c,\"in [0.9, "
                                   "1.1]\",1.0234,0.88,1.12,64,inconclusive,read,conv,sweep.svg\n";
static const char bound_row[] = "F1,bound,m,<= 1,3.2,3.1,3.3,12,contradicted,ours,bounds,bounds.svg\n";

/* Writes a verdict table of the rows given into the folder. */
static void put_rows(void *state, const char *a, const char *b, const char *c)
{
    char text[2048];
    snprintf(text, sizeof text, "%s%s%s%s", rows_header, a, b, c);
    scratch_file(state, "verdicts.csv", text);
}

static struct outcome verify(void *state, const char *profile)
{
    return run_program("verify", "--ledger", scratch_path(state, "ledger.md"), "--results", scratch_path(state, ""),
                       "--runs", "sweep,bounds", "--profile", profile, NULL);
}

/* `verify` fails in the profile and its complaint holds `says`. */
static void check_caught(void *state, const char *profile, const char *says)
{
    struct outcome o = verify(state, profile);
    if (o.code != 1 || !strstr(o.err, says)) {
        print_error("exit %d, wanted 1 and \"%s\"; said: %s", o.code, says, o.err);
        fail();
    }
    outcome_free(&o);
}

static void check_passes(void *state, const char *profile)
{
    struct outcome o = verify(state, profile);
    if (o.code) { print_error("%s", o.err); fail(); }
    outcome_free(&o);
}

static void test_ledger_is_read(void **state)
{
    char error[256];
    struct ledger *l = ledger_read(scratch_file(*state, "l.md", ledger_text), error, sizeof error);
    assert_non_null(l);
    assert_int_equal(l->num_entries, 2);
    assert_int_equal(l->num_rows, 4);
    const struct ledger_entry *e = ledger_entry(l, "F1");
    assert_non_null(e);
    assert_string_equal(e->section, "Ours");
    assert_string_equal(e->subsection, "Kernels");
    assert_string_equal(e->source, "ours");
    assert_int_equal(e->first_row, 2);
    assert_int_equal(e->num_rows, 2);
    assert_string_equal(l->entries[0].title, "Convergence of $K_m$");
    assert_string_equal(l->entries[0].source, "read");
    const struct ledger_row *r = ledger_find(l, "T2", "slope");
    assert_non_null(r);
    assert_string_equal(r->rule, "in [-0.55, -0.45]");
    assert_string_equal(r->run, "sweep");
    assert_int_equal(r->line, 13);
    assert_null(ledger_find(l, "T2", "bound"));
    assert_string_equal(ledger_find(l, "F1", "later")->run, "");
    ledger_free(l);
}

static void test_bad_ledgers_are_refused(void **state)
{
    static const struct { const char *from, *to, *says; } cases[] = {
        { "in [-0.55, -0.45]", "about -0.5", "not a rule" },
        { "| supported |", "| proved |", "not a verdict" },
        { "| constant |", "| slope |", "twice" },
        { "### F1.", "### T2.", "twice" },
        { "**Source.** read", "**Source.** rumour", "source" },
        { "| 3.2 | bounds |", "| bounds |", "cells" },
        { "| row | quantity", "| name | quantity", "columns" },
        { "| bound |", "| bo und |", "character" },
    };
    char text[4096], error[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = strstr(ledger_text, cases[i].from);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - ledger_text), ledger_text, cases[i].to,
                 at + strlen(cases[i].from));
        const char *path = scratch_file(*state, "bad.md", text);
        assert_null(ledger_read(path, error, sizeof error));
        if (!strstr(error, cases[i].says) || !strstr(error, path)) { print_error("%s\n", error); fail(); }
    }
    assert_null(ledger_read(scratch_path(*state, "absent.md"), error, sizeof error));
    assert_non_null(strstr(error, "absent.md"));
}

/* The ledger with the paragraph in F1. */
static struct ledger *with_classes(void *state, const char *paragraph, char *error, size_t size)
{
    const char *at = strstr(ledger_text, "ours.\n") + 6;
    char text[4096];
    snprintf(text, sizeof text, "%.*s\n%s\n%s", (int)(at - ledger_text), ledger_text, paragraph, at);
    return ledger_read(scratch_file(state, "ledger.md", text), error, size);
}

static void test_classes(void **state)
{
    char error[256];
    struct ledger *l = with_classes(*state,
                                    "**Class.** exact (a count: of tokens;\nnot of queries): `bound`; same as "
                                    "T2\nslope:\n`later`.", error, sizeof error);
    if (!l) fail_msg("%s", error);
    assert_int_equal(ledger_find(l, "F1", "bound")->class, ROW_EXACT);
    assert_int_equal(ledger_find(l, "T2", "slope")->class, ROW_PREREGISTERED);
    assert_string_equal(ledger_find(l, "F1", "later")->same_claim, "T2");
    assert_string_equal(ledger_find(l, "F1", "later")->same_row, "slope");
    assert_string_equal(ledger_find(l, "F1", "bound")->same_row, "");
    ledger_free(l);
    l = with_classes(*state, "**Class.** exploratory: `bound`, `later`.", error, sizeof error);
    assert_int_equal(ledger_find(l, "F1", "later")->class, ROW_EXPLORATORY);
    ledger_free(l);

    static const struct { const char *paragraph, *says; } bad[] = {
        { "**Class.** proved: `bound`.", "neither exact" },       { "**Class.** exact: `bound`, `boun`.",
                                                                    "name of a row" },
        { "**Class.** exact `bound`.", "colon" },                 { "**Class.** exact: `bound`", "semicolon" },
        { "**Class.** exact: `bound`;", "neither exact" },        { "**Class.** exact (never closed: `bound`.",
                                                                    "colon" },
        { "**Class.** same as T2 slop: `later`.", "no row slop" }, { "**Class.** same as F1 later: `later`.",
                                                                     "name of a row" },
        { "**Class.** exact: bound.", "backticks" },              { "**Class.**", "neither exact" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        l = with_classes(*state, bad[i].paragraph, error, sizeof error);
        if (l || !strstr(error, bad[i].says)) fail_msg("\"%s\": %s", bad[i].paragraph, l ? "accepted" : error);
    }
}

static void test_verify_on_classes(void **state)
{
    char error[256], text[2048];
    ledger_free(with_classes(*state, "**Class.** exact: `bound`; same as T2 slope: `later`.", error, sizeof error));
    put_rows(*state, slope_row, constant_row, "F1,bound,m,<= 1,3.2,3.2,3.2,12,contradicted,ours,bounds,bounds.svg\n");
    struct outcome o = verify(*state, "smoke");
    assert_int_equal(o.code, 0);
    /* T2 slope alone is decided: far inside its margin, so it stands beside one that is not. */
    static const char *const wanted[] = {
        "3 rows: 2 preregistered, 1 exact, 0 exploratory; 1 more", "2 intervals of 99.9 %", "chance of 0 %",
        "1 of 1 decided rows stand\n", "= T2 slope",
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(o.out, wanted[i])) fail_msg("\"%s\" is not in\n%s", wanted[i], o.out);
    outcome_free(&o);

    /* A point is no interval unless the ledger says that the row is exact. */
    put_rows(*state, "T2,slope,s,\"in [-0.55, -0.45]\",-0.5,-0.5,-0.5,64,supported,read,conv,sweep.svg\n", "", "");
    check_caught(*state, "default", "T2 slope has no interval");

    /* Decided by a hair at 99.9 %, undecided among two. */
    ledger_free(with_classes(*state, "", error, sizeof error));
    static const char hair[] = "F1,bound,m,<= 1,3.2,1.0000001,5.4,3,contradicted,ours,bounds,bounds.svg\n";
    snprintf(text, sizeof text, "%s%s", slope_row, hair);
    enum { MANY = 150 };
    char *many = calloc(1, 1 << 16), *ledger = calloc(1, 1 << 16);
    int m = sprintf(many, "%s%s", rows_header, text), n = sprintf(ledger, "%s\n### F2. Many\n\n**Source.** ours.\n%s",
                                                                  ledger_text, TABLE_HEAD);
    for (int i = 0; i < MANY; i++) {
        m += sprintf(many + m, "F2,r%d,q,<= 1,1,0,2,5,inconclusive,ours,bounds,bounds.svg\n", i);
        n += sprintf(ledger + n, "| r%d | q | <= 1 | inconclusive | 1 | bounds |\n", i);
    }
    scratch_file(*state, "ledger.md", ledger);
    scratch_file(*state, "verdicts.csv", many);
    o = verify(*state, "smoke");
    if (!strstr(o.out, "1 of 2 decided rows stand; undecided then: F1 bound\n") || !strstr(o.out, "chance of 14 %"))
        fail_msg("%s", o.out);
    outcome_free(&o);
    free(many);
    free(ledger);
}

/* Rows that docs/statements.md names as `ID/row` are rows of the ledger. */
static void test_statements(void **state)
{
    (void)state;
    char error[256];
    struct ledger *l = ledger_read("paper_notes.md", error, sizeof error);
    if (!l) fail_msg("%s", error);
    FILE *file = fopen("docs/statements.md", "r");
    assert_non_null(file);
    char line[8192], claim[8], row[64];
    size_t count = 0;
    while (fgets(line, sizeof line, file))
        for (const char *p = line; (p = strchr(p, '`')); p++) {
            if (sscanf(p, "`%7[A-Z0-9]/%63[A-Za-z0-9-]`", claim, row) != 2) continue;
            if (!ledger_find(l, claim, row)) fail_msg("docs/statements.md names %s/%s, which is no row", claim, row);
            count++;
        }
    fclose(file);
    assert_true(count > 50);
    ledger_free(l);
}

static void test_verdict_rows_are_read(void **state)
{
    char error[256];
    put_rows(*state, "# metadata\n", slope_row,
             "F1,bound,\"say \"\"m\"\"\",<= 1,,,,,not tested,ours,bounds,bounds.svg");
    struct verdict_rows *v = verdict_rows_read(scratch_path(*state, "verdicts.csv"), error, sizeof error);
    assert_non_null(v);
    assert_int_equal(v->num_rows, 2);
    const struct verdict_row *r = verdict_rows_find(v, "T2", "slope");
    assert_non_null(r);
    assert_string_equal(r->quantity, "slope, of");
    assert_string_equal(r->run, "sweep");
    assert_int_equal(r->measured.n, 64);
    assert_true(r->measured.lo == -0.5031);
    r = verdict_rows_find(v, "F1", "bound");
    assert_string_equal(r->quantity, "say \"m\"");
    assert_true(isnan(r->measured.value));
    verdict_rows_free(v);

    put_rows(*state, slope_row, slope_row, "");
    assert_null(verdict_rows_read(scratch_path(*state, "verdicts.csv"), error, sizeof error));
    put_rows(*state, "T2,slope,0.5\n", "", "");
    assert_null(verdict_rows_read(scratch_path(*state, "verdicts.csv"), error, sizeof error));
    static const char *const numbers[] = { "0.5x", "nan", "-inf" };
    for (size_t i = 0; i < 3; i++) {
        char row[96];
        snprintf(row, sizeof row, "T2,slope,q,<= 1,%s,0,1,3,supported,ours,a,a.svg\n", numbers[i]);
        put_rows(*state, row, "", "");
        assert_null(verdict_rows_read(scratch_path(*state, "verdicts.csv"), error, sizeof error));
    }
    v = verdict_rows_read(scratch_path(*state, "none.csv"), error, sizeof error);
    assert_non_null(v);
    assert_int_equal(v->num_rows, 0);
    verdict_rows_free(v);
}

static void test_numbers_as_read(void **state)
{
    (void)state;
    static const struct { struct interval x; const char *want; } cases[] = {
        { { -0.49871234, -0.50312, -0.49424, 64 }, "-0.4987 [-0.5031, -0.4942]" },
        { { 1.0234, 0.88, 1.12, 64 }, "1.02 [0.88, 1.12]" },
        { { 3.0, 3.0, 3.0, 1 }, "3.000" },
        { { 0.0, 0.0, 0.0, 1 }, "0" },
        { { 3.17e-12, 2.9e-12, 3.4e-12, 5 }, "3.17e-12 [2.90e-12, 3.40e-12]" },
        { { 12345678.0, 12000000.0, 12700000.0, 5 }, "1.235e7 [1.200e7, 1.270e7]" },
        { { 0.5, -INFINITY, INFINITY, 1 }, "0.5000 [-∞, ∞]" },
        { { 1234.5, 1100.0, 1400.0, 5 }, "1234 [1100, 1400]" },
        { { -0.004, -16.0, 16.0, 2 }, "0 [-16, 16]" },
        { { 1.0, 1.0 - 1e-13, 1.0 + 1e-13, 5 }, "1.00000 [1.00000, 1.00000]" },
        { { NAN, 0.0, 1.0, 5 }, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[160];
        interval_format(cases[i].x, text, sizeof text);
        assert_string_equal(text, cases[i].want);
    }
}

static void test_verify_accepts_agreement(void **state)
{
    scratch_file(*state, "ledger.md", ledger_text);
    put_rows(*state, slope_row, constant_row, bound_row);
    check_passes(*state, "default");
    check_passes(*state, "smoke");
}

static void test_verify_catches_rule_drift(void **state)
{
    scratch_file(*state, "ledger.md", ledger_text);
    static const char drifted[] = "T2,slope,s,\"in [-0.60, "
                                  "-0.40]\",-0.4987,-0.5031,-0.4942,64,supported,read,conv,sweep.svg\n";
    put_rows(*state, drifted, constant_row, bound_row);
    check_caught(*state, "default", "was decided by \"in [-0.60, -0.40]\"");
    check_caught(*state, "smoke", "was decided by");
}

static void test_verify_catches_a_flipped_verdict(void **state)
{
    scratch_file(*state, "ledger.md", ledger_text);
    /* A verdict that the interval does not bear out. */
    static const char forged[] = "F1,bound,m,<= 1,3.2,3.1,3.3,12,supported,ours,bounds,bounds.svg\n";
    put_rows(*state, slope_row, constant_row, forged);
    check_caught(*state, "smoke", "does not follow");
    /* A sound verdict that contradicts the ledger's. */
    static const char flipped[] = "F1,bound,m,<= 1,0.7,0.6,0.8,12,supported,ours,bounds,bounds.svg\n";
    put_rows(*state, slope_row, constant_row, flipped);
    check_caught(*state, "default", "F1 bound is supported; the ledger says contradicted");
    check_caught(*state, "smoke", "F1 bound is supported; the ledger says contradicted");
    /* From a run that measures time, which another machine may well do otherwise, it is only noted. */
    for (int strict = 0; strict < 2; strict++) {
        struct outcome o = run_program("verify", "--ledger", scratch_path(*state, "ledger.md"), "--results",
                                       scratch_path(*state, ""), "--timed", "bounds", "--profile", strict ? "default"
                                           : "smoke", NULL);
        assert_int_equal(o.code, 0);
        assert_non_null(strstr(o.err, "F1 bound is supported; the ledger says contradicted"));
        outcome_free(&o);
    }
}

static void test_verify_by_profile(void **state)
{
    scratch_file(*state, "ledger.md", ledger_text);
    /* Decided here, undecided in the ledger: only the default profile must agree. */
    static const char decided[] = "T2,constant,c,\"in [0.9, 1.1]\",1.02,0.98,1.06,64,supported,read,conv,sweep.svg\n";
    put_rows(*state, slope_row, decided, bound_row);
    check_passes(*state, "smoke");
    check_caught(*state, "default", "T2 constant is supported; the ledger says inconclusive");
    /* Not produced. */
    put_rows(*state, slope_row, bound_row, "");
    check_passes(*state, "smoke");
    check_caught(*state, "default", "not produced by sweep: T2 constant\n");
    put_rows(*state, "", "", "");
    check_caught(*state, "smoke", "no verdicts at all");
}

static void test_verify_catches_strangers(void **state)
{
    scratch_file(*state, "ledger.md", ledger_text);
    put_rows(*state, slope_row, constant_row, bound_row);
    static const char unknown[] = "T9,new,m,<= 1,0.7,0.6,0.8,12,supported,ours,bounds,bounds.svg\n";
    put_rows(*state, slope_row, unknown, bound_row);
    check_caught(*state, "smoke", "T9 new, from bounds, is not in the ledger");
    static const char elsewhere[] = "F1,bound,m,<= 1,3.2,3.1,3.3,12,contradicted,ours,sweep,sweep.svg\n";
    put_rows(*state, slope_row, constant_row, elsewhere);
    check_caught(*state, "smoke", "F1 bound comes from sweep; the ledger names bounds");
    /* Rows of a run that the profile no longer has are left aside. */
    static const char retired[] = "T9,new,m,<= 1,0.7,0.6,0.8,12,supported,ours,old,old.svg\n";
    put_rows(*state, slope_row, retired, bound_row);
    check_passes(*state, "smoke");
}

static void test_ledger_is_rewritten(void **state)
{
    const char *path = scratch_file(*state, "ledger.md", ledger_text);
    put_rows(*state, slope_row, constant_row, "F1,bound,m,<= 1,0.7,0.6,0.8,12,supported,ours,bounds,bounds.svg\n");
    struct outcome o = run_program("ledger", "--ledger", path, "--results", scratch_path(*state, ""), "--out", path,
                                   NULL);
    if (o.code) print_error("%s", o.err);
    assert_int_equal(o.code, 0);
    outcome_free(&o);
    check_passes(*state, "default");
    char error[256];
    struct ledger *l = ledger_read(path, error, sizeof error);
    assert_non_null(l);
    assert_string_equal(ledger_find(l, "T2", "slope")->measured, "-0.4987 [-0.5031, -0.4942]");
    assert_string_equal(ledger_find(l, "F1", "bound")->verdict, "supported");
    assert_string_equal(ledger_find(l, "F1", "later")->verdict, "not tested");
    assert_string_equal(l->entries[0].text,
                        "\n**Statement.** It converges.\n\n**Source.** read (abstract); derived.\n");
    ledger_free(l);

    /* Nor a table whose counts are none. */
    static const char *const counts[] = { "-1", "1e80", "nan", "x" };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        char line[256];
        snprintf(line, sizeof line, "T2,slope,s,<= 0,-0.5,-0.6,-0.4,%s,supported,read,conv,sweep.svg\n", counts[i]);
        put_rows(*state, line, "", "");
        o = run_program("ledger", "--ledger", path, "--results", scratch_path(*state, ""), "--out", path, NULL);
        CHECK_REFUSAL(o, 3, "ledger", "verdicts.csv:2: not a verdict row");
    }

    /* A number measured under another rule does not get in. */
    put_rows(*state, "T2,slope,s,<= 0,-0.4987,-0.5031,-0.4942,64,supported,read,conv,sweep.svg\n", "", "");
    o = run_program("ledger", "--ledger", path, "--results", scratch_path(*state, ""), "--out", path, NULL);
    CHECK_REFUSAL(o, 1, "ledger", "not by the rule");
}

static void test_page(void **state)
{
    scratch_file(*state, "ledger.md", ledger_text);
    put_rows(*state, slope_row, constant_row, "");
    scratch_file(*state, "sweep.csv", "# program=conv version=0.1.0 seed=7 blas=\"OpenBLAS x y\"\n# options: --dim 3\n"
                                      "name,m,b\n\"x, y\",4096,\nz,16,1\nz,16,2\n");
    scratch_file(*state, "sweep.svg", "<?xml?>\n\n<svg id=\"a\"><use href='#b'/></svg>\n");
    scratch_file(*state, "provenance.json",
                 "{\"started\": \"2026-01-02T03:04:05Z\", \"machine\": {\"cpu\": \"C 1\", \"cpus\": 2}, "
                                            "\"runs\": {\"sweep\": 3}, \"peak_bytes\": {\"sweep\": 2000000}}");
    scratch_file(*state, "h.md",
                 "# History\n\n## T2/slope\n\n| commit | date | rule | verdict | measured | change "
                 "|\n|---|---|---|---|---|---|\n"
                                 "| abc1234 | 2026-01-01 | >= 0 | not tested |  | first |\n"
                                 "| def5678 | 2026-01-02 | in [-0.55, -0.45] | supported | -0.5 | rule |\n\n## "
                                 "T2/other\n");
    scratch_file(*state, "sweep.gp",
                 "# Caption: The error of $K_m$\n#   against $m$.\n# From @min(m) to @max(m): @values(m); @max(c) "
                 "a@b.\nplot\n");
    const char *folder = scratch_path(*state, ""), *appendix = scratch_file(*state, "a.md",
                                                                            "# Proofs\n\n```\n# code\n```\n");
    struct outcome o = run_program("report", "--ledger", scratch_path(*state, "ledger.md"), "--results", folder,
                                   "--figures", folder, "--plots", folder, "--runs", "sweep,bounds", "--profile",
                                   "smoke", "--explore", scratch_file(*state, "e.md", "# Explore\n"), "--appendix",
                                   appendix, "--history", scratch_path(*state, "h.md"), NULL);
    assert_int_equal(o.code, 0);
    static const char *const wanted[] = {
        "[[1]{.count} [supported]{.verdict .supported}", "[[0]{.count} [contradicted]",
        "[[1]{.count} [no run]{.verdict .no-run}", "## T2. Convergence of $K_m$ {#T2}",
        "[−0.4987]{.number} [\\[−0.5031, −0.4942\\]]{.interval}", "| [sweep](#fig-sweep) |",
        "<svg role=\"img\" aria-label=\"figure sweep\" id=\"sweep-a\"><use href='#sweep-b'/></svg>",
        "The error of $K_m$\nagainst $m$.\nFrom 16 to 4096: 16, 4096; ? a@b.\n", "- The run `bounds` has no table.",
        "- blas: `OpenBLAS x y`", "- options: `--dim 3`", "## Proofs", "\n# code\n",
        "| [T2](#T2) | It converges. | [holds as far as decided]{.verdict .supported} | 1 supported, 1 inconclusive |",
        "| [F1](#F1) |  | [not tested]{.verdict .not-tested} |", "subtitle: \"arXiv:2406.14036, measured: what holds",
        ", smoke profile, 2026-01-02\"", "<details class=\"row\" id=\"row-T2-slope\">",
        "**History.** 2026-01-01 (abc1234): ≥ 0, not tested, first; 2026-01-02 (def5678): ",
        "`make claim ID=T2 PROFILE=smoke`; [its command](#run-sweep), [table](../results/sweep.csv), "
        "[figure](#fig-sweep)", "- [sweep]{#run-sweep} ([table](../results/sweep.csv), 3 s, 2 MB):",
        "- machine: cpu `C 1`, cpus 2\n", "# Explore\n", "Of 3 rows, each decided once, **3 are preregistered**",
        "are 3: **3 preregistered**, **0 exact**", "| preregistered | ",
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!strstr(o.out, wanted[i])) { print_error("the page lacks: %s\n", wanted[i]); fail(); }
    outcome_free(&o);

    o = run_program("report", "--results", folder, "--figures", folder, "--plots", folder, NULL);
    assert_int_equal(o.code, 2);
    outcome_free(&o);
}

/* The answer and the headlines take their words from the verdicts; another profile borrows the ledger's. */
static void test_answer(void **state)
{
    static const char text[] =
        "# Theory\n\n### T2. Kernel\n\n**Source.** read.\n"
            TABLE_HEAD "| slope-full-random | slope | in [-0.55, -0.45] | | | sweep |\n\n"
        "### T14. Longer\n\n**Statement.** $|x|$ a | b.\n\n**Headline.** `heldout-random`.\n\n**Source.** read.\n"
            TABLE_HEAD
        "| heldout-random | slope | <= 0 | | | sweep |\n| other | slope | <= 5 | | | sweep |\n\n"
        "### M4. Time\n\n**Source.** read.\n"
            TABLE_HEAD "| time-ntk-forward | slope | in [-0.05, 0.05] | %s | 0.01 [0, 0.02] | sweep |\n";
    char ledger[2048];
    put_rows(*state, "T2,slope-full-random,s,\"in [-0.55, "
                     "-0.45]\",-0.4987,-0.5031,-0.4942,64,supported,read,conv,sweep.svg\n",
             "T14,heldout-random,s,<= 0,1.99,1.97,2.01,9,contradicted,read,conv,sweep.svg\n",
             "T14,other,s,<= 5,1.99,1.97,2.01,9,supported,read,conv,sweep.svg\n");
    const char *folder = scratch_path(*state, "");
    static const struct { const char *profile, *verdict, *wanted[6]; } cases[] = {
        { "default", "", {
            "as the prefix grows [yes]{.verdict .supported} [−0.4987]{.number}",
            "random signs [no]{.verdict .contradicted} [1.99",
            "with the prefix [no run]{.verdict .no-run} ([M4](#M4))\n",
            "| [holds]{.verdict .supported} | 1 supported |",
            "| [T14](#T14) | $\\vert x\\vert $ a \\| b. | [does not hold]{.verdict .contradicted} | 1 supported, 1 "
            "contradicted |" } },
        { "smoke", "supported",
          { "with the prefix [yes]{.verdict .supported} [0.01]{.number} [\\[0, 0.02\\]]{.interval} exponent",
            "([M4](#M4)†)\n", "† Not decided in this profile" } },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        snprintf(ledger, sizeof ledger, text, cases[c].verdict);
        scratch_file(*state, "ledger.md", ledger);
        struct outcome o = run_program("report", "--ledger", scratch_path(*state, "ledger.md"), "--results", folder,
                                       "--figures", folder, "--plots", folder, "--runs", "sweep", "--profile",
                                       cases[c].profile, NULL);
        assert_int_equal(o.code, 0);
        for (size_t i = 0; cases[c].wanted[i]; i++)
            if (!strstr(o.out, cases[c].wanted[i])) { print_error("the page lacks: %s\n", cases[c].wanted[i]); fail(); }
        outcome_free(&o);
    }
    /* A headline that names no row of its entry is refused. */
    char *name = strstr(ledger, "`heldout-random`");
    assert_non_null(name);
    memcpy(name, "`heldout-rundom`", strlen("`heldout-rundom`"));
    scratch_file(*state, "ledger.md", ledger);
    struct outcome o = run_program("report", "--ledger", scratch_path(*state, "ledger.md"), "--results", folder,
                                   "--figures", folder, "--plots", folder, NULL);
    CHECK_REFUSAL(o, 3, "report", "the Headline of T14 names a row it does not have: heldout-rundom");
}

/* Tables of the full profile: their rows stand apart, those that this profile decides itself are left out, a bad table
 * is refused. */
static void test_kept(void **state)
{
    char kept[512], text[2048];
    snprintf(kept, sizeof kept, "%s", scratch_path(*state, "kept"));
    assert_true(!mkdir(kept, 0755));
    scratch_file(*state, "ledger.md", ledger_text);
    put_rows(*state, slope_row, "", "");
    snprintf(text, sizeof text, "%s%s%s", rows_header, slope_row, bound_row);
    scratch_file(*state, "kept/verdicts.csv", text);
    scratch_file(*state, "kept/bounds_summary.csv", "# program=bounds\narm,accuracy\nlora,0.75\n");
    const char *folder = scratch_path(*state, ""), *ledger = scratch_path(*state, "ledger.md");
    struct outcome o = run_program("report", "--ledger", ledger, "--results", folder, "--figures", folder, "--plots",
                                   folder, "--runs", "sweep,bounds", "--kept", kept, NULL);
    assert_int_equal(o.code, 0);
    const char *part = strstr(o.out, "# From the full profile {#full}");
    assert_non_null(part);
    assert_non_null(strstr(part,
                           "| [F1](#F1) bound | [contradicted]{.verdict .contradicted} | largest score over B | [3.2"));
    assert_non_null(strstr(part, "The table of bounds"));
    assert_non_null(strstr(part, "| lora | 0.75 |"));
    assert_null(strstr(part, "[T2](#T2) slope |"));
    outcome_free(&o);
    scratch_file(*state, "kept/verdicts.csv", "claim,row\nT2\n");
    o = run_program("report", "--ledger", ledger, "--results", folder, "--figures", folder, "--plots", folder, "--kept",
                    kept, NULL);
    CHECK_REFUSAL(o, 3, "report", "kept/verdicts.csv");
}

/* Agreement, drift, another verdict, missing rows. */
static void test_compare(void **state)
{
    char a[512], b[512];
    snprintf(a, sizeof a, "%s", scratch_path(*state, "a"));
    snprintf(b, sizeof b, "%s", scratch_path(*state, "b"));
    assert_true(!mkdir(a, 0755) && !mkdir(b, 0755));
    static const struct { const char *a, *b; int code; const char *out, *err; } cases[] = {
        { slope_row, slope_row, 0, "verdict_b\n", "1 rows agree, 0 drift, 0 have" },
        { slope_row, "T2,slope,s,\"in [-0.55, -0.45]\",-0.4700,-0.4739,-0.4661,64,supported,read,conv,sweep.svg\n", 0,
          "\nT2,slope,drift,", "0 rows agree, 1 drift, 0 have" },
        { slope_row, "T2,slope,s,\"in [-0.55, -0.45]\",-0.4987,-0.56,-0.4942,64,inconclusive,read,conv,sweep.svg\n", 1,
          "\nT2,slope,verdict,", "0 rows agree, 0 drift, 1 have" },
        { slope_row, constant_row, 1, "\nT2,constant,only-b,", "0 drift, 2 have" },
        { slope_row, "", 3, "", "no verdicts" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2048];
        snprintf(text, sizeof text, "%s%s", rows_header, cases[i].a);
        scratch_file(*state, "a/verdicts.csv", text);
        snprintf(text, sizeof text, "%s%s", rows_header, cases[i].b);
        scratch_file(*state, "b/verdicts.csv", text);
        struct outcome o = run_program("compare", "--a", a, "--b", b, NULL);
        if (o.code != cases[i].code || !strstr(o.out, cases[i].out) || !strstr(o.err, cases[i].err))
            fail_msg("case %zu: exit %d\n%s%s", i, o.code, o.out, o.err);
        outcome_free(&o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ledger_is_read),
        cmocka_unit_test(test_bad_ledgers_are_refused),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_verify_on_classes),
        cmocka_unit_test(test_statements),
        cmocka_unit_test(test_verdict_rows_are_read),
        cmocka_unit_test(test_numbers_as_read),
        cmocka_unit_test(test_verify_accepts_agreement),
        cmocka_unit_test(test_verify_catches_rule_drift),
        cmocka_unit_test(test_verify_catches_a_flipped_verdict),
        cmocka_unit_test(test_verify_by_profile),
        cmocka_unit_test(test_verify_catches_strangers),
        cmocka_unit_test(test_ledger_is_rewritten),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_compare),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
