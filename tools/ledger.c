/* Writes the columns `verdict` and `measured` of the ledger's tables from the rows
 * of a profile (verdicts.csv). Rows that the profile did not produce, and every
 * other line, stay as they are. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/atomic_file.h"
#include "cli/cli.h"
#include "cli/ledger.h"
#include "cli/text_file.h"
#include "cli/verdict_rows.h"

struct config {
    struct cli_common common;
    const char *results;
};

enum { OPT_RESULTS = 1 };

static const struct argp_option options[] = {
    { "results", OPT_RESULTS, "DIR", 0, "The results to take, where verdicts.csv is (required)", 0 },
    { "out", CLI_COMMON, "FILE", CLI_TABLE, "where the ledger goes (default -: standard output)", 0 },
    { "verdicts", CLI_COMMON, NULL, 0, NULL, 0 },
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    if (key != OPT_RESULTS) return ARGP_ERR_UNKNOWN;
    cfg->results = arg;
    return 0;
}

static const char *check(void *p)
{
    const struct config *cfg = p;
    if (!cfg->results) return "--results: required";
    if (!cfg->common.ledger) return "--ledger: required";
    return NULL;
}

static int rewrite(const struct config *cfg, const struct ledger *l, const struct verdict_rows *v, const char *text,
                   FILE *out)
{
    size_t line = 0, next_row = 0;
    while (*text) {
        line++;
        const size_t length = strcspn(text, "\n") + (text[strcspn(text, "\n")] == '\n');
        const struct ledger_row *row = next_row < l->num_rows && l->rows[next_row].line == line ? &l->rows[next_row++]
            : NULL;
        const struct verdict_row *r = row ? verdict_rows_find(v, row->claim, row->row) : NULL;
        if (r && strcmp(r->rule, row->rule))
            return cli_fail(&cfg->common, EXIT_FAILED,
                            "%s:%zu: %s %s was decided by \"%s\", not by the rule that stands there now",
                            cfg->common.ledger, line, row->claim, row->row, r->rule);
        if (r) {
            char measured[160];
            interval_format(r->measured, measured, sizeof measured);
            fprintf(out, "| %s | %s | %s | %s | %s | %s |\n", row->row, row->quantity, row->rule, r->verdict, measured,
                    row->run);
        } else {
            fwrite(text, 1, length, out);
        }
        text += length;
    }
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse(argc, argv, "Write verdicts and numbers of a profile into the ledger", options, parse, check,
              &cfg.common);
    char error[512], path[4096];
    snprintf(path, sizeof path, "%s/verdicts.csv", cfg.results);
    struct atomic_file *file = NULL;
    struct verdict_rows *v = NULL;
    struct ledger *l = ledger_read(cfg.common.ledger, error, sizeof error);
    char *text = l ? text_file_read(cfg.common.ledger) : NULL;
    int code = text ? EXIT_DATA : text_file_code();
    if (!text && l) snprintf(error, sizeof error, "%s: %s", cfg.common.ledger, strerror(errno));
    if (!text) { cli_fail(&cfg.common, code, "%s", error); goto done; }
    v = verdict_rows_read(path, error, sizeof error);
    if (!v) code = text_file_code();
    if (!v) { cli_fail(&cfg.common, code, "%s", error); goto done; }
    if (!v->num_rows) { cli_fail(&cfg.common, code, "%s: no verdicts", path); goto done; }
    if (atomic_file_open(cfg.common.out, &file, error, sizeof error)) {
        code = cli_fail(&cfg.common, EXIT_FAILED, "%s: %s", cfg.common.out, error);
        goto done;
    }
    code = rewrite(&cfg, l, v, text, atomic_file_stream(file));
    if (!code && atomic_file_commit(file, error, sizeof error))
        code = cli_fail(&cfg.common, EXIT_FAILED, "%s: %s", cfg.common.out, error);
    else if (code)
        atomic_file_discard(file);
done:
    verdict_rows_free(v);
    free(text);
    ledger_free(l);
    return code;
}
