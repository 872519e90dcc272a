/* The history of a row, from docs/rules_history.md: what `make history` read from the commits of the ledger. */
#include "report/page.h"

#include <ctype.h>
#include <string.h>

enum { COMMIT, DATE, RULE, VERDICT, MEASURED, CHANGE, NUM_CELLS };

/* Cuts the cells of "| a | b |" from one line without writing to it. */
static bool split_line(const char *line, const char *end, const char *cell[NUM_CELLS], int len[NUM_CELLS])
{
    const char *at = line + 1;
    for (size_t i = 0; i < NUM_CELLS; i++) {
        const char *bar = memchr(at, '|', (size_t)(end - at));
        if (!bar) return false;
        const char *from = at, *to = bar;
        while (from < to && isspace((unsigned char)*from)) from++;
        while (to > from && isspace((unsigned char)to[-1])) to--;
        cell[i] = from;
        len[i] = (int)(to - from);
        at = bar + 1;
    }
    return true;
}

void put_history(const struct page *p, const struct ledger_row *row)
{
    char heading[160];
    snprintf(heading, sizeof heading, "\n## %s/%s\n", row->claim, row->row);
    const char *line = p->history ? strstr(p->history, heading) : NULL;
    if (!line) return;
    line += strlen(heading);
    bool first = true;
    for (const char *end; *line && strncmp(line, "## ", 3); line = end + (*end == '\n')) {
        const char *cell[NUM_CELLS];
        int len[NUM_CELLS];
        end = line + strcspn(line, "\n");
        if (*line != '|' || !strncmp(line, "|--", 3) || !strncmp(line, "| commit", 8) || !split_line(line, end, cell,
            len))
            continue;
        fprintf(p->out, "%s%.*s (%.*s)", first ? "**History.** " : "; ", len[DATE], cell[DATE], len[COMMIT],
                cell[COMMIT]);
        first = false;
        for (int c = RULE; c < NUM_CELLS; c++) {
            if (!len[c]) continue;
            char text[512];
            snprintf(text, sizeof text, "%.*s", len[c], cell[c]);
            fputs(c == RULE ? ": " : ", ", p->out);
            if (c == CHANGE) fputs(text, p->out);
            else put_mathematical(p, text);
        }
    }
    if (!first) fputs(".\n\n", p->out);
}
