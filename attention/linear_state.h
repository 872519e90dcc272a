/* Sums of phi_j [v_j, 1]^T over tokens, with a common log-scale. Hidden, double.
 *
 * Zk is (feat_dim, value_dim + 1) row-major, the last column being k; the sums are
 * e^{scale} Zk, scale = -inf while nothing has been added. */
#ifndef ATTENTION_LINEAR_STATE_H
#define ATTENTION_LINEAR_STATE_H
#include <stddef.h>

struct linear_state {
    size_t feat_dim, value_dim;
    double scale;
    double *Zk;
};

void linear_state_clear(struct linear_state *s);

/* Adds rows tokens with features e^{log_scale[i]} phi[i] (rows of feat_dim numbers).
 * values (rows, value_dim + 1) is [v, 1]; overwritten. mass: the features for the last
 * column, NULL when they are phi. log_scale NULL: zeros; -inf skips a row. */
void linear_state_add(struct linear_state *s, size_t rows, const double *phi, const double *mass,
                      double *values, const double *log_scale);

/* into += from. */
void linear_state_merge(struct linear_state *into, const struct linear_state *from);

/* Brings the sums to the scale `scale` (at least the state's own). */
void linear_state_rescale(struct linear_state *s, double scale);

#endif
