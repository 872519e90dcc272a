/* What programs about the kernels of a prefix share. */
#ifndef CLI_KERNELS_H
#define CLI_KERNELS_H
#include "cli/option_table.h"
#include "prefix_ntk/ntk.h"

/* Names of enum prefix_signs and enum ntk_kernel, in order, NULL-terminated. */
extern const char *const cli_sign_names[];
extern const char *const cli_kernel_names[];

/* Options of programs about a prefix, for a table; members sigma, laws and num_laws of the config `type`. */
#define KERNEL_SIGMA(type, standard)                                                                                   \
    { "sigma", CLI_DOUBLE(type, sigma), .value = standard, .arg = "S", .group = 1,                                     \
      .doc = "standard deviation of a token's entries" }
#define KERNEL_SIGNS(type, standard)                                                                                   \
    { "signs", CLI_CHOICES(type, laws, num_laws), .names = cli_sign_names, .value = standard, .group = 1,              \
      .doc = "random, positive, mirrored" }
/* A grid of problems: members num_samples and num_ns, dims and num_dims, sigmas and num_sigmas. */
#define KERNEL_GRID(type, samples, dimensions, deviations)                                                             \
    { "num-samples", CLI_SIZES(type, num_samples, num_ns), .min = 1, .max = 64, .value = samples, .group = 1,          \
      .doc = "numbers of samples n" },                                                                                 \
    { "dim", CLI_SIZES(type, dims, num_dims), .min = 1, .max = 64, .value = dimensions, .group = 1,                    \
      .doc = "dimensions d" },                                                                                         \
    { "sigma", CLI_DOUBLES(type, sigmas, num_sigmas), .value = deviations, .group = 1,                                 \
      .doc = "standard deviations of a token's entries" }

/* The run's name: --out without folder and extension, the program's when there is none. */
void cli_stem(const struct cli_common *cfg, char *stem, size_t size);

/* ||A||_F; rows without gaps. */
double cli_frobenius(const gsl_matrix *A);

/* A number that changes with the contents, for a journal's identity. */
uint64_t cli_checksum(const gsl_matrix *M);

/* One line on stderr when two rows of X are equal: the limit kernels are singular. */
void cli_warn_duplicates(const struct cli_common *cfg, const gsl_matrix *X, const char *name);

/* The largest of list; 0 of none. */
size_t cli_largest(const size_t *list, size_t count);

/* The distinct values of list, ascending; the caller frees. Without memory it ends the run (cli_need). */
size_t *cli_sorted_sizes(const size_t *list, size_t count, size_t *num_distinct);
size_t cli_index_of(const size_t *sorted, size_t count, size_t value);

/* {x, x, x, n}: a number without sampling error. */
struct interval cli_exact(double x, size_t n);

#endif
