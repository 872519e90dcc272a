/* The report of a profile as one Markdown page for pandoc: the answer, the verdicts,
 * one section per entry of the ledger with its rows, numbers and figures, what is
 * missing, where the numbers come from, and the appendix. Everything is taken
 * from the ledger, the results and the captions of the plot scripts. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>

#include "common/atomic_file.h"
#include "cli/caption.h"
#include "cli/cli.h"
#include "cli/ledger.h"
#include "cli/tally.h"
#include "cli/text_file.h"
#include "cli/verdict_rows.h"
#include "prefix_ntk/version.h"

enum { MAX_RUNS = 256, MAX_FIELDS = 64, PATH_SIZE = 4096 };

struct config {
    struct cli_common common;
    const char *results, *figures, *plots, *explore, *appendix, *runs;
};

enum { OPT_RESULTS = 1, OPT_FIGURES, OPT_PLOTS, OPT_EXPLORE, OPT_APPENDIX, OPT_RUNS };

static const struct argp_option options[] = {
    { "results", OPT_RESULTS, "DIR", 0, "The profile's results, where verdicts.csv and the tables are (required)", 0 },
    { "figures", OPT_FIGURES, "DIR", 0, "The profile's figures, RUN.svg (required)", 0 },
    { "plots", OPT_PLOTS, "DIR", 0, "The plot scripts, RUN.gp, whose captions are used (required)", 0 },
    { "explore", OPT_EXPLORE, "FILE", 0, "Markdown to put after the verdicts (none)", 0 },
    { "appendix", OPT_APPENDIX, "FILE", 0, "Markdown to put at the end (none)", 0 },
    { "runs", OPT_RUNS, "A,B,..", 0, "The runs of the profile (none)", 0 },
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case OPT_RESULTS: cfg->results = arg; return 0;
    case OPT_FIGURES: cfg->figures = arg; return 0;
    case OPT_PLOTS: cfg->plots = arg; return 0;
    case OPT_EXPLORE: cfg->explore = arg; return 0;
    case OPT_APPENDIX: cfg->appendix = arg; return 0;
    case OPT_RUNS: cfg->runs = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *p)
{
    const struct config *cfg = p;
    if (!cfg->results) return "--results: required";
    if (!cfg->figures) return "--figures: required";
    if (!cfg->plots) return "--plots: required";
    if (!cfg->common.ledger) return "--ledger: required";
    return NULL;
}

/* The runs of the profile, and which of their figures the page has shown. */
struct page {
    const struct config *cfg;
    const struct ledger *l;
    const struct verdict_rows *v;
    struct tally *tally;
    json_t *provenance;                 /* provenance.json of the results, or NULL */
    FILE *out;
    char *run_names;                    /* storage */
    const char *run[MAX_RUNS];
    bool shown[MAX_RUNS];
    size_t num_runs;
};

static bool exists(const char *dir, const char *stem, const char *extension)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s%s", dir, stem, extension);
    return !access(path, R_OK);
}

static size_t run_index(const struct page *p, const char *name)
{
    size_t i = 0;
    while (i < p->num_runs && strcmp(p->run[i], name)) i++;
    return i;
}

/* This profile's row, NULL when its run did not produce it. */
static const struct verdict_row *produced(const struct page *p, const struct ledger_row *row)
{
    const struct verdict_row *r = verdict_rows_find(p->v, row->claim, row->row);
    return r && run_index(p, r->run) < p->num_runs ? r : NULL;
}

static const char *verdict_of(const struct page *p, const struct ledger_row *row)
{
    const struct verdict_row *r = produced(p, row);
    return r ? r->verdict : *row->run ? "no run" : "not tested";
}

static void put_verdict(const struct page *p, const char *verdict)
{
    fprintf(p->out, "[%s]{.verdict .", verdict);
    for (const char *c = verdict; *c; c++) fputc(*c == ' ' ? '-' : *c, p->out);
    fputc('}', p->out);
}

