/* Arrays into half precision and back. */
#include "attention/half_vectors.h"

/* To nearest even by adding half of what is cut off, less one where the last bit kept is even. */
INLINE uint32_t rounded(uint32_t bits, int cut)
{
    return bits + (((uint32_t)1 << (cut - 1)) - 1) + (bits >> cut & 1);
}

INLINE uint16_t to_bf16(uint32_t bits)
{
    /* A NaN must keep a bit of its fraction. */
    const int is_nan = (bits & 0x7fffffff) > 0x7f800000;
    return (uint16_t)(is_nan ? bits >> 16 | 0x40 : rounded(bits, 16) >> 16);
}

INLINE uint16_t to_f16(uint32_t bits)
{
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);   /* 65520 lies between 65504 and the next, 2^16 */
    if (size < 0x38800000) {
        /* Below 2^-14 numbers are multiples of 2^-24, the last bit of 0.5: adding it rounds. */
        union { uint32_t bits; float value; } u = { size };
        u.value += 0.5f;
        return (uint16_t)(sign | (u.bits - 0x3f000000));
    }
    return (uint16_t)(sign | ((rounded(size, 13) >> 13) - (112 << 10)));
}

size_t ISA_NAME(attn_narrow)(enum attn_storage storage, size_t n, const float *x, uint16_t *half)
{
    size_t over = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        half[i] = storage == ATTN_BF16 ? to_bf16(bits) : to_f16(bits);
        const uint16_t infinite = storage == ATTN_BF16 ? 0x7f80 : 0x7c00;
        over += (half[i] & 0x7fff) == infinite && (bits & 0x7fffffff) != 0x7f800000;
    }
    return over;
}

void ISA_NAME(attn_widen)(enum attn_storage storage, size_t n, const uint16_t *half, float *x)
{
    size_t i = 0;
    for (; i + VW <= n; i += VW) store(x + i, storage == ATTN_BF16 ? widen_bf16(half + i) : widen_f16(half + i));
    if (i == n) return;
    uint16_t rest[VW] = { 0 };
    float wide[VW];
    memcpy(rest, half + i, (n - i) * sizeof *rest);
    store(wide, storage == ATTN_BF16 ? widen_bf16(rest) : widen_f16(rest));
    memcpy(x + i, wide, (n - i) * sizeof *x);
}
