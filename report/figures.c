/* Figures, in the page itself, so that docs/figures.js can say what lies under the pointer. */
#include "report/page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/caption.h"

/* The lines of RUN.gp's leading comment from "# Caption:" on, numbers filled in from RUN.csv of `results`. */
static void put_caption(const struct page *p, const char *results, const char *run)
{
    char path[PAGE_PATH_SIZE], table[PAGE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s.gp", p->plots, run);
    snprintf(table, sizeof table, "%s/%s.csv", results, run);
    char *text = page_text(p, path);
    bool inside = false;
    for (char *line = text, *next; line && *line == '#'; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        line += strspn(line, "# \t");
        if (!strncmp(line, "Caption:", 8)) { inside = true; line += 8 + strspn(line + 8, " "); }
        if (!inside) continue;
        if (caption_put(line, table, p->out))
            cli_warn(p->common, "%s: the caption names a column that %s has not", path, table);
        fputc('\n', p->out);
    }
    free(text);
}

/* Length of the beginning of an id or of a reference to one at `at`, else 0: id='x', href='#x', url(#x). */
static size_t names_id(const char *at)
{
    static const char *const forms[] = { " id='", " id=\"", "href='#", "href=\"#", "url(#" };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (!strncmp(at, forms[i], strlen(forms[i]))) return strlen(forms[i]);
    return 0;
}

/* The <svg> element of a file. Gnuplot gives all figures the same ids, which one page must not have: they get the
 * figure's name. Without blank lines, which would end the block. */
static void put_svg(const struct page *p, const char *name, const char *text)
{
    const char *at = strstr(text, "<svg");
    if (!at) return;
    fprintf(p->out, "```{=html}\n<svg role=\"img\" aria-label=\"figure %s\"", name);
    for (at += strlen("<svg"); *at; at++) {
        const size_t form = names_id(at);
        if (form) {
            fprintf(p->out, "%.*s%s-", (int)form, at, name);
            at += form - 1;
        } else if (!(*at == '\n' && at[1] == '\n')) {
            fputc(*at, p->out);
        }
    }
    fputs("```\n", p->out);
}

/* A cell of a table: a number as people write it, a text as it is. */
static void put_cell(const struct page *p, const char *cell)
{
    char *end;
    const double number = strtod(cell, &end);
    if (*cell && !*end) fprintf(p->out, number >= 1e4 && number == floor(number) ? "| %.0f " : "| %.4g ", number);
    else fprintf(p->out, "| %s ", cell);
}

/* RUN_summary.csv, of runs that write one, as a table to copy. Its texts hold no commas. */
static void put_summary_table(const struct page *p, const char *results, const char *run)
{
    char path[PAGE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s_summary.csv", results, run);
    char *text = page_text(p, path), *lines = text, *line;
    if (!text) return;
    fprintf(p->out, "```{=html}\n<details><summary>The table of %s</summary>\n```\n\n::: rows\n", run);
    bool header = true;
    while ((line = strsep(&lines, "\n"))) {
        if (!*line || *line == '#') continue;
        size_t columns = 0;
        for (char *cell; (cell = strsep(&line, ",")); columns++) put_cell(p, cell);
        fputs("|\n", p->out);
        for (size_t i = 0; header && i < columns; i++) fputs(i ? "--:|" : "|:--|", p->out);
        if (header) fputc('\n', p->out);
        header = false;
    }
    fputs(":::\n\n```{=html}\n</details>\n```\n\n", p->out);
    free(text);
}

/* The figure FIGURES/RUN.svg under the name `id`, its caption and table from the tables of `results`. False when it was
 * not drawn. */
static bool put_drawn(const struct page *p, const char *figures, const char *results, const char *run, const char *id)
{
    char path[PAGE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s.svg", figures, run);
    char *svg = page_text(p, path);
    if (!svg) return false;
    fprintf(p->out, "\n:::: {.figure #fig-%s}\n", id);
    put_svg(p, id, svg);
    fprintf(p->out, "\n::: caption\n**%s.** ", id);
    put_caption(p, results, run);
    fputs(":::\n::::\n\n", p->out);
    put_summary_table(p, results, run);
    free(svg);
    return true;
}

void put_figure(struct page *p, size_t run)
{
    if (p->shown[run]) return;
    p->shown[run] = put_drawn(p, p->figures, p->results, p->run[run], p->run[run]);
}

void put_kept_figure(const struct page *p, const char *run)
{
    char figures[PAGE_PATH_SIZE], id[PAGE_PATH_SIZE];
    snprintf(figures, sizeof figures, "%s/full", p->figures);
    snprintf(id, sizeof id, "full-%s", run);
    if (!put_drawn(p, figures, p->kept, run, id)) put_summary_table(p, p->kept, run);
}
