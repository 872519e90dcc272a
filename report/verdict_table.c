/* Every row: one line, which opens the rule, the history, the command and the files. */
#include "report/page.h"

#include <math.h>
#include <string.h>

void put_row_id(const struct page *p, const struct ledger_row *row) { fprintf(p->out, "row-%s-%s", row->claim,
                                                                              row->row); }

/* The History paragraph of the row's entry, when it has one. */
static void put_entry_history(const struct page *p, const struct ledger_row *row)
{
    static const char mark[] = "**History.**";
    const struct ledger_entry *e = ledger_entry(p->ledger, row->claim);
    const char *text = e ? strstr(e->text, mark) : NULL;
    if (!text) return;
    const char *end = strstr(text, "\n\n");
    text += sizeof mark - 1;
    fprintf(p->out, "**Changed** (%s)**.**%.*s\n\n", row->claim, end ? (int)(end - text) : (int)strlen(text), text);
}

/* How the rule decides. */
static void put_rule_in_words(const struct page *p, size_t index)
{
    const struct ledger_row *row = &p->ledger->rows[index];
    const struct verdict_row *r = page_row(p, row);
    fprintf(p->out, "**Rule.** %s: ", row->quantity);
    put_rule(p, row);
    fputs(", *supported* when the whole interval lies there, *contradicted* when it lies outside. Class: ", p->out);
    put_class(p, row);
    if (r && r->measured.n) fprintf(p->out, "; $n = %zu$", r->measured.n);
    if (!isnan(p->tally->adjusted[index])) {
        fputs("; adjusted p ", p->out);
        put_adjusted(p, index);
    }
    if (*row->verdict && (!r || strcmp(row->verdict, r->verdict))) {
        fprintf(p->out, "; the default profile gave %s ", row->verdict);
        if (*row->measured) put_interval(p, row->measured);
    }
    fputs(".\n\n", p->out);
}

static void put_files(const struct page *p, const struct ledger_row *row)
{
    if (!*row->run) {
        fprintf(p->out, "**Run.** None decides this row; see [%s](#%s).\n\n", row->claim, row->claim);
        return;
    }
    fprintf(p->out, "**Run.** `make claim ID=%s%s%s`", row->claim, strcmp(p->profile, "default") ? " PROFILE=" : "",
            strcmp(p->profile, "default") ? p->profile : "");
    if (page_has_file(p->results, row->run, ".csv"))
        fprintf(p->out, "; [its command](#run-%s), [table](../results/%s.csv)", row->run, row->run);
    if (page_has_file(p->figures, row->run, ".svg")) fprintf(p->out, ", [figure](#fig-%s)", row->run);
    fprintf(p->out, "; claim [%s](#%s).\n\n", row->claim, row->claim);
}

static void put_row(const struct page *p, size_t index)
{
    const struct ledger_row *row = &p->ledger->rows[index];
    fputs("<details class=\"row\" id=\"", p->out);
    put_row_id(p, row);
    fprintf(p->out, "\">\n<summary>\n[%s [%s]{.name}]{.id} ", row->claim, row->row);
    put_verdict(p, page_verdict(p, row));
    fputs(" [", p->out);
    put_measured(p, row);
    fputs("]{.measured} ", p->out);
    put_rule(p, row);
    fprintf(p->out, " [%s]{.quantity}\n</summary>\n\n", row->quantity);
    put_rule_in_words(p, index);
    put_history(p, row);
    put_entry_history(p, row);
    put_files(p, row);
    fputs("</details>\n", p->out);
}

/* What kind of rows these are, and what their number costs. */
static void put_tally(const struct page *p)
{
    const struct tally *t = p->tally;
    const size_t *by = t->by_class;
    fprintf(p->out,
            "Of %zu rows, each decided once, **%zu are preregistered** (rule and instance committed before a value was "
            "seen), "
            "**%zu exact** (identities, guarantees and counts, which cannot come out otherwise by chance; tests check "
            "them) and "
            "**%zu exploratory** (settled on a value of the row); %zu more measure what another row does and are not "
            "counted. ", by[ROW_PREREGISTERED] + by[ROW_EXACT] + by[ROW_EXPLORATORY],
            by[ROW_PREREGISTERED], by[ROW_EXACT], by[ROW_EXPLORATORY], t->duplicates);
    fprintf(p->out,
            "Of the %zu intervals of %g %% in this profile one or more misses its quantity with a chance of %.0f %%, "
            "were they "
            "independent; adjusted by Holm for one false verdict among all with a chance of %g %%, %zu of the %zu "
            "decided verdicts "
            "stand", t->intervals, 100.0 * VERDICT_LEVEL, 100.0 * t->miss_chance, 100.0 * FAMILY_RATE, t->standing,
            t->decided);
    const char *before = "; undecided then:";
    for (size_t i = 0; i < p->ledger->num_rows && t->standing < t->decided; i++) {
        const struct ledger_row *row = &p->ledger->rows[i];
        const struct verdict_row *r = page_row(p, row);
        if (!r || tally_adjusted_verdict(t, i, r->verdict) == r->verdict) continue;
        fprintf(p->out, "%s [%s](#%s) %s", before, row->claim, row->claim, row->row);
        before = ",";
    }
    fputs(".\n\n", p->out);
}

static void put_summary(const struct page *p)
{
    size_t counts[NUM_VERDICTS] = { 0 };
    page_count_verdicts(p, 0, p->ledger->num_rows, counts);
    fputs("# Verdicts {#verdicts}\n\n::: counts\n", p->out);
    for (size_t k = 0; k < NUM_VERDICTS; k++)
        if (counts[k] || k < 3) {
            fprintf(p->out, "[[%zu]{.count} ", counts[k]);
            put_verdict(p, page_verdicts[k]);
            fputs("]{.pair}\n", p->out);
        }
    fputs(":::\n\nEach verdict is one decision: *supported* when the whole 99.9 % interval of the measured quantity "
          "lies inside the "
          "rule's margin, *contradicted* when it lies outside, else *inconclusive*. Rules of *preregistered* rows are "
          "committed "
          "before the runs that they decide; of *exploratory* rows the entry says what was seen first. Adjusted p is "
          "Holm's over "
          "all intervals.\n\n", p->out);
    put_tally(p);
    fputs("A claim *holds* when every row that says what its sentence says is supported, and *does not hold* when "
          "these rows are "
          "refuted; its other rows ask how far it goes.\n\n## The paper's claims {#claims}\n\n", p->out);
    put_headline_table(p, false);
    fputs("## Findings of this project {#findings}\n\n", p->out);
    put_headline_table(p, true);
}

void put_verdict_table(const struct page *p)
{
    put_summary(p);
    fputs("## Every verdict {#rows}\n\nA row opens its rule, its history, its command and its files.\n\n::: "
          "verdict-rows\n", p->out);
    for (size_t i = 0; i < p->ledger->num_rows; i++) put_row(p, i);
    fputs(":::\n\n", p->out);
}
