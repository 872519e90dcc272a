/* Numbers of 16 bits as vectors of float32: bfloat16, the upper half of a float32, and IEEE binary16. Include from
 * *_kernel.c only. */
#ifndef ATTENTION_HALF_VECTORS_H
#define ATTENTION_HALF_VECTORS_H
#include "attention/kernel_vectors.h"
#include "attention/kernels.h"

typedef uint16_t vh __attribute__((vector_size(2 * WIDTH)));
typedef uint16_t vh_any __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));

/* Bytes of a number. */
INLINE int number_bytes(int kind) { return kind == ATTN_F32 ? 4 : 2; }

INLINE vf widen_bf16(const uint16_t *x)
{
    return (vf)(__builtin_convertvector(*(const vh_any *)x, vu) << 16);
}

INLINE vf widen_f16(const uint16_t *x)
{
#if defined(ISA_AVX512)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)x));
#elif defined(ISA_AVX2)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)x));
#else
    /* The exponent counts from 2^-15 instead of 2^-127; infinity and NaN keep the largest. */
    const vu bits = __builtin_convertvector(*(const vh_any *)x, vu), sign = (bits & 0x8000) << 16;
    const vu magnitude = (bits & 0x7fff) << 13, top = (vu)(magnitude >= 0x0f800000) & 0x7f800000;
    return (vf)((vu)((vf)magnitude * 0x1p112f) | top | sign);
#endif
}

/* VW numbers from p on, in storage of some kind. */
INLINE vf take(const int kind, const char *p)
{
    if (kind == ATTN_F32) return load((const float *)p);
    return kind == ATTN_BF16 ? widen_bf16((const uint16_t *)p) : widen_f16((const uint16_t *)p);
}

#endif
