#include "cli/tally.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/multiplicity.h"

static bool is_decided(const char *verdict)
{
    return !strcmp(verdict, verdict_name(VERDICT_SUPPORTED)) || !strcmp(verdict, verdict_name(VERDICT_CONTRADICTED));
}

/* Of row i of the ledger, when it has an interval of its own; NULL otherwise. */
static const struct verdict_row *interval_of(const struct ledger *l, size_t i, const struct verdict_rows *v,
                                             const char *runs)
{
    const struct ledger_row *row = &l->rows[i];
    if (row->class == ROW_EXACT || *row->same_claim) return NULL;
    const struct verdict_row *r = verdict_rows_find(v, row->claim, row->row);
    return r && isfinite(r->measured.value) && run_is_listed(runs, r->run) ? r : NULL;
}

struct tally *tally_make(const struct ledger *l, const struct verdict_rows *v, const char *runs)
{
    struct tally *t = calloc(1, sizeof *t);
    double *p = malloc((l->num_rows ? l->num_rows : 1) * sizeof *p);
    size_t *index = malloc((l->num_rows ? l->num_rows : 1) * sizeof *index);
    if (t) t->adjusted = malloc((l->num_rows ? l->num_rows : 1) * sizeof *t->adjusted);
    bool failed = !t || !t->adjusted || !p || !index;
    for (size_t i = 0; i < l->num_rows && !failed; i++) {
        const struct ledger_row *row = &l->rows[i];
        t->adjusted[i] = NAN;
        if (*row->same_claim) t->duplicates++;
        else if (*row->run) t->by_class[row->class]++;
        const struct verdict_row *r = interval_of(l, i, v, runs);
        struct margin margin;
        if (!r || margin_parse(r->rule, &margin)) continue;
        p[t->intervals] = verdict_p_value(r->measured, VERDICT_LEVEL, margin);
        index[t->intervals++] = i;
        t->decided += is_decided(r->verdict);
    }
    failed = failed || holm_adjust(p, t->intervals, p);
    for (size_t k = 0; !failed && k < t->intervals; k++) {
        t->adjusted[index[k]] = p[k];
        const struct ledger_row *row = &l->rows[index[k]];
        const char *verdict = verdict_rows_find(v, row->claim, row->row)->verdict;
        t->standing += is_decided(verdict) && p[k] <= FAMILY_RATE;
    }
    if (!failed) t->miss_chance = 1.0 - pow(VERDICT_LEVEL, (double)t->intervals);
    free(p);
    free(index);
    if (!failed) return t;
    tally_free(t);
    return NULL;
}

void tally_free(struct tally *t)
{
    if (!t) return;
    free(t->adjusted);
    free(t);
}

const char *tally_adjusted_verdict(const struct tally *t, size_t i, const char *verdict)
{
    return is_decided(verdict) && t->adjusted[i] > FAMILY_RATE ? verdict_name(VERDICT_INCONCLUSIVE) : verdict;
}
