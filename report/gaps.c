/* What is missing: runs without a table, rows without a verdict, entries without rows. */
#include "report/page.h"

#include <stdlib.h>
#include <string.h>

#include "cli/text_file.h"

/* Each returns whether there was something to say. */
static bool put_missing_tables(const struct page *p)
{
    bool any = false;
    for (size_t i = 0; i < p->num_runs; i++) {
        if (page_has_file(p->results, p->run[i], ".csv")) continue;
        any = true;
        fprintf(p->out, "- The run `%s` has no table", p->run[i]);
        char path[PAGE_PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s.gap", p->results, p->run[i]);
        char *why = page_text(p, path);
        if (why) fprintf(p->out, ": %.*s", (int)strcspn(why, "\n"), why);
        else fputs(".", p->out);
        free(why);
        fputs("\n", p->out);
    }
    return any;
}

/* Rows without a verdict of this profile, together by run, at the first of them. */
static bool put_missing_rows(const struct page *p)
{
    const struct ledger *l = p->ledger;
    bool any = false;
    for (size_t i = 0; i < l->num_rows; i++) {
        const char *run = l->rows[i].run;
        bool first = !page_row(p, &l->rows[i]);
        for (size_t j = 0; j < i && first; j++) first = page_row(p, &l->rows[j]) || strcmp(l->rows[j].run, run);
        if (!first) continue;
        any = true;
        if (*run) fprintf(p->out, "- Not produced by `%s` in this profile:", run);
        else fputs("- Decided by no run, the entry says why:", p->out);
        const char *before = "";
        for (size_t j = i; j < l->num_rows; j++) {
            const struct ledger_row *row = &l->rows[j];
            if (page_row(p, row) || strcmp(row->run, run)) continue;
            fprintf(p->out, "%s [%s](#%s) %s", before, row->claim, row->claim, row->row);
            before = ",";
        }
        fputs("\n", p->out);
    }
    return any;
}

static bool put_empty_entries(const struct page *p)
{
    const char *before = "- Entries without rows:";
    for (size_t i = 0; i < p->ledger->num_entries; i++) {
        if (p->ledger->entries[i].num_rows) continue;
        fprintf(p->out, "%s ", before);
        put_claim_link(p, p->ledger->entries[i].id);
        before = ",";
    }
    if (strcmp(before, ",")) return false;
    fputs("\n", p->out);
    return true;
}

void put_gaps(const struct page *p)
{
    fputs("\n# What is missing {#missing}\n\n", p->out);
    const bool tables = put_missing_tables(p), rows = put_missing_rows(p), entries = put_empty_entries(p);
    if (!tables && !rows && !entries) fputs("Nothing.\n", p->out);
}
