/* Chains of fused multiply-adds that live in registers: as many as hide the
 * latency of two units (2 x 4 or 2 x 5 cycles), fewer than there are registers.
 * The portable set has no fused instruction; it counts multiply and add as two. */
#include "common/calibrate_kernel.h"

#include "common/isa.h"

#if defined(ISA_AVX512)
#define VECTOR_BYTES 64
#define CHAINS 20
#elif defined(ISA_AVX2)
#define VECTOR_BYTES 32
#define CHAINS 12
#elif defined(ISA_NEON)
#define VECTOR_BYTES 16
#define CHAINS 20
#else
#define VECTOR_BYTES 16
#define CHAINS 12
#endif

typedef float vector_f32 __attribute__((vector_size(VECTOR_BYTES)));
typedef double vector_f64 __attribute__((vector_size(VECTOR_BYTES)));

/* Values tend to the fixed point shift / (1 - scale) = 2.5: never subnormal. */
#define DEFINE(name, vector, scalar)                                              \
    double ISA_NAME(name)(long steps, double *sink)                               \
    {                                                                             \
        vector scale = (scalar)0.6 - (vector){ 0 }, shift = (scalar)1.0 - (vector){ 0 };  \
        vector chain[CHAINS];                                                     \
        for (int i = 0; i < CHAINS; i++) chain[i] = shift * (scalar)(i + 1);      \
        for (long s = 0; s < steps; s++) {                                        \
            _Pragma("GCC unroll 20")                                              \
            for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * scale + shift; \
        }                                                                         \
        for (int i = 0; i < CHAINS; i++) *sink += (double)chain[i][0];            \
        return 2.0 * CHAINS * (VECTOR_BYTES / sizeof(scalar)) * (double)steps;    \
    }

DEFINE(calibrate_chain_f32, vector_f32, float)
DEFINE(calibrate_chain_f64, vector_f64, double)
