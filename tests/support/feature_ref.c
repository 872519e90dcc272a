#include "tests/support/feature_ref.h"

#include <math.h>
#include <string.h>

enum { MAX_DEGREE = 64, MAX_DIM = 512 };

static double factorial(size_t n)
{
    return tgamma((double)n + 1.0);
}

/* a_k = (2 - [k = 0]) (1/pi) integral_0^pi e^{B cos t} cos(k t) dt (midpoint rule, which
 * converges geometrically here), and
 * T_k(t) = k/2 sum_i (-1)^i (k-i-1)!/(i! (k-2i)!) (2t)^{k-2i}. */
void feature_ref_cheb(size_t degree, double bound, double *c)
{
    enum { NODES = 4096 };
    for (size_t j = 0; j <= degree; j++) c[j] = 0.0;
    for (size_t k = 0; k <= degree; k++) {
        double a = 0.0;
        for (size_t n = 0; n < NODES; n++) {
            const double t = M_PI * ((double)n + 0.5) / NODES;
            a += exp(bound * cos(t)) * cos((double)k * t);
        }
        a *= (k ? 2.0 : 1.0) / NODES;
        if (k == 0) {
            c[0] += a;
            continue;
        }
        for (size_t i = 0; 2 * i <= k; i++) {
            const size_t j = k - 2 * i;
            c[j] += a * 0.5 * (double)k * (i % 2 ? -1.0 : 1.0) * factorial(k - i - 1) /
                    (factorial(i) * factorial(j)) * pow(2.0 / bound, (double)j);
        }
    }
}

/* The next non-decreasing list of j indices below dim; 0 after the last. */
static int next_list(size_t *index, size_t j, size_t dim)
{
    for (size_t p = j; p-- > 0;) {
        if (index[p] + 1 < dim) {
            const size_t to = index[p] + 1;
            for (size_t q = p; q < j; q++) index[q] = to;
            return 1;
        }
    }
    return 0;
}

size_t feature_ref_count(size_t dim, size_t degree)
{
    size_t count = 0, index[MAX_DEGREE];
    for (size_t j = 0; j <= degree; j++) {
        memset(index, 0, sizeof index);
        do count++; while (next_list(index, j, dim));
    }
    return count;
}

void feature_ref_monomials(const double *x, size_t dim, size_t degree, const double *c, int key, double *phi)
{
    size_t index[MAX_DEGREE];
    for (size_t j = 0; j <= degree; j++) {
        memset(index, 0, sizeof index);
        do {
            double product = 1.0, alpha = 1.0;
            size_t power[MAX_DIM] = { 0 };
            for (size_t p = 0; p < j; p++) {
                product *= x[index[p]] / pow((double)dim, 0.25);
                power[index[p]]++;
            }
            for (size_t i = 0; i < dim; i++) alpha *= factorial(power[i]);
            *phi++ = sqrt(fabs(c[j]) * factorial(j) / alpha) * product * (key && c[j] < 0.0 ? -1.0 : 1.0);
        } while (next_list(index, j, dim));
    }
}

void feature_ref_favor(const double *x, size_t dim, size_t count, const double *omega, double *phi)
{
    const double root = pow((double)dim, 0.25);
    for (size_t r = 0; r < count; r++) {
        double along = 0.0, square = 0.0;
        for (size_t c = 0; c < dim; c++) {
            along += omega[r * dim + c] * x[c] / root;
            square += x[c] / root * (x[c] / root);
        }
        phi[r] = exp(along - 0.5 * square) / sqrt((double)count);
    }
}

void feature_ref_elu1(const double *x, size_t dim, double *phi)
{
    for (size_t c = 0; c < dim; c++) {
        const double z = x[c] / pow((double)dim, 0.25);
        phi[c] = z > 0.0 ? z + 1.0 : exp(z);
    }
}
