/* Within cli: what becomes of a finished output. */
#ifndef CLI_OUTPUTS_H
#define CLI_OUTPUTS_H
#include "cli/cli.h"
#include "common/atomic_file.h"

/* Takes over a file that has been written, and the descriptor `lock` (-1: none) to be
 * closed after it: atomic_file_finish. Exit code, the line printed. */
int outputs_finish(const struct cli_common *cfg, const char *path, struct atomic_file *file, int lock);

/* The option `name` has the output `path`, a table or other text if `is_text`; for cli_parse. A second
 * output of that name is a usage error: the line is returned, else NULL. */
const char *outputs_declare(const char *name, const char *path, bool is_text);

/* Whether every declared output can be written. Exit code, the line printed. */
int outputs_check(const struct cli_common *cfg);

/* Waits until no other program has PATH.lock; a descriptor that holds it, or -1. */
int verdicts_lock(const char *path);

#endif
