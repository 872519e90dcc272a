#include "data/folder.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* PLACE/NAME below the working folder, or beside the build when only that exists. */
static void find(const char *place, const char *name, char folder[PATH_MAX])
{
    char program[PATH_MAX], beside[PATH_MAX];
    const ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    snprintf(folder, PATH_MAX, "%s/%s", place, name);
    if (len <= 0 || !access(folder, R_OK)) return;
    program[len] = '\0';
    const int size = snprintf(beside, sizeof beside, "%s/../../%s/%s", dirname(program), place, name);
    if (size > 0 && (size_t)size < sizeof beside && !access(beside, R_OK)) memcpy(folder, beside, (size_t)size + 1);
}

void data_folder(const char *name, char folder[PATH_MAX])
{
    const char *named = getenv("PREFIX_NTK_DATA");
    if (named && *named) snprintf(folder, PATH_MAX, "%s/%s", named, name);
    else find("data/cache", name, folder);
}

void data_committed(const char *name, char folder[PATH_MAX])
{
    find("data/backbones", name, folder);
}
