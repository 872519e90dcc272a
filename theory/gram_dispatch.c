#include "common/isa.h"
#include "theory/gram_kernel.h"

const struct gram_kernels *gram_kernels_current(void)
{
#if defined(__x86_64__)
    switch (isa_current()) {
    case ISA_ID_AVX512: return &gram_kernels_avx512;
    case ISA_ID_AVX2: return &gram_kernels_avx2;
    default: break;
    }
#endif
    return &gram_kernels_portable;
}
