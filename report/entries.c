/* The entries of the ledger: what is claimed, how it is read, its rows and figures. */
#include "report/page.h"

#include <string.h>

static void put_entry(struct page *p, const struct ledger_entry *e)
{
    fprintf(p->out, "\n## %s. %s {#%s}\n\n", e->id, e->title, e->id);
    put_headline(p, e);
    fprintf(p->out, "\n\n%s\n\n", e->text);
    if (!e->num_rows) return;
    fputs("::: rows\n| row | verdict | quantity | measured | $n$ | rule | class | figure "
          "|\n|:--|:--|:--|:--|:--|:--|:--|:--|\n", p->out);
    for (size_t i = e->first_row; i < e->first_row + e->num_rows; i++) {
        const struct ledger_row *row = &p->ledger->rows[i];
        const struct verdict_row *r = page_row(p, row);
        fprintf(p->out, "| [%s](#", row->row);
        put_row_id(p, row);
        fputs(") | ", p->out);
        put_verdict(p, page_verdict(p, row));
        fprintf(p->out, " | %s | ", row->quantity);
        put_measured(p, row);
        fputs(" | ", p->out);
        if (r && r->measured.n) fprintf(p->out, "%zu", r->measured.n);
        fputs(" | ", p->out);
        put_rule(p, row);
        fputs(" | ", p->out);
        put_class(p, row);
        if (*row->run && page_has_file(p->figures, row->run, ".svg"))
            fprintf(p->out, " | [%s](#fig-%s) |\n", row->run, row->run);
        else fprintf(p->out, " | %s |\n", row->run);
    }
    fputs(":::\n\n", p->out);
    for (size_t i = e->first_row; i < e->first_row + e->num_rows; i++) {
        const size_t run = page_run_index(p, p->ledger->rows[i].run);
        if (run < p->num_runs) put_figure(p, run);
    }
}

void put_entries(struct page *p)
{
    const struct ledger_entry *before = NULL;
    for (size_t i = 0; i < p->ledger->num_entries; i++) {
        const struct ledger_entry *e = &p->ledger->entries[i];
        const char *heading = *e->subsection ? e->subsection : e->section;
        const char *last = before ? (*before->subsection ? before->subsection : before->section) : "";
        if (strcmp(heading, last)) fprintf(p->out, "\n# %s\n", heading);
        put_entry(p, e);
        before = e;
    }
    bool more = false;
    for (size_t i = 0; i < p->num_runs; i++) {
        if (p->shown[i] || !page_has_file(p->figures, p->run[i], ".svg")) continue;
        if (!more) fputs("\n# Further figures\n", p->out);
        more = true;
        put_figure(p, i);
    }
}
