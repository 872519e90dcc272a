/* Many verdicts at once: the p-value of one and Holm's adjustment of all. */
#ifndef COMMON_MULTIPLICITY_H
#define COMMON_MULTIPLICITY_H
#include <stddef.h>
#include "common/stats.h"

/* The smallest one-sided error rate at which the measurement still decides for or against the
 * margin: the interval of level 1 - 2p just reaches an edge. At most one of the two decisions is
 * false, so p is not doubled. The law is read off the interval, which has the level given:
 * that of stats_rate is recognised and the binomial law used; otherwise Student's with n - 1
 * degrees of freedom (the normal law where n is not known), its scale the half width on the
 * side of the edge. 1 without a value or with an infinite width; an edge at a point interval's
 * own value decides, as verdict_by_margin has it. */
double verdict_p_value(struct interval measured, double level, struct margin margin);

/* adjusted[i] is the smallest family-wise error rate at which Holm's step-down procedure rejects
 * p[i] (Holm 1979): with p sorted, the running maximum of (n - k) p_k, k from 0, at most 1. The two may
 * be one array. GSL_EDOM when a p is not in [0, 1], GSL_ENOMEM. */
int holm_adjust(const double *p, size_t n, double *adjusted);

#endif
