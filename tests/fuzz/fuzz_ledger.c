#include "cli/ledger.h"
#include "cli/verdict_rows.h"
#include "tests/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

static const char ledger[] =
    "# A\n## B\n### T2. Title\n**Source.** ours\n| row | quantity | rule | verdict | measured | run "
    "|\n|---|---|---|---|---|---|\n"
    "| a | $\\|x\\|$ | in [0, 1] | supported | 0.5 | run |\n| b | q | <= 1 |  |  |  |\n";
static const char rows[] =
    "claim,row,quantity,rule,value,ci_lo,ci_hi,n,verdict,source,program,figure\n"
    "T2,a,\"x, \"\"y\"\"\",\"in [0, 1]\",0.5,0.4,0.6,3,supported,ours,p,run.svg\nT2,b,q,<= 1,,,,,not "
    "tested,ours,p,run.svg\n";

const struct fuzz_seed fuzz_seeds[] = { { ledger, sizeof ledger - 1 }, { rows, sizeof rows - 1 } };
const size_t fuzz_num_seeds = 2;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char error[64];
    struct ledger *l = ledger_read(fuzz_file(bytes, size), error, sizeof error);
    for (size_t i = 0; l && i < l->num_entries; i++) {
        const struct ledger_entry *e = &l->entries[i];
        if (e->first_row + e->num_rows > l->num_rows || strlen(e->text) > size || ledger_entry(l, e->id) != e) abort();
    }
    for (size_t i = 0; l && i < l->num_rows; i++)
        if (ledger_find(l, l->rows[i].claim, l->rows[i].row) != &l->rows[i]) abort();
    ledger_free(l);
    struct verdict_rows *v = verdict_rows_read(fuzz_file(bytes, size), error, sizeof error);
    for (size_t i = 0; v && i < v->num_rows; i++) {
        char text[160];
        interval_format(v->rows[i].measured, text, sizeof text);
        if (verdict_rows_find(v, v->rows[i].claim, v->rows[i].row) != &v->rows[i]) abort();
    }
    verdict_rows_free(v);
    return 0;
}
