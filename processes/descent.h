/* A descent whose tokens are shared by the processes of a run: each moves its own range of them, and the sums over
 * tokens, one vector of n d + 2 n numbers (padded) for a subtree of the token tree, go to process 0 and back in
 * every step: the same bits for any number of processes. All processes call these together, with descents of the
 * same prefix. */
#ifndef PROCESSES_DESCENT_H
#define PROCESSES_DESCENT_H
#include "prefix_ntk/prefix_descent.h"

struct shared_descent;

/* The descent stays the caller's, who steps it by this alone. GSL_ENOMEM. */
int shared_descent_alloc(struct prefix_descent *descent, struct shared_descent **out);
void shared_descent_free(struct shared_descent *shared);

/* Codes of prefix_descent_step on every process alike; GSL_EFAILED a message failed. */
int shared_descent_step(struct shared_descent *shared, double step_size);

/* Process 0 has the tokens of all. GSL_EFAILED. */
int shared_descent_gather(struct shared_descent *shared);

#endif
