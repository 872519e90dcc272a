#include "cli/text_file.h"

#include "cli/outputs.h"
#include "common/input_file.h"

#include <errno.h>
#include <gsl/gsl_errno.h>
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

int text_file_code(void)
{
    return input_file_status(errno) == GSL_EFAILED ? EXIT_DATA : EXIT_FAILED;
}

int text_file_input(const struct cli_common *cfg, const char *path, size_t most, char **text, size_t *len)
{
    char why[256];
    unsigned char *bytes;
    const int status = input_file_whole(path, &bytes, len, (struct reason){ why, sizeof why });
    *text = (char *)bytes;
    if (status) return cli_bad_input(cfg, status, path, why);
    return *len > most ? cli_fail(cfg, EXIT_DATA, "%s: %zu bytes of text", path, *len) : EXIT_DONE;
}

int text_file_write_ids(const struct cli_common *cfg, const char *path, const int32_t *ids, const size_t *offsets,
                        size_t count)
{
    char why[256];
    struct atomic_file *file;
    if (atomic_file_open(path, &file, why, sizeof why)) return cli_fail(cfg, EXIT_FAILED, "%s: %s", path, why);
    FILE *stream = atomic_file_stream(file);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = offsets[i]; j < offsets[i + 1]; j++) fprintf(stream, j > offsets[i] ? ",%d" : "%d", ids[j]);
        fputc('\n', stream);
    }
    return outputs_finish(cfg, path, file, -1);
}