/* Number and rule as they are read: brackets escaped, since pandoc would take them
 * for a link, signs mathematical. */
static void put_mathematical(const struct page *p, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (!strncmp(c, "<=", 2)) { fputs("≤", p->out); c++; }
        else if (!strncmp(c, ">=", 2)) { fputs("≥", p->out); c++; }
        else if (*c == '-') fputs("−", p->out);
        else if (*c == '[' || *c == ']') fprintf(p->out, "\\%c", *c);
        else fputc(*c, p->out);
    }
}

/* The number and its interval, each of them unbroken. */
static void put_measured(const struct page *p, const struct ledger_row *row)
{
    const struct verdict_row *r = produced(p, row);
    if (!r) return;
    char text[160];
    interval_format(r->measured, text, sizeof text);
    char *interval = strchr(text, ' ');
    if (interval) *interval++ = '\0';
    fputc('[', p->out);
    put_mathematical(p, text);
    fputs("]{.number}", p->out);
    if (!interval) return;
    fputs(" [", p->out);
    put_mathematical(p, interval);
    fputs("]{.interval}", p->out);
}

static void put_rule(const struct page *p, const struct ledger_row *row)
{
    fputc('[', p->out);
    put_mathematical(p, row->rule);
    fputs("]{.number}", p->out);
}

static void put_class(const struct page *p, const struct ledger_row *row)
{
    if (*row->same_claim) fprintf(p->out, "as [%s](#%s) %s", row->same_claim, row->same_claim, row->same_row);
    else fputs(row_class_name(row->class), p->out);
}

static const char *const kinds[] = { "supported", "contradicted", "inconclusive", "not tested", "no run" };
enum { NUM_KINDS = sizeof kinds / sizeof *kinds };

/* Adds the verdicts of num_rows rows from `first` on to counts, by kind. */
static void count_verdicts(const struct page *p, size_t first, size_t num_rows, size_t counts[NUM_KINDS])
{
    for (size_t i = first; i < first + num_rows; i++)
        for (size_t k = 0; k < NUM_KINDS; k++) counts[k] += !strcmp(kinds[k], verdict_of(p, &p->l->rows[i]));
}

/* ---- the answer ---------------------------------------------------------------- */

/* A question a reader comes with, and the row whose verdict answers it: yes when it is
 * supported. */
struct question { const char *text, *claim, *row; };

static const struct question questions[] = {
    { "Is NTK-Attention equivalent to a long prefix, with the authors' map as it is?", "M1", "elu1-plug-in" },
    { "Does the authors' map serve once fitted to the queries?", "M6", "lstsq" },
    { "Does a polynomial map (degree 4) serve on tokens of real images?", "M1", "taylor4-patches" },
    { "Does the error of NTK-Attention fall as the prefix grows?", "E1", "elu1-plug-in" },
    { "Is its time independent of the prefix length?", "M4", "time-ntk-forward" },
    { "Is it as accurate as full fine-tuning, on images?", "E2", "mnist-vs-full" },
    { "Is it as accurate as P-Tuning V2 of the same number of parameters, on images?", "E4", "mnist-ptuning" },
    { "Is it as accurate as LoRA, on text?", "E3", "super-verb-vs-lora" },
    { "Does a mended form of it beat P-Tuning V2 at equal parameters, on images?", "F71", "mnist" },
    { "Does the kernel of a prefix converge as the prefix grows?", "T2", "slope-full-random" },
    { "Is training an infinitely long prefix kernel regression?", "T13", "mirrored-distance" },
    { "Does a longer prefix generalise better, with the paper's random signs?", "T14", "heldout-random" },
};

