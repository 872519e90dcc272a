/* A prefix given as files. */
#ifndef CLI_PREFIX_FILES_H
#define CLI_PREFIX_FILES_H
#include "cli/cli.h"

/* Tokens W (m, dim) of `path` and their signs (m), each 1 or -1, of `sign_path`; all 1
 * when that is NULL. The caller frees. Exit code, the line printed. */
int cli_read_prefix(const struct cli_common *cfg, const char *path, const char *sign_path, size_t dim,
                    gsl_matrix **W, gsl_vector **signs);

#endif
