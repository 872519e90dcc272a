#include "attention/kernels.h"

#include "common/isa.h"

#define KERNELS(isa)                                                                                         \
    { attn_forward_block_##isa, attn_grad_prepare_##isa, attn_backward_block_##isa,                          \
      attn_feature_backward_##isa, attn_pack_panels_##isa, attn_pack_rows_##isa, \
      attn_decode_rows_##isa, attn_narrow_##isa, attn_widen_##isa }

const struct attn_kernels *attn_kernels_current(void)
{
    static const struct attn_kernels all[] = ISA_TABLE(KERNELS);
    return &all[isa_current()];
}
