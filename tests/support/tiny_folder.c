#include "tests/support/tiny_folder.h"
#include "tests/support/check.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny_models.h"

#include <stdio.h>
#include <stdlib.h>

const char *tiny_folder(void *state, const char *name, enum backbone_kind kind)
{
    char line[256] = "";
    const char *dir = scratch_path(state, name);
    if (tiny_backbone_write(dir, kind, (struct reason){ line, sizeof line })) fail_msg("%s", line);
    return dir;
}

char *tiny_folder_read(const char *dir, const char *name, size_t *size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long length = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)length + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)length, file), length);
    bytes[length] = '\0';
    fclose(file);
    if (size) *size = (size_t)length;
    return bytes;
}
