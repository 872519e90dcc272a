/* The paragraph "Class." of an entry of the ledger; for cli/ledger.c alone. */
#ifndef CLI_LEDGER_CLASSES_H
#define CLI_LEDGER_CLASSES_H
#include <stddef.h>
#include "cli/ledger.h"

/* Sets class, same_claim and same_row of the rows that the entry's text names; an entry
 * without the paragraph keeps what is there. Returns 0, or -1 with what is wrong in `why`. */
int ledger_classes_read(struct ledger *l, const struct ledger_entry *e, char *why, size_t size);

#endif
