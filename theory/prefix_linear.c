/* The linearised dynamics, in the eigenbasis of the kernel. */
#include "prefix_ntk/prefix_descent.h"

#include <math.h>
#include <stdlib.h>
#include <gsl/gsl_errno.h>
#include "common/eigensystem.h"

void prefix_linear_free(struct prefix_linear *linear)
{
    if (!linear) return;
    free(linear->eigenvalues);
    free(linear->energy);
    gsl_matrix_free(linear->vectors);
    free(linear);
}

int prefix_linear_alloc(const gsl_matrix *K, const gsl_matrix *R0, struct prefix_linear **out)
{
    const size_t n = K->size1;
    *out = NULL;
    if (R0->size1 * R0->size2 != n) return GSL_EBADLEN;
    struct prefix_linear *linear = calloc(1, sizeof *linear);
    int status = GSL_ENOMEM;
    if (!linear) return status;
    linear->size = n;
    linear->eigenvalues = malloc(n * sizeof(double));
    linear->energy = malloc(n * sizeof(double));
    linear->vectors = gsl_matrix_alloc(n, n);
    if (!linear->eigenvalues || !linear->energy || !linear->vectors) goto failed;
    if ((status = eigensystem(K, linear->eigenvalues, linear->vectors))) goto failed;
    for (size_t j = 0; j < n; j++) {
        double along = 0.0;
        for (size_t i = 0; i < n; i++)
            along += gsl_matrix_get(linear->vectors, i, j) * gsl_matrix_get(R0, i / R0->size2, i % R0->size2);
        linear->energy[j] = along * along;
    }
    *out = linear;
    return GSL_SUCCESS;
failed:
    prefix_linear_free(linear);
    return status;
}

double prefix_linear_loss(const struct prefix_linear *linear, double rate, double steps)
{
    double twice = 0.0;
    for (size_t j = 0; j < linear->size; j++)
        twice += linear->energy[j] * pow(fabs(1.0 - rate * linear->eigenvalues[j]), 2.0 * steps);
    return 0.5 * twice;
}

double prefix_linear_steps(const struct prefix_linear *linear, double rate, double target)
{
    if (!(target > 0.0)) return INFINITY;
    double lo = 0.0, hi = 1.0;
    if (prefix_linear_loss(linear, rate, 0.0) <= target) return 0.0;
    while (prefix_linear_loss(linear, rate, hi) > target) {
        lo = hi;
        hi *= 2.0;
        if (hi > 1e18) return INFINITY;
    }
    for (int i = 0; i < 80; i++) {
        const double mid = 0.5 * (lo + hi);
        if (prefix_linear_loss(linear, rate, mid) > target) lo = mid;
        else hi = mid;
    }
    return hi;
}
