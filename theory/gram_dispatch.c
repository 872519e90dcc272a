#include "common/isa.h"
#include "theory/gram_kernel.h"

const struct gram_kernels *gram_kernels_of(enum isa isa)
{
    static const struct gram_kernels *const all[] = {
        [ISA_ID_PORTABLE] = &gram_kernels_portable,
#if defined(__x86_64__)
        [ISA_ID_AVX2] = &gram_kernels_avx2,
        [ISA_ID_AVX512] = &gram_kernels_avx512,
#elif defined(__aarch64__)
        [ISA_ID_NEON] = &gram_kernels_neon,
#endif
    };
    return (size_t)isa < sizeof all / sizeof *all ? all[isa] : NULL;
}

const struct gram_kernels *gram_kernels_current(void) { return gram_kernels_of(isa_current()); }
