/* The state of a training in a file of its own: after a kill the same command goes on from there. */
#ifndef CLI_TRAIN_STATE_H
#define CLI_TRAIN_STATE_H
#include <limits.h>
#include "cli/cli.h"
#include "transformer/train.h"

enum { TRAIN_KEY_SIZE = 16 };

struct train_state {
    const struct cli_common *cfg;
    char path[PATH_MAX];
    char key[TRAIN_KEY_SIZE + 1];       /* of everything the training depends on */
};

/* FOLDER/NAME, which nothing of another origin may be called. Exit code, the line printed. The key is the caller's to
 * fill. */
int train_state_init(struct train_state *state, const struct cli_common *cfg, const char *folder, const char *name);

/* A state of this very training is taken up, with a line; any other is left to be replaced. */
void train_state_load(const struct train_state *state, struct train *train);

/* Exit code, the line printed. The state before is replaced once the new one is on the disk. */
int train_state_save(const struct train_state *state, struct train *train);

/* All steps that are left, the state saved now and then and on an interruption. Exit code, the line printed. */
int train_state_run(const struct train_state *state, struct train *train, const char *what);

/* The training is done: the state and what a kill may have left of one go. */
void train_state_remove(const struct train_state *state);

#endif
