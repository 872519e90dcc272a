/* A trained prefix: what it does in the softmax, and its summary. */
#include <gsl/gsl_errno.h>
#include <stdio.h>
#include <string.h>

#include "transformer/model_internal.h"

int model_prefix_scores(const struct model *m, size_t layer, double *mass, double *spread)
{
    const struct adapter *a = &m->adapter;
    if (!m->can_backward || layer >= m->encoder.num_blocks || !a->ops->prefix_rows) return GSL_EINVAL;
    const float *K = a->ops->prefix_rows((struct adapter *)a, layer, 0);
    if (!K) return GSL_EINVAL;
    const struct scale_rows rows = model_scale_rows(m, layer);
    attention_prefix_scores(&rows, K, a->options.prefix_len, mass, spread);
    return GSL_SUCCESS;
}

int model_fold_prefix(struct model *prefix, const char *feature, struct model **out, struct reason why)
{
    struct adapter_options o = adapter_defaults(ADAPTER_NTK);
    o.first_layer = prefix->adapter.options.first_layer;
    o.last_layer = prefix->adapter.options.last_layer;
    o.k_mode = ADAPTER_K_LINEAR;
    o.units = 0;
    if (snprintf(o.feature, sizeof o.feature, "%s", feature) >= (int)sizeof o.feature)
        return refuse(why, GSL_EINVAL, "%.40s: too long", feature);
    struct model *m = NULL;
    int status = model_alloc(prefix->backbone, &o, prefix->num_classes, prefix->pool, prefix->encoder.num_blocks,
                             prefix->seed, &m, why);
    if (status) return status;
    for (size_t l = 0; l < prefix->encoder.num_blocks && !status; l++) {
        const float *K = model_prefix_rows(prefix, l, 0), *V = model_prefix_rows(prefix, l, 1);
        if (K && V) status = model_set_prefix(m, l, K, V, prefix->adapter.options.prefix_len);
    }
    for (size_t i = 0; i < model_num_parameters(m) && !status; i++) {
        struct parameter *p = &model_parameters(m)[i];
        const struct parameter *q = p->group == PARAM_HEAD ? model_parameter(prefix, p->name) : NULL;
        if (q) memcpy(p->value, q->value, p->rows * p->cols * sizeof *p->value);
    }
    if (!status) model_after_update(m);
    if (status) {
        model_free(m);
        return refuse(why, status, "%s: %s", feature, gsl_strerror(status));
    }
    *out = m;
    return GSL_SUCCESS;
}
