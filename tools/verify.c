/* Compares the verdicts of a profile's runs with the ledger and prints them as a
 * table. Fails (exit 1) when
 *   - a row was decided by a rule other than the ledger's, or is not in the ledger;
 *   - a recorded verdict does not follow from its own interval and rule;
 *   - in the default profile a verdict differs from the ledger's, or a row of the
 *     ledger was not produced, or a row that is not exact has a point for an
 *     interval; in any other profile a decided verdict contradicts a decided one.
 *     Rows of timed runs are only noted: their numbers belong to the machine and
 *     to what else it was doing.
 * Classes are the ledger's: those in verdicts.csv are of the day of the run. */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/atomic_file.h"
#include "common/stats.h"
#include "cli/cli.h"
#include "cli/ledger.h"
#include "cli/text_file.h"
#include "cli/tally.h"
#include "cli/verdict_rows.h"

struct config {
    struct cli_common common;
    const char *results, *runs, *timed, *claim;
};

enum { OPT_RESULTS = 1, OPT_RUNS, OPT_TIMED, OPT_CLAIM };

static const struct argp_option options[] = {
    { "results", OPT_RESULTS, "DIR", 0, "The profile's results, where verdicts.csv is (required)", 0 },
    { "runs", OPT_RUNS, "A,B,..", 0, "The runs of the profile; rows of others are left aside (all)", 0 },
    { "timed", OPT_TIMED, "A,B,..", 0, "The runs that measure time (none)", 0 },
    { "claim", OPT_CLAIM, "ID", 0, "Only the rows of this entry (all)", 0 },
    { "verdicts", CLI_COMMON, NULL, 0, NULL, 0 },
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case OPT_RESULTS: cfg->results = arg; return 0;
    case OPT_RUNS: cfg->runs = arg; return 0;
    case OPT_TIMED: cfg->timed = arg; return 0;
    case OPT_CLAIM: cfg->claim = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *p)
{
    const struct config *cfg = p;
    if (!cfg->results) return "--results: required";
    if (!cfg->common.ledger) return "--ledger: required";
    return NULL;
}

static bool decided(const char *verdict)
{
    return !strcmp(verdict, "supported") || !strcmp(verdict, "contradicted");
}

static size_t num_problems;

