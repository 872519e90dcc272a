/* Small text files as strings. */
#ifndef CLI_TEXT_FILE_H
#define CLI_TEXT_FILE_H
#include "cli/cli.h"

/* The whole file, NUL-terminated; the caller frees it. NULL with errno set when it
 * cannot be read, EINVAL when it holds a NUL. */
char *text_file_read(const char *path);

/* Exit code of a reader on top of it that has just failed, by errno: EXIT_FAILED where memory or the system did, else
 * EXIT_DATA. */
int text_file_code(void);

/* A user's text whole, NUL-terminated, of at most `most` bytes; the caller frees it, also after an error. It may hold
 * NULs. Exit code, the line printed. */
int text_file_input(const struct cli_common *cfg, const char *path, size_t most, char **text, size_t *len);

/* An output of ids: row i of CSV is ids[offsets[i]] to ids[offsets[i + 1]]. Exit code, the line printed. */
int text_file_write_ids(const struct cli_common *cfg, const char *path, const int32_t *ids, const size_t *offsets,
                        size_t count);

#endif
