/* What the rows of a profile are worth together: how many of each class, how often an interval misses by
 * chance, and the verdicts that stand when all rows are decided at once. */
#ifndef CLI_TALLY_H
#define CLI_TALLY_H
#include <stddef.h>
#include "cli/ledger.h"
#include "cli/verdict_rows.h"

/* The level of every interval in a verdict table, and the rate at which one false verdict among all
 * is allowed where they are adjusted. */
static const double VERDICT_LEVEL = 0.999, FAMILY_RATE = 0.05;

struct tally {
    size_t by_class[NUM_ROW_CLASSES];  /* rows of the ledger that a run decides, those measured twice left out */
    size_t duplicates;         /* rows that measure what another row measures */
    size_t intervals;          /* measured rows with an interval of their own: neither exact nor duplicates */
    double miss_chance;        /* that one of these intervals or more misses its quantity, were they independent */
    size_t decided, standing;  /* of these, decided at the level; decided after Holm's adjustment */
    double *adjusted;          /* by row of the ledger: the adjusted p-value, NaN where there is none */
};

/* Of the rows whose run is in the comma-separated list (NULL: of all). NULL when out of memory; the caller frees with
 * tally_free. */
struct tally *tally_make(const struct ledger *l, const struct verdict_rows *v, const char *runs);
void tally_free(struct tally *t);

/* "supported" and the like as it stands after adjustment, for row i of the ledger with this verdict. */
const char *tally_adjusted_verdict(const struct tally *t, size_t i, const char *verdict);

#endif
