/* The report of a profile as one Markdown page for pandoc; its parts are in report/. */
#include <errno.h>
#include <gsl/gsl_errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/atomic_file.h"
#include "cli/cli.h"
#include "cli/text_file.h"
#include "data/json_file.h"
#include "prefix_ntk/version.h"
#include "report/page.h"

struct config {
    struct cli_common common;
    const char *results, *figures, *plots, *explore, *history, *appendix, *runs, *kept;
};

enum { OPT_RESULTS = 1, OPT_FIGURES, OPT_PLOTS, OPT_EXPLORE, OPT_HISTORY, OPT_APPENDIX, OPT_RUNS, OPT_KEPT };

static const struct argp_option options[] = {
    { "results", OPT_RESULTS, "DIR", 0, "The profile's results, where verdicts.csv and the tables are (required)", 0 },
    { "figures", OPT_FIGURES, "DIR", 0, "The profile's figures, RUN.svg (required)", 0 },
    { "plots", OPT_PLOTS, "DIR", 0, "The plot scripts, RUN.gp, whose captions are used (required)", 0 },
    { "explore", OPT_EXPLORE, "FILE", 0, "Markdown to put after the verdicts (none)", 0 },
    { "history", OPT_HISTORY, "FILE", 0, "The history of the rules, docs/rules_history.md (none)", 0 },
    { "appendix", OPT_APPENDIX, "FILE", 0, "Markdown to put at the end (none)", 0 },
    { "runs", OPT_RUNS, "A,B,..", 0, "The runs of the profile (none)", 0 },
    { "kept", OPT_KEPT, "DIR", 0, "Tables of the full profile that the repository keeps, expected/full (none)", 0 },
    { "out", CLI_COMMON, "FILE", CLI_TABLE, "where the page goes (default -: standard output)", 0 },
    { "verdicts", CLI_COMMON, NULL, 0, NULL, 0 },
    { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct config *cfg = state->input;
    switch (key) {
    case OPT_RESULTS: cfg->results = arg; return 0;
    case OPT_FIGURES: cfg->figures = arg; return 0;
    case OPT_PLOTS: cfg->plots = arg; return 0;
    case OPT_EXPLORE: cfg->explore = arg; return 0;
    case OPT_HISTORY: cfg->history = arg; return 0;
    case OPT_APPENDIX: cfg->appendix = arg; return 0;
    case OPT_RUNS: cfg->runs = arg; return 0;
    case OPT_KEPT: cfg->kept = arg; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const char *check(void *p)
{
    const struct config *cfg = p;
    if (!cfg->results) return "--results: required";
    if (!cfg->figures) return "--figures: required";
    if (!cfg->plots) return "--plots: required";
    if (!cfg->common.ledger) return "--ledger: required";
    return NULL;
}

/* Everything the page is made of; freed whatever it holds. */
struct material {
    struct ledger *ledger;
    struct verdict_rows *verdicts, *kept;
    struct tally *tally;
    char *run_names, *explore, *history, *appendix;     /* texts; NULL where none was asked for */
    struct page page;
    struct page_failure failed;
};

static void material_free(struct material *m)
{
    json_decref(m->page.provenance);
    tally_free(m->tally);
    verdict_rows_free(m->verdicts);
    verdict_rows_free(m->kept);
    ledger_free(m->ledger);
    free(m->run_names);
    free(m->explore);
    free(m->history);
    free(m->appendix);
}

static int read_text(const struct config *cfg, const char *path, char **text)
{
    if (!path || (*text = text_file_read(path))) return EXIT_DONE;
    const int error = errno, code = text_file_code();
    return cli_fail(&cfg->common, code, "%s: %s", path, strerror(error));
}

static int read_runs(const struct config *cfg, struct material *m)
{
    m->run_names = strdup(cfg->runs ? cfg->runs : "");
    if (!m->run_names) return cli_fail(&cfg->common, EXIT_FAILED, "out of memory");
    for (char *name = strtok(m->run_names, ","); name; name = strtok(NULL, ",")) {
        if (m->page.num_runs == PAGE_MAX_RUNS)
            return cli_fail(&cfg->common, EXIT_USAGE, "--runs: more than %d", (int)PAGE_MAX_RUNS);
        m->page.run[m->page.num_runs++] = name;
    }
    return EXIT_DONE;
}

static int read_material(const struct config *cfg, struct material *m)
{
    char error[512], path[PAGE_PATH_SIZE];
    snprintf(path, sizeof path, "%s/verdicts.csv", cfg->results);
    m->ledger = ledger_read(cfg->common.ledger, error, sizeof error);
    m->verdicts = m->ledger ? verdict_rows_read(path, error, sizeof error) : NULL;
    if (!m->verdicts) return cli_fail(&cfg->common, text_file_code(), "%s", error);
    if (headlines_check(m->ledger, error, sizeof error))
        return cli_fail(&cfg->common, EXIT_DATA, "%s: %s", cfg->common.ledger, error);
    m->tally = tally_make(m->ledger, m->verdicts, cfg->runs ? cfg->runs : "");
    if (!m->tally) return cli_fail(&cfg->common, EXIT_FAILED, "out of memory");
    int code = read_runs(cfg, m);
    if (!code) code = read_text(cfg, cfg->explore, &m->explore);
    if (!code) code = read_text(cfg, cfg->history, &m->history);
    if (!code) code = read_text(cfg, cfg->appendix, &m->appendix);
    if (!code && cfg->kept) {
        snprintf(path, sizeof path, "%s/verdicts.csv", cfg->kept);
        m->kept = verdict_rows_read(path, error, sizeof error);
        if (!m->kept) code = cli_fail(&cfg->common, text_file_code(), "%s", error);
    }
    snprintf(path, sizeof path, "%s/provenance.json", cfg->results);
    struct page *p = &m->page;
    p->common = &cfg->common;
    p->failed = &m->failed;
    p->profile = cfg->common.profile;
    p->results = cfg->results;
    p->figures = cfg->figures;
    p->plots = cfg->plots;
    p->ledger = m->ledger;
    p->verdicts = m->verdicts;
    p->tally = m->tally;
    p->history = m->history;
    p->kept = cfg->kept;
    p->kept_verdicts = m->kept;
    /* A page may do without. */
    char line[256];
    const int status = json_file_read(path, &p->provenance, (struct reason){ line, sizeof line });
    if (!code && status && status != GSL_EFAILED) code = cli_bad_input(&cfg->common, status, path, line);
    return code;
}

static void put_page(struct material *m)
{
    struct page *p = &m->page;
    const char *started = json_string_value(json_object_get(p->provenance, "started"));
    fprintf(p->out, "---\ntitle: \"Toward(s) Infinite-Long Prefix in Transformer: a reproduction\"\n"
            "subtitle: \"arXiv:2406.14036, measured: what holds, what does not, what to use. "
            "prefix-ntk %s, %s profile%s%.10s\"\nlang: en\n---\n\n",
            PREFIX_NTK_VERSION, p->profile, started ? ", " : "", started ? started : "");
    put_answer(p);
    fputs("A prefix is a number $m$ of trainable tokens put before the input of an attention layer. The paper says "
          "that "
          "as $m$ grows training becomes linear in the prefix's neural tangent kernel, and that a small summary $(Z, "
          "k)$, "
          "NTK-Attention, can stand in for it. Every number here is measured; the rules stand in the ledger, "
          "`paper_notes.md`.\n\n", p->out);
    if (strcmp(p->profile, "default"))
        fprintf(p->out, "::: note\nThis is the **%s** profile. The ledger's verdicts are those of the default profile "
                "(`make reproduce`).\n:::\n\n", p->profile);
    put_readers(p);
    put_verdict_table(p);
    if (m->explore) put_markdown(p, m->explore, "");
    put_entries(p);
    put_kept(p);
    put_gaps(p);
    put_provenance(p);
    if (!m->appendix) return;
    fputs("\n# Appendix {#appendix}\n\n", p->out);
    put_markdown(p, m->appendix, "#");
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    cli_parse(argc, argv, "Write the report of a profile as Markdown for pandoc", options, parse, check, &cfg.common);
    static struct material m;
    char error[512];
    struct atomic_file *file = NULL;
    int code = read_material(&cfg, &m);
    if (!code && atomic_file_open(cfg.common.out, &file, error, sizeof error))
        code = cli_fail(&cfg.common, EXIT_FAILED, "%s: %s", cfg.common.out, error);
    if (!code) {
        m.page.out = atomic_file_stream(file);
        put_page(&m);
        if (m.failed.code) {
            atomic_file_discard(file);
            code = cli_fail(&cfg.common, m.failed.code, "%s", m.failed.line);
        } else if (atomic_file_commit(file, error, sizeof error))
            code = cli_fail(&cfg.common, EXIT_FAILED, "%s: %s", cfg.common.out, error);
    }
    material_free(&m);
    return code;
}
