#include "cli/csv_record.h"

#include <stdint.h>
#include <string.h>

char *csv_record_split(char *p, char **cell, size_t max, size_t *cells)
{
    size_t n = 0;
    for (;;) {
        char *to = p, *start = p;
        if (*p == '"') {
            for (p++; *p && !(*p == '"' && p[1] != '"'); p++) {
                if (*p == '"') p++;
                *to++ = *p;
            }
            if (!*p) { *cells = SIZE_MAX; return NULL; }
            p++;
        } else {
            to = p += strcspn(p, ",\n");
        }
        const char after = *p;
        *to = '\0';
        if (n < max) cell[n] = start;
        n++;
        if (after == ',') { p++; continue; }
        *cells = n;
        if (after == '\n') return p[1] ? p + 1 : NULL;
        if (after) *cells = SIZE_MAX;   /* text behind a closing quote */
        return NULL;
    }
}
