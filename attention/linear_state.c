#include "attention/linear_state.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

static size_t state_size(const struct linear_state *s)
{
    return s->feat_dim * (s->value_dim + 1);
}

void linear_state_clear(struct linear_state *s)
{
    s->scale = -HUGE_VAL;
    memset(s->Zk, 0, state_size(s) * sizeof *s->Zk);
}

void linear_state_rescale(struct linear_state *s, double scale)
{
    if (scale == s->scale) return;
    if (s->scale > -HUGE_VAL) {
        const double factor = exp(s->scale - scale);
        for (size_t i = 0; i < state_size(s); i++) s->Zk[i] *= factor;
    }
    s->scale = scale;
}

void linear_state_add(struct linear_state *s, size_t rows, const double *phi, const double *mass,
                      double *values, const double *log_scale)
{
    const blasint r = (blasint)s->feat_dim, cols = (blasint)s->value_dim + 1, n = (blasint)rows;
    double most = log_scale ? -HUGE_VAL : 0.0;
    for (size_t i = 0; log_scale && i < rows; i++) most = fmax(most, log_scale[i]);
    if (!rows || !(most > -HUGE_VAL)) return;
    if (most > s->scale) linear_state_rescale(s, most);
    for (size_t i = 0; i < rows; i++) {
        const double factor = exp((log_scale ? log_scale[i] : 0.0) - s->scale);
        if (factor == 1.0) continue;
        for (size_t c = 0; c < (size_t)cols; c++) values[i * (size_t)cols + c] *= factor;
    }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, r, mass ? cols - 1 : cols, n, 1.0,
                phi, r, values, cols, 1.0, s->Zk, cols);
    if (mass)
        cblas_dgemv(CblasRowMajor, CblasTrans, n, r, 1.0, mass, r, values + cols - 1, cols, 1.0,
                    s->Zk + cols - 1, cols);
}

void linear_state_merge(struct linear_state *into, const struct linear_state *from)
{
    if (!(from->scale > -HUGE_VAL)) return;
    if (from->scale > into->scale) linear_state_rescale(into, from->scale);
    const double factor = exp(from->scale - into->scale);
    for (size_t i = 0; i < state_size(into); i++) into->Zk[i] += factor * from->Zk[i];
}
