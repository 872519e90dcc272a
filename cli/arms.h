/* Arms of the comparison of methods: a method with its options as one word, and its learning rate. */
#ifndef CLI_ARMS_H
#define CLI_ARMS_H
#include "cli/cli.h"
#include "common/reason.h"
#include "transformer/adapter.h"

struct arm {
    char text[96];
    struct adapter_options options;
    double lr;
    double classes;                     /* of the task */
};

/* METHOD[+key=value...]; GSL_EINVAL with one line in *why. */
int arm_parse(const char *text, struct arm *arm, struct reason why);

/* The chosen rates of a search table for a backbone and a task; exit code, EXIT_DATA for an arm without one. */
int arms_read_rates(const struct cli_common *cfg, const char *path, const char *backbone, const char *task,
                    struct arm *arms, size_t num_arms);

#endif
