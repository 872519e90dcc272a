/* A step of descent in parts, for processes that share the tokens of a prefix: each has the descent
 * of the whole prefix, and moves the tokens of its own range.
 *
 *     descent_share(descent, rank, count);                            once
 *     descent_begin(descent, step_size);                              on every process
 *     parts of the others to process 0:  descent_parts_read  ->  descent_parts_write
 *     descent_merge(descent);  its sums to all:  descent_sums_read  ->  descent_sums_write
 *     status = descent_end(descent);                                  GSL_CONTINUE: descent_again, exchange again
 *
 * The same bits as prefix_descent_step, which this replaces. */
#ifndef THEORY_DESCENT_PARTS_H
#define THEORY_DESCENT_PARTS_H
#include "prefix_ntk/prefix_descent.h"

int descent_share(struct prefix_descent *descent, int rank, int count);      /* GSL_ENOMEM */
void descent_begin(struct prefix_descent *descent, double step_size);
void descent_again(struct prefix_descent *descent);                          /* running maxima, after GSL_CONTINUE */

size_t descent_parts_size(const struct prefix_descent *descent, int rank, int count);     /* numbers */
/* parts NULL: of process 0 itself. */
void descent_parts_read(struct prefix_descent *descent, int rank, int count, double *parts);
void descent_parts_write(struct prefix_descent *descent, int rank, int count, const double *parts);
void descent_merge(struct prefix_descent *descent);

size_t descent_sums_size(const struct prefix_descent *descent);
void descent_sums_read(const struct prefix_descent *descent, double *sums);
void descent_sums_write(struct prefix_descent *descent, const double *sums);
int descent_end(struct prefix_descent *descent);                             /* codes of prefix_descent_step */

/* The tokens of a process, first .. last, in the prefix of this descent, (prefix_len, dim) without gaps. */
double *descent_tokens(struct prefix_descent *descent, int rank, int count, size_t *first, size_t *last);

#endif
