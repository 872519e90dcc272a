/* What the full profile gave: the tables that the repository keeps of it, and its verdicts on rows that this profile
 * leaves open. */
#include "report/page.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX "_summary.csv"

static int is_summary(const struct dirent *e)
{
    const size_t n = strlen(e->d_name), end = strlen(SUFFIX);
    return n > end && !strcmp(e->d_name + n - end, SUFFIX);
}

static void put_kept_rows(const struct page *p)
{
    bool any = false;
    for (size_t i = 0; p->kept_verdicts && i < p->ledger->num_rows; i++) {
        const struct ledger_row *row = &p->ledger->rows[i];
        const struct verdict_row *r = verdict_rows_find(p->kept_verdicts, row->claim, row->row);
        if (!r || page_row(p, row)) continue;
        if (!any)
            fputs("Rows that only it decides:\n\n::: rows\n| row | verdict | quantity | measured | $n$ | rule "
                  "|\n|:--|:--|:--|:--|:--|:--|\n", p->out);
        any = true;
        char measured[160];
        interval_format(r->measured, measured, sizeof measured);
        fprintf(p->out, "| [%s](#%s) %s | ", row->claim, row->claim, row->row);
        put_verdict(p, r->verdict);
        fprintf(p->out, " | %s | ", row->quantity);
        put_interval(p, measured);
        fprintf(p->out, " | %zu | ", r->measured.n);
        put_rule(p, row);
        fputs(" |\n", p->out);
    }
    if (any) fputs(":::\n\n", p->out);
}

void put_kept(const struct page *p)
{
    struct dirent **files = NULL;
    const int count = p->kept && strcmp(p->profile, "full") ? scandir(p->kept, &files, is_summary, alphasort) : 0;
    if (count > 0) {
        fputs("\n# From the full profile {#full}\n\nRun once, more draws and all test examples; the tables are kept in "
              "the repository "
              "(`expected/full`), with the options, versions and instruction set of each in its first lines.\n\n",
              p->out);
        put_kept_rows(p);
    }
    for (int i = 0; i < count; i++) {
        files[i]->d_name[strlen(files[i]->d_name) - strlen(SUFFIX)] = '\0';
        put_kept_figure(p, files[i]->d_name);
    }
    for (int i = 0; i < count; i++) free(files[i]);
    free(files);
}