static void put_question(const struct page *p, const struct question *q)
{
    const struct ledger_row *row = ledger_find(p->l, q->claim, q->row);
    if (!row) return;
    const char *verdict = verdict_of(p, row);
    const char *answer = !strcmp(verdict, "supported") ? "yes" : !strcmp(verdict, "contradicted") ? "no"
                         : !strcmp(verdict, "inconclusive") ? "undecided" : verdict;
    fprintf(p->out, "- %s [%s]{.verdict .", q->text, answer);
    for (const char *c = verdict; *c; c++) fputc(*c == ' ' ? '-' : *c, p->out);
    fputs("} ", p->out);
    const struct verdict_row *measured = produced(p, row);
    if (measured && isfinite(measured->measured.value)) {
        put_measured(p, row);
        fputs(", rule ", p->out);
        put_rule(p, row);
        fputs(" ", p->out);
    }
    fprintf(p->out, "([%s](#%s), %s)\n", q->claim, q->claim, row->quantity);
}

/* What the rows of a claim say together. */
static const char *const headlines[] = {
    "confirmed in every row", "confirmed in every row that is decided", "confirmed in some rows, refuted in others",
    "refuted in every row that is decided", "open",
};
enum { HOLDS, HOLDS_SO_FAR, IN_PART, FAILS, OPEN, NUM_HEADLINES };

static size_t headline(const struct page *p, const struct ledger_entry *e)
{
    size_t counts[NUM_KINDS] = { 0 };
    count_verdicts(p, e->first_row, e->num_rows, counts);
    if (counts[0] + counts[1] == 0) return OPEN;
    if (counts[1] == 0) return counts[0] == e->num_rows ? HOLDS : HOLDS_SO_FAR;
    return counts[0] ? IN_PART : FAILS;
}

/* The claims of one source by headline: the paper's (T, M, E) or ours (F). */
static void put_headlines(const struct page *p, bool ours, const char *whose)
{
    size_t total = 0;
    for (size_t i = 0; i < p->l->num_entries; i++) total += (*p->l->entries[i].id == 'F') == ours;
    if (!total) return;
    fprintf(p->out, "Of the %zu %s:\n\n", total, whose);
    for (size_t h = 0; h < NUM_HEADLINES; h++) {
        size_t count = 0;
        for (size_t i = 0; i < p->l->num_entries; i++) {
            const struct ledger_entry *e = &p->l->entries[i];
            count += (*e->id == 'F') == ours && headline(p, e) == h;
        }
        if (!count) continue;
        fprintf(p->out, "- **%zu %s**:", count, headlines[h]);
        for (size_t i = 0; i < p->l->num_entries; i++) {
            const struct ledger_entry *e = &p->l->entries[i];
            if ((*e->id == 'F') == ours && headline(p, e) == h) fprintf(p->out, " [%s](#%s)", e->id, e->id);
        }
        fputs("\n", p->out);
    }
    fputs("\n", p->out);
}

/* Where each reader goes on; links to entries that the ledger has. */
static void put_readers(const struct page *p)
{
    static const struct { const char *who, *what, *ids; } readers[] = {
        { "Theory", "kernels, their limit, training, and where the proofs' conditions are loose",
          "T2 T4 T7 T12 T13 F1 F3 F23 F26" },
        { "Practice", "whether to use NTK-Attention, with which map, what it saves and what to use instead",
          "M1 M6 M4 F64 F67 F69" },
        { "Kernels", "time, memory and the share of the machine's peak", "M4 M5 F40" },
        { "Review", "how the claims are read, what they are compared with", "E1 E2 E3 M8" },
    };
    fputs("# Where to read on\n\n", p->out);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        fprintf(p->out, "- **%s**: %s:", readers[i].who, readers[i].what);
        char ids[128];
        snprintf(ids, sizeof ids, "%s", readers[i].ids);
        for (char *id = strtok(ids, " "); id; id = strtok(NULL, " "))
            if (ledger_entry(p->l, id)) fprintf(p->out, " [%s](#%s)", id, id);
        if (i + 1 == sizeof readers / sizeof *readers)
            fputs("; [what is missing](#missing), [where the numbers come from](#provenance)", p->out);
        fputs("\n", p->out);
    }
    fputs("\n", p->out);
}

static void put_figure(struct page *p, size_t run);

