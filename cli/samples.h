/* The samples a program works on: files, a synthetic draw, or a data set. */
#ifndef CLI_SAMPLES_H
#define CLI_SAMPLES_H
#include "cli/option_table.h"

struct samples_options {
    const char *inputs, *targets;      /* --inputs, --targets: files                  */
    size_t num_samples, dim;           /* --num-samples, --dim: x_i, y_i uniform on the sphere */
    const char *dataset;               /* --dataset mnist                              */
    const char *inputs_out, *targets_out;
};

/* Rows of a table of options; `member` of the config `type` is a struct samples_options. What the samples are a journal
 * knows by a checksum of them. */
extern const char *const samples_datasets[];
#define SAMPLES_INPUTS(type, member)                                                                                   \
    { "inputs", CLI_TEXT(type, member.inputs), .doc = "inputs x_i, (n, d), .npy or .csv", .same_units = true },        \
    { "num-samples", CLI_SIZE(type, member.num_samples), .min = 1, .max = 1u << 20,                                    \
      .doc = "synthetic samples when no inputs are given", .same_units = true },                                       \
    { "dim", CLI_SIZE(type, member.dim), .min = 1, .max = 1u << 16, .arg = "D", .doc = "their dimension",              \
      .same_units = true },                                                                                            \
    { "dataset", CLI_NAME(type, member.dataset), .names = samples_datasets,                                            \
      .doc = "mnist: images by PCA to --dim on the sphere, one-hot targets", .same_units = true },                     \
    { "inputs-out", CLI_TEXT(type, member.inputs_out), .doc = "write the inputs used", .same_units = true },           \
    { "targets-out", CLI_TEXT(type, member.targets_out), .doc = "write the targets used", .same_units = true }
#define SAMPLES_TARGETS(type, member)                                                                                  \
    { "targets", CLI_TEXT(type, member.targets), .doc = "targets y_i, (n, d), .npy or .csv", .same_units = true }

/* What is wrong with the combination, or NULL. With inputs from a file a program
 * that needs targets wants them from a file, too. */
const char *samples_check(const struct samples_options *options, bool targets_needed);

/* Inputs X and, unless Y is NULL, targets Y of draw `trial` (files do not depend on it; other
 * images of a data set come from another seed); writes the files asked for. Exit code, the
 * line printed. */
int samples_load(const struct cli_common *cfg, const struct samples_options *options, uint64_t trial,
                 gsl_matrix **X, gsl_matrix **Y);

/* The seed of the images of draw `trial`; that of draw 0 is the program's. */
uint64_t samples_mnist_seed(const struct cli_common *cfg, uint64_t trial);

/* Rows of the synthetic draw: on the unit sphere. purpose: RANDOM_INPUTS, RANDOM_TARGETS;
 * rows first .. first + M->size1. */
void samples_sphere(uint64_t seed, int purpose, uint64_t trial, uint64_t first, gsl_matrix *M);

#endif
