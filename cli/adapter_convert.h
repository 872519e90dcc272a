/* A trained prefix adapter (P-Tuning V2) to an NTK-Attention adapter by plug-in: what prefix_to_summary --adapter
 * does. */
#ifndef CLI_ADAPTER_CONVERT_H
#define CLI_ADAPTER_CONVERT_H
#include "cli/cli.h"

struct adapter_convert {
    const char *adapter, *backbone, *task, *out;    /* directories and names; out NULL: nothing is written */
    char *const *features;                          /* (num_features) maps to choose from */
    size_t num_features;
};

/* Folds the prefix of every block into Z = Phi(K_P)^T V_P, k = Phi(K_P)^T 1 under each map, evaluates each on the
 * task's validation set, the prefix itself beside it; the map with the best validation accuracy (of equals the lowest
 * loss) is evaluated on the test set, as the prefix is, and written, unless a normaliser is not positive there (exit
 * 1). One row a map in the table cfg->out. Exit code, the line printed. */
int adapter_convert_run(const struct cli_common *cfg, const struct adapter_convert *job);

#endif