/* What kind of rows these are, and what their number costs. */
static void put_tally(const struct page *p)
{
    const struct tally *t = p->tally;
    const size_t *by = t->by_class;
    fprintf(p->out,
            "Of %zu rows, each decided once, **%zu are preregistered** (rule and instance committed before a value was seen), "
            "**%zu exact** (identities, guarantees and counts, which cannot come out otherwise by chance; tests check them) and "
            "**%zu exploratory** (settled on a value of the row); %zu more measure what another row does and are not counted. ",
            by[ROW_PREREGISTERED] + by[ROW_EXACT] + by[ROW_EXPLORATORY],
            by[ROW_PREREGISTERED], by[ROW_EXACT], by[ROW_EXPLORATORY], t->duplicates);
    fprintf(p->out,
            "Of the %zu intervals of %g %% in this profile one or more misses its quantity with a chance of %.0f %%, were they "
            "independent; adjusted by Holm for one false verdict among all with a chance of %g %%, %zu of the %zu decided verdicts "
            "stand", t->intervals, 100.0 * VERDICT_LEVEL, 100.0 * t->miss_chance, 100.0 * FAMILY_RATE, t->standing, t->decided);
    const char *before = "; undecided then:";
    for (size_t i = 0; i < p->l->num_rows && t->standing < t->decided; i++) {
        const struct ledger_row *row = &p->l->rows[i];
        const struct verdict_row *r = produced(p, row);
        if (!r || tally_adjusted_verdict(t, i, r->verdict) == r->verdict) continue;
        fprintf(p->out, "%s [%s](#%s) %s", before, row->claim, row->claim, row->row);
        before = ",";
    }
    fputs(".\n\n", p->out);
}

static void put_answer(struct page *p)
{
    static const char *const heroes[] = { "ntk_convergence", "attention_error", "method_benchmark_mnist" };
    fputs("# The answer {#answer}\n\n::: answer\n", p->out);
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) put_question(p, &questions[i]);
    fputs(":::\n\n", p->out);
    put_tally(p);
    put_headlines(p, false, "claims of the paper");
    put_headlines(p, true, "findings of this project");
    for (size_t i = 0; i < sizeof heroes / sizeof *heroes; i++) {
        const size_t run = run_index(p, heroes[i]);
        if (run < p->num_runs) put_figure(p, run);
    }
}

static void put_summary(const struct page *p)
{
    size_t counts[NUM_KINDS] = { 0 };
    count_verdicts(p, 0, p->l->num_rows, counts);
    fputs("# Verdicts {#verdicts}\n\n::: counts\n", p->out);
    for (size_t k = 0; k < NUM_KINDS; k++)
        if (counts[k] || k < 3) {
            fprintf(p->out, "[[%zu]{.count} ", counts[k]);
            put_verdict(p, kinds[k]);
            fputs("]{.pair}\n", p->out);
        }
    fputs(":::\n\nEach verdict is one decision: *supported* when the whole 99.9 % interval of the measured quantity lies inside the "
          "rule's margin, *contradicted* when it lies outside, else *inconclusive*. Rules of "
          "*preregistered* rows are committed before the runs that they decide; of *exploratory* rows the entry says what was "
          "seen first. Adjusted p is Holm's over all intervals. Claims of the paper are T (theory), M (method) and E (experiments); F are findings of this project.\n\n"
          "::: glance\n| claim |   | verdicts |\n|:--|:--|:--|\n", p->out);
    for (size_t i = 0; i < p->l->num_entries; i++) {
        const struct ledger_entry *e = &p->l->entries[i];
        size_t own[NUM_KINDS] = { 0 };
        count_verdicts(p, e->first_row, e->num_rows, own);
        fprintf(p->out, "| [%s](#%s) | %s | ", e->id, e->id, e->title);
        for (size_t k = 0; k < NUM_KINDS; k++)
            if (own[k]) {
                fprintf(p->out, "[%zu ", own[k]);
                put_verdict(p, kinds[k]);
                fputs("]{.pair} ", p->out);
            }
        fputs("|\n", p->out);
    }
    fputs(":::\n\n## Every verdict\n\n::: rows\n| claim | verdict | quantity | measured | rule | class | adjusted p |\n"
          "|:--|:--|:--|:--|:--|:--|:--|\n", p->out);
    for (size_t i = 0; i < p->l->num_rows; i++) {
        const struct ledger_row *row = &p->l->rows[i];
        fprintf(p->out, "| [%s](#%s) | ", row->claim, row->claim);
        put_verdict(p, verdict_of(p, row));
        fprintf(p->out, " | %s | ", row->quantity);
        put_measured(p, row);
        fputs(" | ", p->out);
        put_rule(p, row);
        fputs(" | ", p->out);
        put_class(p, row);
        if (isnan(p->tally->adjusted[i])) fputs(" | |\n", p->out);
        else fprintf(p->out, " | %.2g |\n", p->tally->adjusted[i]);
    }
    fputs(":::\n\n", p->out);
}

