#include "tests/support/scratch.h"
#include "tests/support/check.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Paths handed out, freed with the folder. */
struct scratch { char folder[64]; char **paths; size_t count; };

int scratch_setup(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    if (!s) return -1;
    strcpy(s->folder, "/tmp/prefix-ntk-test.XXXXXX");
    if (!mkdtemp(s->folder)) {
        free(s);
        return -1;
    }
    *state = s;
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

int scratch_teardown(void **state)
{
    struct scratch *s = *state;
    const int status = nftw(s->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    for (size_t i = 0; i < s->count; i++) free(s->paths[i]);
    free(s->paths);
    free(s);
    return status;
}

const char *scratch_path(void *state, const char *name)
{
    struct scratch *s = state;
    char *path, **paths = realloc(s->paths, (s->count + 1) * sizeof *paths);
    assert_non_null(paths);
    s->paths = paths;
    assert_true(asprintf(&path, "%s/%s", s->folder, name) > 0);
    return s->paths[s->count++] = path;
}

const char *scratch_file(void *state, const char *name, const char *text)
{
    const char *path = scratch_path(state, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    return path;
}

int scratch_count(void *state)
{
    const struct scratch *s = state;
    DIR *folder = opendir(s->folder);
    assert_non_null(folder);
    int count = 0;
    for (const struct dirent *entry; (entry = readdir(folder));)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(folder);
    return count;
}
