/* The kernel of one random prefix, its tokens shared by the processes of a run.
 * Whole leaves of the token tree (ntk.h) are cut into one range for each process, in order; a process cuts its
 * range into aligned subtrees and sends the sums of each, left to right, to process 0, which merges them as if it
 * had added the tokens itself: the same bits for any number of processes. */
#ifndef PROCESSES_KERNELS_H
#define PROCESSES_KERNELS_H
#include "prefix_ntk/ntk.h"

/* One step of a sweep, on process 0 with part, moments of the sweep's inputs, law and kernel to receive into, and
 * gram; the others (gram and part NULL) help with tokens [count, ..) where the step before ended at count tokens.
 * All give the same prefix_len; ntk_sweep_step with one process. Codes of ntk_sweep_step; GSL_EFAILED a message
 * failed. / */
int shared_sweep_step(struct ntk_sweep *sweep, size_t count, size_t prefix_len, enum prefix_signs law,
                      enum ntk_kernel kernel, struct ntk_moments *part, gsl_matrix *gram);

#endif
