/* The report of a profile as one Markdown page for pandoc. Everything on it is taken from the ledger, the results, the
 * history of the rules and the captions of the plot scripts. Each file of this room writes one part; nothing is printed
 * elsewhere.
 *
 * Functions named put_ write to page.out and cannot fail; whoever owns the stream asks it for errors, and *page.failed
 * for what could not be read on the way. */
#ifndef REPORT_PAGE_H
#define REPORT_PAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/ledger.h"
#include "cli/tally.h"
#include "cli/verdict_rows.h"

enum { PAGE_MAX_RUNS = 256, PAGE_PATH_SIZE = 4096 };

struct page_failure { int code; char line[PAGE_PATH_SIZE + 128]; };

/* What a page is made of; all of it belongs to the caller. */
struct page {
    const struct cli_common *common;    /* for warnings */
    const char *profile;
    const char *results, *figures, *plots;  /* folders */
    const char *kept;                   /* folder of the full profile's tables in the repository, or NULL */
    const struct verdict_rows *kept_verdicts;   /* its verdicts.csv, or NULL */
    const struct ledger *ledger;
    const struct verdict_rows *verdicts;
    const struct tally *tally;
    json_t *provenance;                 /* provenance.json of the results, or NULL */
    const char *history;                /* the text of docs/rules_history.md, or NULL */
    const char *run[PAGE_MAX_RUNS];     /* the runs of the profile, num_runs of them */
    size_t num_runs;
    bool shown[PAGE_MAX_RUNS];          /* which of their figures the page has */
    /* the first thing that went wrong while the page was written; code 0: nothing */
    struct page_failure *failed;
    FILE *out;
};

/* ---- what is known about a row (page.c) ------------------------------------- */

bool page_has_file(const char *dir, const char *stem, const char *extension);
/* The text of a file that may be missing, which the caller frees. NULL without it, and when it cannot be read, which
 * is kept in *page.failed. */
char *page_text(const struct page *p, const char *path);
/* Keeps that memory ran out. */
void page_out_of_memory(const struct page *p);
/* num_runs when the profile has no run of that name. */
size_t page_run_index(const struct page *p, const char *name);
/* This profile's row, NULL when its run did not produce it. */
const struct verdict_row *page_row(const struct page *p, const struct ledger_row *row);
/* The verdict of this profile; "no run" when its run did not produce it, "not tested" when no run decides it. */
const char *page_verdict(const struct page *p, const struct ledger_row *row);
bool verdict_is_decided(const char *verdict);       /* supported or contradicted */

enum { NUM_VERDICTS = 5 };
extern const char *const page_verdicts[NUM_VERDICTS];
/* Adds the verdicts of num_rows rows from `first` on to counts, by page_verdicts. */
void page_count_verdicts(const struct page *p, size_t first, size_t num_rows, size_t counts[NUM_VERDICTS]);

/* ---- pieces of text (page.c) -------------------------------------------------- */

/* `text` in the colour of a verdict. */
void put_badge(const struct page *p, const char *text, const char *verdict);
void put_verdict(const struct page *p, const char *verdict);
/* Number and rule as they are read: brackets escaped, signs mathematical. */
void put_mathematical(const struct page *p, const char *text);
/* "0.5 [0.4, 0.6]", number and interval each unbroken. */
void put_interval(const struct page *p, const char *text);
void put_measured(const struct page *p, const struct ledger_row *row);  /* nothing when not measured in this profile */
void put_rule(const struct page *p, const struct ledger_row *row);
void put_class(const struct page *p, const struct ledger_row *row);
void put_adjusted(const struct page *p, size_t row_index);
void put_claim_link(const struct page *p, const char *claim);
/* A text of Markdown, its headings with `deeper` before them outside code blocks. */
void put_markdown(const struct page *p, const char *text, const char *deeper);

/* ---- parts of the page ---------------------------------------------------------- */

/* answer.c: the questions people come with, the figures of each part */
void put_answer(struct page *p);
/* headline.c: one claim's verdict as a badge */
void put_headline(const struct page *p, const struct ledger_entry *e);
void put_headline_table(const struct page *p, bool ours);   /* of the paper's claims, or of this project's findings */
/* 0, or -1 when an entry's Headline names a row it does not have; `why` gets one line. */
int headlines_check(const struct ledger *l, char *why, size_t size);
void put_readers(const struct page *p);             /* readers.c: a section per reader */
/* verdict_table.c: every row, which opens its rule, history and files */
void put_verdict_table(const struct page *p);
void put_row_id(const struct page *p, const struct ledger_row *row);            /* the anchor of a row of that table */
void put_history(const struct page *p, const struct ledger_row *row);           /* history.c */
void put_figure(struct page *p, size_t run);        /* figures.c: once on the page; nothing when it was not drawn */
/* Of a run of the full profile, from page.kept: the figure figures/full/RUN.svg, or the table alone where it was not
 * drawn. */
void put_kept_figure(const struct page *p, const char *run);
void put_entries(struct page *p);                   /* entries.c: the ledger's entries with their rows and figures */
void put_kept(const struct page *p);                /* kept.c: what the full profile gave, once */
void put_gaps(const struct page *p);                /* gaps.c: what is missing */
void put_provenance(const struct page *p);          /* provenance.c: where the numbers come from */

#endif
