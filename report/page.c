#include "report/page.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "cli/text_file.h"

bool page_has_file(const char *dir, const char *stem, const char *extension)
{
    char path[PAGE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s%s", dir, stem, extension);
    return !access(path, R_OK);
}

char *page_text(const struct page *p, const char *path)
{
    char *text = text_file_read(path);
    if (text || errno == ENOENT || p->failed->code) return text;
    const int error = errno;
    p->failed->code = text_file_code();
    snprintf(p->failed->line, sizeof p->failed->line, "%s: %s", path, strerror(error));
    return NULL;
}

void page_out_of_memory(const struct page *p)
{
    if (!p->failed->code) *p->failed = (struct page_failure){ EXIT_FAILED, "out of memory" };
}

size_t page_run_index(const struct page *p, const char *name)
{
    size_t i = 0;
    while (i < p->num_runs && strcmp(p->run[i], name)) i++;
    return i;
}

const struct verdict_row *page_row(const struct page *p, const struct ledger_row *row)
{
    const struct verdict_row *r = verdict_rows_find(p->verdicts, row->claim, row->row);
    return r && page_run_index(p, r->run) < p->num_runs ? r : NULL;
}

const char *page_verdict(const struct page *p, const struct ledger_row *row)
{
    const struct verdict_row *r = page_row(p, row);
    return r ? r->verdict : *row->run ? "no run" : "not tested";
}

bool verdict_is_decided(const char *verdict)
{
    return !strcmp(verdict, "supported") || !strcmp(verdict, "contradicted");
}

const char *const page_verdicts[NUM_VERDICTS] = { "supported", "contradicted", "inconclusive", "not tested", "no run" };

void page_count_verdicts(const struct page *p, size_t first, size_t num_rows, size_t counts[NUM_VERDICTS])
{
    for (size_t i = first; i < first + num_rows; i++)
        for (size_t k = 0; k < NUM_VERDICTS; k++)
            counts[k] += !strcmp(page_verdicts[k], page_verdict(p, &p->ledger->rows[i]));
}

void put_badge(const struct page *p, const char *text, const char *verdict)
{
    fprintf(p->out, "[%s]{.verdict .", text);
    for (const char *c = verdict; *c; c++) fputc(*c == ' ' ? '-' : *c, p->out);
    fputc('}', p->out);
}

void put_verdict(const struct page *p, const char *verdict) { put_badge(p, verdict, verdict); }

void put_mathematical(const struct page *p, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (!strncmp(c, "<=", 2)) { fputs("≤", p->out); c++; }
        else if (!strncmp(c, ">=", 2)) { fputs("≥", p->out); c++; }
        else if (*c == '-') fputs("−", p->out);
        else if (*c == '[' || *c == ']') fprintf(p->out, "\\%c", *c);
        else fputc(*c, p->out);
    }
}

void put_interval(const struct page *p, const char *text)
{
    char number[160];
    snprintf(number, sizeof number, "%s", text);
    char *interval = strchr(number, ' ');
    if (interval) *interval++ = '\0';
    fputc('[', p->out);
    put_mathematical(p, number);
    fputs("]{.number}", p->out);
    if (!interval) return;
    fputs(" [", p->out);
    put_mathematical(p, interval);
    fputs("]{.interval}", p->out);
}

void put_measured(const struct page *p, const struct ledger_row *row)
{
    const struct verdict_row *r = page_row(p, row);
    char text[160];
    if (!r) return;
    interval_format(r->measured, text, sizeof text);
    put_interval(p, text);
}

void put_rule(const struct page *p, const struct ledger_row *row)
{
    fputc('[', p->out);
    put_mathematical(p, row->rule);
    fputs("]{.number}", p->out);
}

void put_class(const struct page *p, const struct ledger_row *row)
{
    if (*row->same_claim) fprintf(p->out, "as [%s](#%s) %s", row->same_claim, row->same_claim, row->same_row);
    else fputs(row_class_name(row->class), p->out);
}

void put_adjusted(const struct page *p, size_t row_index)
{
    const double adjusted = p->tally->adjusted[row_index];
    if (!isnan(adjusted)) fprintf(p->out, "%.2g", adjusted);
}

void put_claim_link(const struct page *p, const char *claim) { fprintf(p->out, "[%s](#%s)", claim, claim); }

void put_markdown(const struct page *p, const char *text, const char *deeper)
{
    bool code = false;
    for (const char *line = text; *line;) {
        const size_t length = strcspn(line, "\n");
        if (!strncmp(line, "```", 3)) code = !code;
        if (!code && line[strspn(line, "#")] == ' ' && *line == '#') fputs(deeper, p->out);
        fprintf(p->out, "%.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
}
