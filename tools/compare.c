/* The verdict tables of two result folders row by row: where two machines, seeds or
 * versions agree and where they drift. */
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/text_file.h"
#include "cli/verdict_rows.h"

static const char doc[] =
    "Compares the verdicts of two result folders. Two measurements agree when their intervals overlap, each widened by "
    "--tolerance times its value. Writes one line per row that drifts, changes its verdict or is in one folder only; "
    "exit 1 when a verdict changed or a row is missing.\v"
    "Columns: result is drift, verdict, only-a or only-b; distance is the gap between the two intervals.";

static const char columns[] = 
    "claim,row,result,value_a,ci_lo_a,ci_hi_a,value_b,ci_lo_b,ci_hi_b,distance,verdict_a,verdict_b";

struct config {
    struct cli_common c;
    const char *a, *b;
    double tolerance;
};

enum { KEY_A = 1, KEY_B, KEY_TOLERANCE };

static const struct argp_option options[] = {
    { "a", KEY_A, "DIR", 0, "folder with a verdicts.csv (required)", 0 },
    { "b", KEY_B, "DIR", 0, "folder to compare it with (required)", 0 },
    { "tolerance", KEY_TOLERANCE, "X", 0, "relative difference that counts as none (default 1e-3)", 0 },
    CLI_NO_VERDICTS,
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case KEY_A: cfg->a = arg; return 0;
    case KEY_B: cfg->b = arg; return 0;
    case KEY_TOLERANCE: return cli_parse_double(state, key, arg, 0.0, &cfg->tolerance);
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *p)
{
    const struct config *cfg = p;
    return !cfg->a ? "--a: required" : !cfg->b ? "--b: required" : NULL;
}

static int read_rows(const struct config *cfg, const char *folder, struct verdict_rows **rows)
{
    char path[4096], error[512];
    if (snprintf(path, sizeof path, "%s/verdicts.csv", folder) >= (int)sizeof path)
        return cli_fail(&cfg->c, EXIT_USAGE, "%s: too long", folder);
    *rows = verdict_rows_read(path, error, sizeof error);
    if (!*rows) return cli_fail(&cfg->c, text_file_code(), "%s", error);
    if (!(*rows)->num_rows) return cli_fail(&cfg->c, EXIT_DATA, "%s: no verdicts", path);
    return EXIT_DONE;
}

/* How far apart two intervals are, 0 when they meet; an open bound is infinitely far out. A
 * value on one side only is infinitely far. */
static double distance(struct interval a, struct interval b, double tolerance)
{
    if (isnan(a.value) || isnan(b.value)) return isnan(a.value) && isnan(b.value) ? 0.0 : INFINITY;
    const double room = tolerance * (fabs(a.value) + fabs(b.value)) / 2.0;
    const double lo = fmax(isnan(a.lo) ? -INFINITY : a.lo, isnan(b.lo) ? -INFINITY : b.lo);
    const double hi = fmin(isnan(a.hi) ? INFINITY : a.hi, isnan(b.hi) ? INFINITY : b.hi);
    return lo - hi > room ? lo - hi : 0.0;
}

static void put_side(struct table *t, const struct verdict_row *r)
{
    table_num(t, r ? r->measured.value : NAN);
    table_num(t, r ? r->measured.lo : NAN);
    table_num(t, r ? r->measured.hi : NAN);
}

static void put_row(struct table *t, const char *result, const struct verdict_row *a, const struct verdict_row *b,
                    double gap)
{
    const struct verdict_row *any = a ? a : b;
    table_text(t, any->claim);
    table_text(t, any->row);
    table_text(t, result);
    put_side(t, a);
    put_side(t, b);
    table_num(t, gap);
    table_text(t, a ? a->verdict : "");
    table_text(t, b ? b->verdict : "");
    table_end_row(t);
}

int main(int argc, char **argv)
{
    struct config cfg = { .tolerance = 1e-3 };
    cli_parse(argc, argv, doc, options, parse, check, &cfg.c);
    struct verdict_rows *a = NULL, *b = NULL;
    struct table *t = NULL;
    size_t agree = 0, drift = 0, differ = 0;
    int code = read_rows(&cfg, cfg.a, &a);
    if (!code) code = read_rows(&cfg, cfg.b, &b);
    if (!code && !(t = table_open(&cfg.c, NULL, columns))) code = EXIT_FAILED;
    for (size_t i = 0; !code && i < a->num_rows; i++) {
        const struct verdict_row *ours = &a->rows[i], *theirs = verdict_rows_find(b, ours->claim, ours->row);
        const double gap = theirs ? distance(ours->measured, theirs->measured, cfg.tolerance) : NAN;
        const bool same = theirs && !strcmp(ours->verdict, theirs->verdict);
        if (same && gap == 0.0) { agree++; continue; }
        if (same) drift++;
        else differ++;
        put_row(t, !theirs ? "only-a" : same ? "drift" : "verdict", ours, theirs, gap);
    }
    for (size_t i = 0; !code && i < b->num_rows; i++) {
        if (verdict_rows_find(a, b->rows[i].claim, b->rows[i].row)) continue;
        differ++;
        put_row(t, "only-b", NULL, &b->rows[i], NAN);
    }
    if (t) code = table_close(t, code);
    if (!code) {
        cli_warn(&cfg.c, "%zu rows agree, %zu drift, %zu have another verdict or are missing", agree, drift, differ);
        code = differ ? EXIT_FAILED : EXIT_DONE;
    }
    verdict_rows_free(a);
    verdict_rows_free(b);
    return code;
}
