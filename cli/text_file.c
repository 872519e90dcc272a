#include "cli/text_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *text_file_read(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *text = NULL;
    size_t used = 0, room = 0, got;
    int error = 0;
    do {
        if (used + 1 >= room) {
            room = room ? 2 * room : 1 << 14;
            char *more = realloc(text, room);
            if (!more) { error = ENOMEM; break; }
            text = more;
        }
        errno = 0;
        got = fread(text + used, 1, room - used - 1, f);
        used += got;
    } while (got);
    if (!error && ferror(f)) error = errno ? errno : EIO;
    if (!error && memchr(text, '\0', used)) error = EINVAL;
    fclose(f);
    if (error) {
        free(text);
        errno = error;
        return NULL;
    }
    text[used] = '\0';
    return text;
}
