#include "transformer/adapter_summary.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdlib.h>

static int open_layer(struct adapter *a, size_t l, size_t r, int with_k)
{
    struct summary *s = summary_at(a, l);
    const size_t heads = a->heads, d = a->head_dim, rank = a->options.z_rank;
    int status = GSL_SUCCESS;
    if (rank) {
        s->A = adapter_parameter(a, l, "summary_Z_A", heads * r, rank, 1, 1, &s->dA);
        s->B = s->A ? adapter_parameter(a, l, "summary_Z_B", heads * rank, d, 1, 1, &s->dB) : NULL;
        if (!s->B) status = GSL_ENOMEM;
    } else {
        s->Z_value = adapter_parameter(a, l, "summary_Z", heads * r, d, 1, 1, &s->dZ_value);
        if (!s->Z_value) status = GSL_ENOMEM;
    }
    if (a->options.whiten) {
        s->basis = adapter_parameter(a, l, "summary_basis", heads * r, r, 0, 0, NULL);
        if (!s->basis) status = GSL_ENOMEM;
        for (size_t i = 0; s->basis && i < heads * r; i++) s->basis[i * r + i % r] = 1.0f;
    }
    s->Z = calloc(heads * r * d, sizeof(float));
    s->dZ = calloc(heads * r * d, sizeof(float));
    if (with_k) {
        s->k = calloc(heads * r, sizeof(float));
        s->dk = calloc(heads * r, sizeof(float));
        if (!s->k || !s->dk) status = GSL_ENOMEM;
    }
    return status || !s->Z || !s->dZ ? GSL_ENOMEM : GSL_SUCCESS;
}

int summary_open(struct adapter *a, int with_k, struct reason why)
{
    struct summaries *own = a->own = calloc(1, sizeof *own + a->num_layers * sizeof(struct summary));
    if (!own) return refuse(why, GSL_ENOMEM, "no memory for the adapter");
    int status = feature_parse(a->options.feature, a->head_dim, a->options.bound, a->options.feature_seed, NULL,
                               &own->map);
    if (status) return refuse(why, status, "feature map \"%s\": %s", a->options.feature, feature_strerror(status));
    if (!feature_is_explicit(own->map))
        return refuse(why, GSL_EINVAL, "feature map \"%s\" has too many features at head dimension %zu",
                      a->options.feature, a->head_dim);
    own->feat_dim = feature_dim(own->map);
    if (a->options.z_rank > own->feat_dim || a->options.z_rank > a->head_dim)
        return refuse(why, GSL_EINVAL, "the rank of Z is at most %zu",
                      a->head_dim < own->feat_dim ? a->head_dim : own->feat_dim);
    if (a->options.whiten) {
        own->white = malloc(2 * own->feat_dim * a->head_dim * sizeof *own->white);
        if (!own->white) status = GSL_ENOMEM;
    }
    for (size_t l = 0; l < a->num_layers && !status; l++)
        if (adapter_in_layer(a, l)) status = open_layer(a, l, own->feat_dim, with_k);
    return status ? refuse(why, status, "no memory for the adapter") : GSL_SUCCESS;
}

void summary_close(struct adapter *a)
{
    struct summaries *own = a->own;
    if (!own) return;
    for (size_t l = 0; l < a->num_layers; l++) {
        struct summary *s = &own->layers[l];
        free(s->Z);
        free(s->dZ);
        free(s->k);
        free(s->dk);
    }
    feature_map_free(own->map);
    free(own->white);
    free(own);
}

void summary_start(struct adapter *a)
{
    for (size_t l = 0; l < a->num_layers; l++) {
        const size_t rank = a->options.z_rank;
        if (adapter_in_layer(a, l) && rank)
            adapter_normal(a, l, 1, 1.0 / sqrt((double)rank), summary_at(a, l)->B, a->heads * rank * a->head_dim);
    }
}

void summary_prepare_Z(struct adapter *a, size_t layer)
{
    const struct summary *s = summary_at(a, layer);
    const struct summaries *own = a->own;
    const size_t r = own->feat_dim, d = a->head_dim, rank = a->options.z_rank;
    for (size_t h = 0; h < a->heads; h++) {
        const float unit = s->unit ? s->unit[h] : 1.0f;
        float *Z = s->Z + h * r * d, *white = s->basis ? own->white : Z;
        if (rank)
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)r, (blasint)d, (blasint)rank, unit,
                        s->A + h * r * rank, (blasint)rank, s->B + h * rank * d, (blasint)d, 0.0f, white, (blasint)d);
        else
            for (size_t i = 0; i < r * d; i++) white[i] = unit * s->Z_value[h * r * d + i];
        if (s->basis)
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)r, (blasint)d, (blasint)r, 1.0f,
                        s->basis + h * r * r, (blasint)r, white, (blasint)d, 0.0f, Z, (blasint)d);
    }
}

void summary_finish_Z(struct adapter *a, size_t layer)
{
    const struct summary *s = summary_at(a, layer);
    const struct summaries *own = a->own;
    const size_t r = own->feat_dim, d = a->head_dim, rank = a->options.z_rank;
    for (size_t h = 0; h < a->heads; h++) {
        const float unit = s->unit ? s->unit[h] : 1.0f;
        const float *dZ = s->dZ + h * r * d;
        if (s->basis) {
            float *d_white = own->white + r * d;
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)r, (blasint)d, (blasint)r, 1.0f,
                        s->basis + h * r * r, (blasint)r, dZ, (blasint)d, 0.0f, d_white, (blasint)d);
            dZ = d_white;
        }
        if (!rank) {
            for (size_t i = 0; i < r * d; i++) s->dZ_value[h * r * d + i] = unit * dZ[i];
            continue;
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)r, (blasint)rank, (blasint)d, unit, dZ,
                    (blasint)d, s->B + h * rank * d, (blasint)d, 0.0f, s->dA + h * r * rank, (blasint)rank);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)rank, (blasint)d, (blasint)r, unit,
                    s->A + h * r * rank, (blasint)rank, dZ, (blasint)d, 0.0f, s->dB + h * rank * d, (blasint)d);
    }
}

const feature_map *summary_map(const struct adapter *a) { return ((const struct summaries *)a->own)->map; }
