/* What programs about the kernels of a prefix share. */
#ifndef CLI_KERNELS_H
#define CLI_KERNELS_H
#include "cli/cli.h"
#include "prefix_ntk/ntk.h"

/* Names of enum prefix_signs and enum ntk_kernel, in order, NULL-terminated. */
extern const char *const cli_sign_names[];
extern const char *const cli_kernel_names[];

/* The run's name: --out without folder and extension, the program's when there is none. */
void cli_stem(const struct cli_common *cfg, char *stem, size_t size);

/* A number that changes with the contents, for a journal's identity. */
uint64_t cli_checksum(const gsl_matrix *M);

/* One line on stderr when two rows of X are equal: the limit kernels are singular. */
void cli_warn_duplicates(const struct cli_common *cfg, const gsl_matrix *X, const char *name);

/* The distinct values of list, ascending; the caller frees. Without memory it ends the run (cli_need). */
size_t *cli_sorted_sizes(const size_t *list, size_t count, size_t *num_distinct);
size_t cli_index_of(const size_t *sorted, size_t count, size_t value);

/* {x, x, x, n}: a number without sampling error. */
struct interval cli_exact(double x, size_t n);

#endif
