/* Folders as outputs. */
#ifndef CLI_FOLDER_H
#define CLI_FOLDER_H
#include "cli/cli.h"

struct folder { const char *path; int lock; bool made; };

/* Before any work: whether `path` can be made, or written into; nothing stays changed. Exit code, the line printed. */
int folder_check(const struct cli_common *cfg, const char *path);

/* Makes the folder if it is not there and keeps every other process out that opens it so. Exit code, the line
 * printed; close it either way. `path` must outlive it. */
int folder_open(const struct cli_common *cfg, const char *path, struct folder *out);

/* With a code other than 0 a folder that was made here goes again, unless something lies in it. Accepts a zeroed
 * folder. */
void folder_close(struct folder *folder, int code);

#endif
