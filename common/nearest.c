#include "common/nearest.h"

#include <string.h>

enum { MAX_NAME = 64 };

/* Number of letters inserted, removed, replaced or swapped with their neighbour that
 * turns a into b (optimal string alignment); both at most MAX_NAME long. */
static size_t edits_between(const char *a, size_t len_a, const char *b, size_t len_b)
{
    static _Thread_local size_t cost[MAX_NAME + 1][MAX_NAME + 1];
    for (size_t i = 0; i <= len_a; i++)
        for (size_t j = 0; j <= len_b; j++) {
            if (i == 0 || j == 0) {
                cost[i][j] = i + j;
                continue;
            }
            size_t least = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (cost[i - 1][j] + 1 < least) least = cost[i - 1][j] + 1;
            if (cost[i][j - 1] + 1 < least) least = cost[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && cost[i - 2][j - 2] + 1 < least)
                least = cost[i - 2][j - 2] + 1;
            cost[i][j] = least;
        }
    return cost[len_a][len_b];
}

struct nearest nearest_start(const char *word, size_t len)
{
    return (struct nearest){ .word = word, .len = len, .edits = (len + 2) / 3 };
}

void nearest_try(struct nearest *near, const char *name)
{
    const size_t len = strlen(name);
    if (len > MAX_NAME || near->len > MAX_NAME || near->len < 2) return;
    const size_t edits = edits_between(near->word, near->len, name, len);
    if (near->name ? edits >= near->edits : edits > near->edits) return;
    near->edits = edits;
    near->name = name;
}
