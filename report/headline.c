/* One verdict per claim, in the polarity of its sentence. The rows that say what the sentence says are named in the
 * entry,
 *
 *   **Headline.** `row`, `row`.
 *
 * and are all of its rows where it names none. */
#include "report/page.h"

#include <string.h>

/* Where the Headline of an entry begins, NULL when it has none; *end is where its paragraph ends. */
static const char *headline_text(const struct ledger_entry *e, const char **end)
{
    static const char mark[] = "**Headline.**";
    const char *text = strstr(e->text, mark);
    if (!text) return NULL;
    text += sizeof mark - 1;
    *end = strstr(text, "\n\n");
    if (!*end) *end = text + strlen(text);
    return text;
}

/* The next `name` of the paragraph: its first letter and its length; NULL after the last. */
static const char *next_name(const char *text, const char *end, size_t *len)
{
    const char *open = memchr(text, '`', (size_t)(end - text));
    const char *close = open ? memchr(open + 1, '`', (size_t)(end - open - 1)) : NULL;
    if (!close) return NULL;
    *len = (size_t)(close - open - 1);
    return open + 1;
}

static bool is_named(const struct ledger_entry *e, const char *row)
{
    const char *end, *text = headline_text(e, &end);
    size_t len;
    if (!text) return true;
    while ((text = next_name(text, end, &len))) {
        if (strlen(row) == len && !strncmp(row, text, len)) return true;
        text += len + 1;
    }
    return false;
}

int headlines_check(const struct ledger *l, char *why, size_t size)
{
    for (size_t i = 0; i < l->num_entries; i++) {
        const struct ledger_entry *e = &l->entries[i];
        const char *end, *text = headline_text(e, &end);
        size_t len;
        while (text && (text = next_name(text, end, &len))) {
            bool known = false;
            for (size_t r = e->first_row; r < e->first_row + e->num_rows; r++)
                known = known || (strlen(l->rows[r].row) == len && !strncmp(l->rows[r].row, text, len));
            if (!known) {
                snprintf(why, size, "the Headline of %s names a row it does not have: %.*s", e->id, (int)len, text);
                return -1;
            }
            text += len + 1;
        }
    }
    return 0;
}

void put_headline(const struct page *p, const struct ledger_entry *e)
{
    size_t rows = 0, supported = 0, contradicted = 0, inconclusive = 0;
    for (size_t i = e->first_row; i < e->first_row + e->num_rows; i++) {
        const struct ledger_row *row = &p->ledger->rows[i];
        if (!is_named(e, row->row)) continue;
        const char *verdict = page_verdict(p, row);
        rows++;
        supported += !strcmp(verdict, "supported");
        contradicted += !strcmp(verdict, "contradicted");
        inconclusive += !strcmp(verdict, "inconclusive");
    }
    if (!rows) put_badge(p, "not tested", "not tested");
    else if (supported == rows) put_badge(p, "holds", "supported");
    else if (supported && !contradicted) put_badge(p, "holds as far as decided", "supported");
    else if (supported) put_badge(p, "holds in part", "inconclusive");
    else if (contradicted) put_badge(p, "does not hold", "contradicted");
    else if (inconclusive) put_badge(p, "undecided", "inconclusive");
    else put_badge(p, "not tested", "not tested");
}

/* The entry's Statement, on one line of a table, where a bar would end the cell. */
static void put_statement(const struct page *p, const struct ledger_entry *e)
{
    static const char mark[] = "**Statement.**";
    const char *text = strstr(e->text, mark);
    if (!text) return;
    text += sizeof mark - 1;
    text += strspn(text, " \n");
    for (bool math = false; *text && strncmp(text, "\n\n", 2); text++) {
        if (*text == '$') math = !math;
        if (*text == '\n') fputc(' ', p->out);
        else if (*text == '|' && text[-1] != '\\') fputs(math ? "\\vert " : "\\|", p->out);
        else fputc(*text, p->out);
    }
}

/* The rows by verdict: "4 supported, 2 contradicted". */
static void put_counts(const struct page *p, const struct ledger_entry *e)
{
    size_t counts[NUM_VERDICTS] = { 0 };
    const char *before = "";
    page_count_verdicts(p, e->first_row, e->num_rows, counts);
    for (size_t k = 0; k < NUM_VERDICTS; k++) {
        if (!counts[k]) continue;
        fprintf(p->out, "%s%zu %s", before, counts[k], page_verdicts[k]);
        before = ", ";
    }
}

void put_headline_table(const struct page *p, bool ours)
{
    fprintf(p->out, "::: {.rows .headlines}\n| claim | %s | verdict | rows |\n|:--|:--|:--|:--|\n",
            ours ? "what we found" : "what the paper says");
    for (size_t i = 0; i < p->ledger->num_entries; i++) {
        const struct ledger_entry *e = &p->ledger->entries[i];
        if ((*e->id == 'F') != ours) continue;
        fputs("| ", p->out);
        put_claim_link(p, e->id);
        fputs(" | ", p->out);
        put_statement(p, e);
        fputs(" | ", p->out);
        put_headline(p, e);
        fputs(" | ", p->out);
        put_counts(p, e);
        fputs(" |\n", p->out);
    }
    fputs(":::\n\n", p->out);
}
