#include "data/folder.h"

#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Replaces `folder` by NAME in a place given relative to the program's folder, if that exists. */
static bool beside_program(const char *place, const char *name, char folder[PATH_MAX])
{
    char program[PATH_MAX], beside[PATH_MAX];
    const ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len <= 0) return false;
    program[len] = '\0';
    const int size = snprintf(beside, sizeof beside, "%s/%s/%s", dirname(program), place, name);
    if (size <= 0 || (size_t)size >= sizeof beside || access(beside, R_OK)) return false;
    memcpy(folder, beside, (size_t)size + 1);
    return true;
}

void data_folder(const char *name, char folder[PATH_MAX])
{
    const char *named = getenv("PREFIX_NTK_DATA");
    snprintf(folder, PATH_MAX, "%s/%s", named && *named ? named : "data/cache", name);
    if ((named && *named) || !access(folder, R_OK)) return;
    beside_program("../../data/cache", name, folder);
}

void data_committed(const char *name, char folder[PATH_MAX])
{
    snprintf(folder, PATH_MAX, "data/backbones/%s", name);
    if (access(folder, R_OK) && !beside_program("../../data/backbones", name, folder))
        beside_program("../share/prefix_ntk/backbones", name, folder);
}