static void problem(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void problem(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("verify: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    num_problems++;
}

/* Whether the row should have come from a run and did not. A row that names no run
 * is one that no run decides. */
static bool is_missing(const struct config *cfg, const struct verdict_rows *v, const struct ledger_row *want)
{
    return *want->run && !(cfg->claim && strcmp(cfg->claim, want->claim)) && !verdict_rows_find(v, want->claim,
        want->row);
}

/* One line per run, at its first row. */
static void list_missing(const struct config *cfg, const struct ledger *l, const struct verdict_rows *v, bool strict)
{
    for (size_t i = 0; i < l->num_rows; i++) {
        const char *run = l->rows[i].run;
        bool first = is_missing(cfg, v, &l->rows[i]);
        for (size_t j = 0; j < i && first; j++)
            first = !(is_missing(cfg, v, &l->rows[j]) && !strcmp(l->rows[j].run, run));
        if (!first) continue;
        fprintf(stderr, "verify: not produced by %s:", run);
        for (size_t j = i; j < l->num_rows; j++)
            if (is_missing(cfg, v, &l->rows[j]) && !strcmp(l->rows[j].run, run))
                fprintf(stderr, "%s %s %s", j == i ? "" : ",", l->rows[j].claim, l->rows[j].row);
        fputc('\n', stderr);
        num_problems += strict;
    }
}

/* A number without the uncertainty that would make a verdict of it. */
static bool is_point(struct interval x)
{
    return isfinite(x.value) && x.lo == x.value && x.hi == x.value;
}

static void compare(const struct config *cfg, const struct ledger *l, const struct verdict_rows *v)
{
    const bool strict = !strcmp(cfg->common.profile, "default");
    for (size_t i = 0; i < v->num_rows; i++) {
        const struct verdict_row *r = &v->rows[i];
        if (!run_is_listed(cfg->runs, r->run) || (cfg->claim && strcmp(cfg->claim, r->claim))) continue;
        const struct ledger_row *want = ledger_find(l, r->claim, r->row);
        if (!want) {
            problem("%s %s, from %s, is not in the ledger", r->claim, r->row, r->run);
            continue;
        }
        if (strcmp(want->run, r->run))
            problem("%s %s comes from %s; the ledger names %s", r->claim, r->row, r->run, want->run);
        if (strcmp(want->rule, r->rule)) {
            problem("%s %s was decided by \"%s\"; the ledger's rule is \"%s\"", r->claim, r->row, r->rule, want->rule);
            continue;
        }
        struct margin margin;
        if (strcmp(r->verdict, "not tested") &&
            (margin_parse(r->rule, &margin) || strcmp(verdict_name(verdict_by_margin(r->measured, margin)),
                                                      r->verdict)))
            problem("%s %s is recorded as %s, which does not follow from its interval and its rule", r->claim, r->row,
                    r->verdict);
        if (strict && want->class != ROW_EXACT && is_point(r->measured))
            problem("%s %s has no interval, and the ledger does not say that it is exact", r->claim, r->row);
        if (strcmp(want->verdict, r->verdict) && (strict || (decided(want->verdict) && decided(r->verdict)))) {
            static const char format[] = "%s %s is %s; the ledger says %s";
            const char *said = *want->verdict ? want->verdict : "nothing yet";
            if (cfg->timed && run_is_listed(cfg->timed, r->run))
                cli_warn(&cfg->common, format, r->claim, r->row, r->verdict, said);
            else problem(format, r->claim, r->row, r->verdict, said);
        }
    }
    list_missing(cfg, l, v, strict);
}

/* ---- the table ------------------------------------------------------------- */

/* Characters of UTF-8 text. */
static int width(const char *text)
{
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* The LaTeX of a quantity as plain text: letters for the commands that have one,
 * the word itself for others, no dollar signs and braces. */
static void put_plain(FILE *out, const char *text)
{
    static const struct { const char *command, *text; } known[] = {
        { "lambda", "λ" }, { "sigma", "σ" }, { "eta", "η" }, { "varepsilon", "ε" }, { "epsilon", "ε" },
        { "rho", "ρ" }, { "phi", "φ" }, { "Phi", "Φ" }, { "mu", "μ" }, { "delta", "δ" }, { "sum", "Σ" },
        { "infty", "∞" }, { "le", "≤ " }, { "ge", "≥ " }, { "to", "→ " }, { "lVert", "‖" }, { "rVert", "‖" },
        { "lvert", "|" }, { "rvert", "|" }, { "sqrt", "√" }, { "times", "×" }, { "cdot", "·" }, { "langle", "<" },
        { "rangle", ">" }, { "mathcal", "" }, { "mathrm", "" }, { "mathbb", "" }, { "left", "" }, { "right", "" },
    };
    for (const char *p = text; *p;) {
        if (*p == '\\' && isalpha((unsigned char)p[1])) {
            size_t n = 0;
            while (isalpha((unsigned char)p[1 + n])) n++;
            size_t k = 0;
            while (k < sizeof known / sizeof *known
                   && (strlen(known[k].command) != n || strncmp(known[k].command, p + 1, n)))
                k++;
            if (k < sizeof known / sizeof *known) {
                fputs(known[k].text, out);
                p += 1 + n;
                p += *p == ' ';
            } else {
                fprintf(out, "%.*s", (int)n, p + 1);
                p += 1 + n;
            }
        } else if (*p == '\\' && p[1]) {
            fputs(p[1] == '|' ? "‖" : " ", out);
            p += 2;
        } else {
            if (!strchr("${}", *p)) fputc(*p, out);
            p++;
        }
    }
}

static void cell(FILE *out, const char *text, int columns)
{
    fprintf(out, "%s%*s", text, columns - width(text) + 2, "");
}

static const char *colour_of(const char *verdict)
{
    if (!strcmp(verdict, "supported")) return "\033[32m";
    if (!strcmp(verdict, "contradicted")) return "\033[31m";
    return "\033[33m";
}

static void print_table(FILE *out, const struct config *cfg, const struct ledger *l, const struct verdict_rows *v,
                        const struct tally *t)
{
    const bool colour = isatty(STDOUT_FILENO) && !strcmp(cfg->common.out, "-") && !getenv("NO_COLOR");
    int name_width = 5, number_width = 8, rule_width = 4;
    enum { VERDICT_WIDTH = 12, CLASS_WIDTH = 20, P_WIDTH = 10 };
    size_t counts[4] = { 0 }, missing = 0;
    char text[160];
    /* The first pass measures, the second prints. */
    for (int pass = 0; pass < 2; pass++) {
        if (pass) {
            cell(out, "claim", name_width);
            cell(out, "verdict", VERDICT_WIDTH);
            cell(out, "measured, 99.9 % interval", number_width);
            cell(out, "rule", rule_width);
            cell(out, "class", CLASS_WIDTH);
            cell(out, "adjusted p", P_WIDTH);
            fputs("quantity\n", out);
        } else {
            number_width = width("measured, 99.9 % interval");
        }
        for (size_t i = 0; i < l->num_rows; i++) {
            const struct ledger_row *row = &l->rows[i];
            if (cfg->claim && strcmp(cfg->claim, row->claim)) continue;
            const struct verdict_row *r = verdict_rows_find(v, row->claim, row->row);
            if (r && !run_is_listed(cfg->runs, r->run)) r = NULL;
            const char *verdict = r ? r->verdict : *row->run ? "no run" : "not tested";
            snprintf(text, sizeof text, "%s %s", row->claim, row->row);
            if (!pass) {
                if (width(text) > name_width) name_width = width(text);
                if (width(row->rule) > rule_width) rule_width = width(row->rule);
                if (r) interval_format(r->measured, text, sizeof text);
                if (r && width(text) > number_width) number_width = width(text);
                continue;
            }
            cell(out, text, name_width);
            if (colour) fputs(colour_of(verdict), out);
            cell(out, verdict, VERDICT_WIDTH);
            if (colour) fputs("\033[0m", out);
            *text = '\0';
            if (r) interval_format(r->measured, text, sizeof text);
            cell(out, text, number_width);
            cell(out, row->rule, rule_width);
            if (*row->same_claim) snprintf(text, sizeof text, "= %s %s", row->same_claim, row->same_row);
            else snprintf(text, sizeof text, "%s", row_class_name(row->class));
            cell(out, text, CLASS_WIDTH);
            *text = '\0';
            if (!isnan(t->adjusted[i])) snprintf(text, sizeof text, "%.2g", t->adjusted[i]);
            cell(out, text, P_WIDTH);
            put_plain(out, row->quantity);
            fputc('\n', out);
            bool counted = false;
            for (int k = 0; k < 4; k++)
                if (!strcmp(verdict, verdict_name((enum verdict)k))) { counts[k]++; counted = true; }
            missing += !counted;
        }
    }
    fprintf(out, "%s profile: %zu supported, %zu contradicted, %zu inconclusive, %zu not tested, %zu without a run\n",
           cfg->common.profile, counts[VERDICT_SUPPORTED], counts[VERDICT_CONTRADICTED], counts[VERDICT_INCONCLUSIVE],
           counts[VERDICT_NOT_TESTED], missing);
}

/* How much the verdicts are worth together. */
static void print_tally(FILE *out, const struct ledger *l, const struct verdict_rows *v, const struct tally *t)
{
    const size_t *by = t->by_class;
    fprintf(out, "%zu rows: %zu preregistered, %zu exact, %zu exploratory; %zu more measure what another row does\n",
           by[ROW_PREREGISTERED] + by[ROW_EXACT] + by[ROW_EXPLORATORY], by[ROW_PREREGISTERED], by[ROW_EXACT],
           by[ROW_EXPLORATORY], t->duplicates);
    fprintf(out, "%zu intervals of %g %%: were they independent, one or more misses with a chance of %.0f %%\n",
            t->intervals,
           100.0 * VERDICT_LEVEL, 100.0 * t->miss_chance);
    fprintf(out, "Holm, one false verdict among all with a chance of %g %%: %zu of %zu decided rows stand",
            100.0 * FAMILY_RATE,
           t->standing, t->decided);
    const char *before = "; undecided then:";
    for (size_t i = 0; i < l->num_rows && t->standing < t->decided; i++) {
        const struct ledger_row *row = &l->rows[i];
        const struct verdict_row *r = isnan(t->adjusted[i]) ? NULL : verdict_rows_find(v, row->claim, row->row);
        if (!r || tally_adjusted_verdict(t, i, r->verdict) == r->verdict) continue;
        fprintf(out, "%s %s %s", before, r->claim, r->row);
        before = ",";
    }
    fputc('\n', out);
}

static int write_table(const struct config *cfg, const struct ledger *l, const struct verdict_rows *v,
                       const struct tally *t)
{
    char why[256];
    struct atomic_file *file;
    const char *path = cfg->common.out;
    if (atomic_file_open(path, &file, why, sizeof why)) return cli_fail(&cfg->common, EXIT_FAILED, "%s: %s", path, why);
    print_table(atomic_file_stream(file), cfg, l, v, t);
    if (!cfg->claim) print_tally(atomic_file_stream(file), l, v, t);
    return atomic_file_commit(file, why, sizeof why) ? cli_fail(&cfg->common, EXIT_FAILED, "%s: %s", path, why)
        : EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse(argc, argv, "Compare the verdicts of a profile with the ledger", options, parse, check, &cfg.common);
    char error[512], path[4096];
    snprintf(path, sizeof path, "%s/verdicts.csv", cfg.results);
    struct ledger *l = ledger_read(cfg.common.ledger, error, sizeof error);
    struct verdict_rows *v = l ? verdict_rows_read(path, error, sizeof error) : NULL;
    struct tally *t = NULL;
    int code = v ? EXIT_DONE : text_file_code();
    if (!v) { cli_fail(&cfg.common, code, "%s", error); goto done; }
    if (cfg.claim && !ledger_entry(l, cfg.claim)) {
        code = cli_fail(&cfg.common, EXIT_USAGE, "--claim: %s has no entry \"%s\"", cfg.common.ledger, cfg.claim);
        goto done;
    }
    t = tally_make(l, v, cfg.runs);
    if (!t) { code = cli_fail(&cfg.common, EXIT_FAILED, "out of memory"); goto done; }
    if ((code = write_table(&cfg, l, v, t))) goto done;
    compare(&cfg, l, v);
    if (!v->num_rows && (!cfg.runs || *cfg.runs)) problem("%s: no verdicts at all", path);
    code = num_problems ? EXIT_FAILED : EXIT_DONE;
done:
    tally_free(t);
    verdict_rows_free(v);
    ledger_free(l);
    return code;
}
