#include "cli/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static void write_usage(void)
{
    struct rusage own, children;
    FILE *file = fopen(getenv("PREFIX_NTK_USAGE"), "w");
    if (!file) return;
    if (!getrusage(RUSAGE_SELF, &own) && !getrusage(RUSAGE_CHILDREN, &children)) {
        const long kib = own.ru_maxrss > children.ru_maxrss ? own.ru_maxrss : children.ru_maxrss;
        fprintf(file, "%ld\n", 1024 * kib);
    }
    fclose(file);
}

void usage_at_exit(void)
{
    const char *path = getenv("PREFIX_NTK_USAGE");
    if (path && *path) atexit(write_usage);
}
