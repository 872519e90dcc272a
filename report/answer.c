/* What a reader wants to know first: whether to use NTK-Attention, whether the theory is right, what to use instead. */
#include "report/page.h"

#include <math.h>
#include <string.h>

/* A question, the row whose verdict answers it (yes when it is supported) and what its number is. */
struct question { const char *text, *claim, *row, *unit; };

static const struct question use[] = {
    { "in place of a prefix that you have, with the authors' map", "M1", "elu1-plug-in",
      "of the prefix's effect is missed" },
    { "the same, the map fitted to queries of the task", "M6", "lstsq", "of the effect is missed" },
    { "for a step whose time does not grow with the prefix", "M4", "time-ntk-forward",
      "exponent of the time in the length" },
    { "fine-tuned, in place of P-Tuning V2 of the same size, on images", "E4", "mnist-ptuning", "accuracy gained" },
    { "in place of LoRA, on text", "E3", "word-order-vs-lora", "accuracy gained" },
    { "in place of full fine-tuning, on images", "E2", "mnist-vs-full", "accuracy gained" },
    { "trained where its features are white, in place of P-Tuning V2 of the same size, on images", "F71",
      "mnist-ntk-white", "accuracy gained" },
    { "the same, on text", "F71", "word-order-ntk-white-draws", "accuracy gained" },
    { "the same, in place of LoRA, on images", "F71", "mnist-ntk-white-vs-lora", "accuracy gained" },
};

static const struct question theory[] = {
    { "the kernel of a prefix converges as the prefix grows", "T2", "slope-full-random",
      "exponent of the error in the length" },
    { "an infinitely long prefix learns as kernel regression", "T13", "distance-mirrored",
      "distance at the longest prefix" },
    { "a longer prefix learns better, with the paper's random signs", "T14", "heldout-random",
      "exponent of the held-out loss in the length" },
    { "a longer real prefix learns better, with keys and values of its own", "T14", "real-heldout",
      "exponent of the held-out loss" },
};

/* What to use, as far as a row has this verdict. */
struct advice { const char *text, *claim, *row, *verdict; };

static const struct advice advice[] = {
    { "LoRA where weights may be changed", "E2", "mnist-vs-lora", "contradicted" },
    { "a summary with white features where they may not", "F71", "mnist-ntk-white", "supported" },
    { "a summary fitted to queries of the task where a step must not cost more for a longer prefix", "M6", "lstsq",
      "supported" },
};

#define COUNT(array) (sizeof (array) / sizeof *(array))

/* Whether the ledger's verdict, that of the default profile, stands in for what another profile does not decide. */
static bool from_ledger(const struct page *p, const struct ledger_row *row)
{
    return strcmp(p->profile, "default") && !verdict_is_decided(page_verdict(p, row)) && *row->verdict &&
           strcmp(row->verdict, "not tested");
}

static bool put_question(const struct page *p, const struct question *q)
{
    const struct ledger_row *row = ledger_find(p->ledger, q->claim, q->row);
    if (!row) return false;
    const bool borrowed = from_ledger(p, row);
    const char *verdict = borrowed ? row->verdict : page_verdict(p, row);
    fprintf(p->out, "- %s ", q->text);
    put_badge(p, !strcmp(verdict, "supported") ? "yes" : !strcmp(verdict, "contradicted") ? "no"
                 : !strcmp(verdict, "inconclusive") ? "undecided" : verdict, verdict);
    fputc(' ', p->out);
    const struct verdict_row *measured = page_row(p, row);
    if (borrowed || (measured && isfinite(measured->measured.value))) {
        if (borrowed) put_interval(p, row->measured);
        else put_measured(p, row);
        fprintf(p->out, " %s, ", q->unit);
        put_rule(p, row);
        fputs(" wanted ", p->out);
    }
    fputc('(', p->out);
    put_claim_link(p, q->claim);
    fprintf(p->out, "%s)\n", borrowed ? "†" : "");
    return borrowed;
}

static bool put_questions(const struct page *p, const char *title, const struct question *q, size_t count)
{
    bool borrowed = false;
    fprintf(p->out, "**%s**\n\n", title);
    for (size_t i = 0; i < count; i++) borrowed = put_question(p, &q[i]) || borrowed;
    fputs("\n", p->out);
    return borrowed;
}

static void put_advice(const struct page *p)
{
    const char *before = "**What to use:** ";
    for (size_t i = 0; i < COUNT(advice); i++) {
        const struct ledger_row *row = ledger_find(p->ledger, advice[i].claim, advice[i].row);
        if (!row || strcmp(from_ledger(p, row) ? row->verdict : page_verdict(p, row), advice[i].verdict)) continue;
        fprintf(p->out, "%s%s (", before, advice[i].text);
        put_claim_link(p, advice[i].claim);
        fputc(')', p->out);
        before = "; ";
    }
    if (*before == ';') fputs(".\n\n", p->out);
}

void put_answer(struct page *p)
{
    static const char *const heroes[] = { "ntk_convergence", "attention_error", "method_benchmark_mnist" };
    fputs("# The answer {#answer}\n\n::: answer\n", p->out);
    bool borrowed = put_questions(p, "Should I use NTK-Attention?", use, COUNT(use));
    put_advice(p);
    borrowed = put_questions(p, "Is the theory right?", theory, COUNT(theory)) || borrowed;
    if (borrowed) fputs("† Not decided in this profile: the ledger's number, of the default profile.\n", p->out);
    const size_t *by = p->tally->by_class;
    fprintf(p->out,
            ":::\n\nThe verdicts behind them are %zu: **%zu preregistered**, **%zu exact**, **%zu exploratory** ([what "
            "that "
            "means](#verdicts)).\n\n", by[ROW_PREREGISTERED] + by[ROW_EXACT] + by[ROW_EXPLORATORY],
            by[ROW_PREREGISTERED], by[ROW_EXACT], by[ROW_EXPLORATORY]);
    fputs("One figure for each part: theory, method, benchmark.\n\n", p->out);
    for (size_t i = 0; i < COUNT(heroes); i++) {
        const size_t run = page_run_index(p, heroes[i]);
        if (run < p->num_runs) put_figure(p, run);
    }
}
