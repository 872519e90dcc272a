/* Prefix-Tuning+: T = softmax(Q K^T / sqrt d) V + phi(Q) Z, Z from 0. */
#include "transformer/adapter_summary.h"

static int open_plus(struct adapter *a, struct reason why)
{
    return summary_open(a, 0, why);
}

static int prepare(struct adapter *a, size_t layer, int training, struct attention_extra *extra)
{
    const struct summary *s = summary_at(a, layer);
    *extra = (struct attention_extra){
        .kind = ATTENTION_BESIDE, .map = ((const struct summaries *)a->own)->map, .Z = s->Z, .dZ = s->dZ
    };
    if (training != 2) summary_prepare_Z(a, layer);
    return 0;
}

static void finish(struct adapter *a, size_t layer, const struct attention_extra *extra)
{
    (void)extra;
    summary_finish_Z(a, layer);
}

static int set_unit(struct adapter *a, size_t layer, const struct head_scales *scales)
{
    return scales->moment ? summary_set_basis(a, layer, scales) : 0;
}

const struct adapter_ops adapter_prefix_plus = {
    .name = "prefix-plus", .summary = "Prefix-Tuning+: phi(Q) Z added to the attention, without a denominator",
    .changes_blocks = 1, .open = open_plus, .close = summary_close, .start = summary_start, .prepare = prepare,
    .finish = finish, .map_of = summary_map, .set_unit = set_unit
};
