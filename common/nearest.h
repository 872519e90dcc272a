/* The name that a mistyped word was probably meant to be. */
#ifndef COMMON_NEAREST_H
#define COMMON_NEAREST_H
#include <stddef.h>

struct nearest {
    const char *word;
    size_t len, edits;         /* edits: more than this many and it is another word */
    const char *name;          /* the nearest tried so far, or NULL when none is near */
};

/* A word of `len` bytes, which must outlive the search. Up to a third of its letters
 * may be wrong, missing, superfluous or swapped with the next. */
struct nearest nearest_start(const char *word, size_t len);
/* Considers a name; of two equally near the first is kept. */
void nearest_try(struct nearest *near, const char *name);

#endif