/* The lines of RUN.gp's leading comment from "# Caption:" on, numbers filled in from RUN.csv. */
static void put_caption(const struct page *p, const char *run)
{
    char path[PATH_SIZE], table[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s.gp", p->cfg->plots, run);
    snprintf(table, sizeof table, "%s/%s.csv", p->cfg->results, run);
    char *text = text_file_read(path);
    bool inside = false;
    for (char *line = text, *next; line && *line == '#'; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        line += strspn(line, "# \t");
        if (!strncmp(line, "Caption:", 8)) { inside = true; line += 8 + strspn(line + 8, " "); }
        if (!inside) continue;
        if (caption_put(line, table, p->out)) cli_warn(&p->cfg->common, "%s: the caption names a column that %s has not", path, table);
        fputc('\n', p->out);
    }
    free(text);
}

static void put_figure(struct page *p, size_t run)
{
    const char *name = p->run[run];
    if (p->shown[run] || !exists(p->cfg->figures, name, ".svg")) return;
    p->shown[run] = true;
    fprintf(p->out, "\n:::: {.figure #fig-%s}\n![](%s.svg){alt=\"figure %s\"}\n\n::: caption\n**%s.** ", name, name, name, name);
    put_caption(p, name);
    fputs(":::\n::::\n\n", p->out);
}

static void put_entry(struct page *p, const struct ledger_entry *e)
{
    fprintf(p->out, "\n## %s. %s {#%s}\n\n%s\n\n", e->id, e->title, e->id, e->text);
    if (!e->num_rows) return;
    fputs("::: rows\n| row | verdict | quantity | measured | $n$ | rule | class | figure |\n|:--|:--|:--|:--|:--|:--|:--|:--|\n",
          p->out);
    for (size_t i = e->first_row; i < e->first_row + e->num_rows; i++) {
        const struct ledger_row *row = &p->l->rows[i];
        const struct verdict_row *r = produced(p, row);
        fprintf(p->out, "| %s | ", row->row);
        put_verdict(p, verdict_of(p, row));
        fprintf(p->out, " | %s | ", row->quantity);
        put_measured(p, row);
        fputs(" | ", p->out);
        if (r && r->measured.n) fprintf(p->out, "%zu", r->measured.n);
        fputs(" | ", p->out);
        put_rule(p, row);
        fputs(" | ", p->out);
        put_class(p, row);
        if (*row->run && exists(p->cfg->figures, row->run, ".svg")) fprintf(p->out, " | [%s](#fig-%s) |\n", row->run, row->run);
        else fprintf(p->out, " | %s |\n", row->run);
    }
    fputs(":::\n\n", p->out);
    for (size_t i = e->first_row; i < e->first_row + e->num_rows; i++) {
        const size_t run = run_index(p, p->l->rows[i].run);
        if (run < p->num_runs) put_figure(p, run);
    }
}

static void put_entries(struct page *p)
{
    const struct ledger_entry *before = NULL;
    for (size_t i = 0; i < p->l->num_entries; i++) {
        const struct ledger_entry *e = &p->l->entries[i];
        const char *heading = *e->subsection ? e->subsection : e->section;
        const char *last = before ? (*before->subsection ? before->subsection : before->section) : "";
        if (strcmp(heading, last)) fprintf(p->out, "\n# %s\n", heading);
        put_entry(p, e);
        before = e;
    }
    bool more = false;
    for (size_t i = 0; i < p->num_runs; i++) {
        if (p->shown[i] || !exists(p->cfg->figures, p->run[i], ".svg")) continue;
        if (!more) fputs("\n# Further figures\n", p->out);
        more = true;
        put_figure(p, i);
    }
}

static void put_gaps(const struct page *p)
{
    bool any = false;
    fputs("\n# What is missing {#missing}\n\n", p->out);
    for (size_t i = 0; i < p->num_runs; i++) {
        if (exists(p->cfg->results, p->run[i], ".csv")) continue;
        any = true;
        fprintf(p->out, "- The run `%s` has no table", p->run[i]);
        char path[PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s.gap", p->cfg->results, p->run[i]);
        char *why = text_file_read(path);
        if (why) fprintf(p->out, ": %.*s", (int)strcspn(why, "\n"), why);
        else fputs(".", p->out);
        free(why);
        fputs("\n", p->out);
    }
    /* Rows without a verdict of this profile, together by run, at the first of them. */
    for (size_t i = 0; i < p->l->num_rows; i++) {
        const char *run = p->l->rows[i].run;
        bool first = !produced(p, &p->l->rows[i]);
        for (size_t j = 0; j < i && first; j++) first = produced(p, &p->l->rows[j]) || strcmp(p->l->rows[j].run, run);
        if (!first) continue;
        any = true;
        if (*run) fprintf(p->out, "- Not produced by `%s` in this profile:", run);
        else fputs("- Decided by no run, the entry says why:", p->out);
        const char *before = "";
        for (size_t j = i; j < p->l->num_rows; j++) {
            const struct ledger_row *row = &p->l->rows[j];
            if (produced(p, row) || strcmp(row->run, run)) continue;
            fprintf(p->out, "%s [%s](#%s) %s", before, row->claim, row->claim, row->row);
            before = ",";
        }
        fputs("\n", p->out);
    }
    const char *before = "- Entries without rows:";
    for (size_t i = 0; i < p->l->num_entries; i++) {
        if (p->l->entries[i].num_rows) continue;
        fprintf(p->out, "%s [%s](#%s)", before, p->l->entries[i].id, p->l->entries[i].id);
        before = ",";
        any = true;
    }
    if (!strcmp(before, ",")) fputs("\n", p->out);
    if (!any) fputs("Nothing.\n", p->out);
}

/* ---- where the numbers come from ------------------------------------------- */

struct field { const char *key, *value; };

/* key=value and key="several words" in the leading "#" lines, and the line of
 * options; cut in place. */
static size_t read_fields(char *text, struct field *field)
{
    size_t n = 0;
    char *next;
    for (char *line = text; line && *line == '#'; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        static const char options_mark[] = "# options: ";
        if (!strncmp(line, options_mark, sizeof options_mark - 1) && n < MAX_FIELDS) {
            field[n++] = (struct field){ "options", line + sizeof options_mark - 1 };
            continue;
        }
        for (char *c = line + 1; *c && n < MAX_FIELDS;) {
            c += strspn(c, " \t");
            char *key = c;
            while (isalnum((unsigned char)*c) || *c == '_') c++;
            if (*c != '=' || c == key) break;       /* a sentence, not fields */
            *c++ = '\0';
            const bool quoted = *c == '"';
            c += quoted;
            char *value = c;
            c += strcspn(c, quoted ? "\"" : " \t");
            if (*c) *c++ = '\0';
            field[n++] = (struct field){ key, value };
        }
    }
    return n;
}

static const char *field_value(const struct field *field, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) if (!strcmp(field[i].key, key)) return field[i].value;
    return NULL;
}

/* A text of provenance.json's own members; NULL when it has none. */
static const char *provenance_text(const struct page *p, const char *key)
{
    return json_string_value(json_object_get(p->provenance, key));
}

/* A member and its name: text, number, or an object of them as "a x, b y". */
static void put_member(const struct page *p, const char *key, json_t *value)
{
    const char *name;
    json_t *inner;
    fprintf(p->out, "- %s:", key);
    if (json_is_object(value)) {
        const char *before = "";
        json_object_foreach(value, name, inner) {
            if (json_is_string(inner)) fprintf(p->out, "%s %s `%s`", before, name, json_string_value(inner));
            else if (json_is_number(inner)) fprintf(p->out, "%s %s %.10g", before, name, json_number_value(inner));
            before = ",";
        }
    } else if (json_is_string(value)) {
        fprintf(p->out, " `%s`", json_string_value(value));
    } else if (json_is_number(value)) {
        fprintf(p->out, " %.10g", json_number_value(value));
    }
    fputs("\n", p->out);
}

/* provenance.json as a list, the seconds of the runs left to their own lines. */
static void put_machine(const struct page *p)
{
    const char *key;
    json_t *value;
    if (!p->provenance) return;
    fputs("::: provenance\n", p->out);
    json_object_foreach(p->provenance, key, value) {
        if (strcmp(key, "runs") && strcmp(key, "peak_bytes")) put_member(p, key, value);
    }
    fputs(":::\n\nThe same, with the seconds and the memory of every run, is in `provenance.json` beside the tables.\n\n", p->out);
}

static void put_provenance(const struct page *p)
{
    static struct field field[MAX_RUNS][MAX_FIELDS];
    static size_t num[MAX_RUNS];
    static char *text[MAX_RUNS];
    size_t first = p->num_runs;
    for (size_t i = 0; i < p->num_runs; i++) {
        char path[PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s.csv", p->cfg->results, p->run[i]);
        text[i] = text_file_read(path);
        num[i] = text[i] ? read_fields(text[i], field[i]) : 0;
        if (num[i] && first == p->num_runs) first = i;
    }
    fputs("\n# Where the numbers come from {#provenance}\n\n", p->out);
    put_machine(p);
    if (first == p->num_runs) fputs("No run has left a table.\n", p->out);
    else fputs("The same in all runs:\n\n", p->out);
    /* A field is common when every table has it with one value. */
    for (size_t k = 0; first < p->num_runs && k < num[first]; k++) {
        const struct field *f = &field[first][k];
        bool common = true;
        for (size_t i = 0; i < p->num_runs; i++) {
            const char *value = num[i] ? field_value(field[i], num[i], f->key) : f->value;
            common = common && value && !strcmp(value, f->value);
        }
        if (common) fprintf(p->out, "- %s: `%s`\n", f->key, f->value);
        for (size_t i = 0; common && i < p->num_runs; i++)
            for (size_t j = 0; j < num[i]; j++)
                if (!strcmp(field[i][j].key, f->key) && &field[i][j] != f) field[i][j].value = NULL;
        if (common) field[first][k].value = NULL;
    }
    if (first < p->num_runs) fputs("\nBy run:\n\n", p->out);
    for (size_t i = 0; i < p->num_runs; i++) {
        if (!num[i]) continue;
        fprintf(p->out, "- `%s`:", p->run[i]);
        for (size_t j = 0; j < num[i]; j++)
            if (field[i][j].value) fprintf(p->out, " %s `%s`", field[i][j].key, field[i][j].value);
        fputs("\n", p->out);
    }
    for (size_t i = 0; i < p->num_runs; i++) free(text[i]);
}

/* A file of Markdown, its headings with `deeper` before them outside code blocks. */
static int put_file(const struct page *p, const char *path, const char *deeper)
{
    if (!path) return EXIT_DONE;
    char *text = text_file_read(path);
    if (!text) return cli_fail(&p->cfg->common, EXIT_DATA, "%s: %s", path, strerror(errno));
    bool code = false;
    for (const char *line = text; *line;) {
        const size_t length = strcspn(line, "\n");
        if (!strncmp(line, "```", 3)) code = !code;
        if (!code && line[strspn(line, "#")] == ' ' && *line == '#') fputs(deeper, p->out);
        fprintf(p->out, "%.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
    free(text);
    return EXIT_DONE;
}

static int put_page(struct page *p)
{
    const char *started = provenance_text(p, "started");
    fprintf(p->out, "---\ntitle: \"Toward(s) Infinite-Long Prefix in Transformer: a reproduction\"\n"
            "subtitle: \"What holds, what does not, what to use: arXiv:2406.14036 measured. "
            "prefix-ntk %s, %s profile%s%.10s\"\nlang: en\n---\n\n",
            PREFIX_NTK_VERSION, p->cfg->common.profile, started ? ", " : "", started ? started : "");
    fputs("A prefix is a number $m$ of trainable tokens put before the input of an attention layer. The paper says that "
          "as $m$ grows training becomes linear in the prefix's neural tangent kernel, and that a small summary $(Z, k)$, "
          "NTK-Attention, can stand in for it. Every number here is measured; the rules stand in the ledger, "
          "`paper_notes.md`.\n\n", p->out);
    if (strcmp(p->cfg->common.profile, "default"))
        fprintf(p->out, "::: note\nThis is the **%s** profile. The ledger's verdicts are those of the default profile (`make reproduce`).\n:::\n\n",
                p->cfg->common.profile);
    put_answer(p);
    put_readers(p);
    put_summary(p);
    const int code = put_file(p, p->cfg->explore, "");
    if (code) return code;
    put_entries(p);
    put_gaps(p);
    put_provenance(p);
    if (!p->cfg->appendix) return EXIT_DONE;
    fputs("\n# Appendix\n\n", p->out);
    return put_file(p, p->cfg->appendix, "#");
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse(argc, argv, "Write the report of a profile as Markdown for pandoc", options, parse, check, &cfg.common);
    char error[512], path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/verdicts.csv", cfg.results);
    static struct page page;
    struct atomic_file *file = NULL;
    int code = EXIT_DATA;
    struct ledger *l = ledger_read(cfg.common.ledger, error, sizeof error);
    struct verdict_rows *v = l ? verdict_rows_read(path, error, sizeof error) : NULL;
    page.run_names = strdup(cfg.runs ? cfg.runs : "");
    if (!v || !page.run_names) { cli_fail(&cfg.common, code, "%s", v ? "out of memory" : error); goto done; }
    for (char *name = strtok(page.run_names, ","); name; name = strtok(NULL, ",")) {
        if (page.num_runs == MAX_RUNS) {
            code = cli_fail(&cfg.common, EXIT_USAGE, "--runs: more than %d", (int)MAX_RUNS);
            goto done;
        }
        page.run[page.num_runs++] = name;
    }
    if (atomic_file_open(cfg.common.out, &file, error, sizeof error)) {
        code = cli_fail(&cfg.common, EXIT_FAILED, "%s: %s", cfg.common.out, error);
        goto done;
    }
    page.cfg = &cfg;
    page.l = l;
    page.v = v;
    page.tally = tally_make(l, v, cfg.runs ? cfg.runs : "");
    if (!page.tally) {
        atomic_file_discard(file);
        code = cli_fail(&cfg.common, EXIT_FAILED, "out of memory");
        goto done;
    }
    snprintf(path, sizeof path, "%s/provenance.json", cfg.results);
    page.provenance = json_load_file(path, 0, NULL);
    page.out = atomic_file_stream(file);
    code = put_page(&page);
    if (code) atomic_file_discard(file);
    else if (atomic_file_commit(file, error, sizeof error))
        code = cli_fail(&cfg.common, EXIT_FAILED, "%s: %s", cfg.common.out, error);
done:
    json_decref(page.provenance);
    tally_free(page.tally);
    free(page.run_names);
    verdict_rows_free(v);
    ledger_free(l);
    return code;
}
