/* Keys and values in the layout of the tiles. */
#include "attention/kernel_vectors.h"
#include "attention/kernels.h"

/* One stage exchanges the off-diagonal t x t blocks of every 2t x 2t block. */
#define STAGE(t)                                                            \
    do {                                                                    \
        UNROLL for (int i = 0; i < VW; i++)                                 \
            if (!(i & (t))) {                                               \
                const vf a = x[i], b = x[i + (t)];                          \
                x[i] = __builtin_shufflevector(a, b, LANES(FIRST, t));      \
                x[i + (t)] = __builtin_shufflevector(a, b, LANES(SECOND, t)); \
            }                                                               \
    } while (0)

INLINE void transpose_square(vf x[VW])
{
#if WIDTH == 16
    STAGE(8);
#endif
#if WIDTH >= 8
    STAGE(4);
#endif
    STAGE(2);
    STAGE(1);
}

void ISA_NAME(attn_pack_panels)(const float *x, ptrdiff_t row, size_t len, size_t head_dim, float *panels)
{
    float square[VW * VW];
    for (size_t j = 0; j < attn_panels(len) * ATTN_PANEL; j += VW) {
        float *to = panels + j / ATTN_PANEL * ATTN_PANEL * head_dim + j % ATTN_PANEL;
        const size_t keys = j < len ? least(VW, len - j) : 0;
        for (size_t c = 0; c < head_dim; c += VW) {
            const size_t cols = least(VW, head_dim - c);
            vf block[VW];
            if (keys == VW && cols == VW) {
                UNROLL for (int i = 0; i < VW; i++) block[i] = load(x + (ptrdiff_t)(j + i) * row + c);
            } else {
                memset(square, 0, sizeof square);
                for (size_t i = 0; i < keys; i++)
                    memcpy(square + i * VW, x + (ptrdiff_t)(j + i) * row + c, cols * sizeof *square);
                UNROLL for (int i = 0; i < VW; i++) block[i] = load(square + i * VW);
            }
            transpose_square(block);
            if (cols == VW) {
                UNROLL for (int i = 0; i < VW; i++) store(to + (c + i) * ATTN_PANEL, block[i]);
            } else {
                UNROLL for (int i = 0; i < VW; i++) store(square + i * VW, block[i]);
                for (size_t i = 0; i < cols; i++) store(to + (c + i) * ATTN_PANEL, load(square + i * VW));
            }
        }
    }
}

void ISA_NAME(attn_pack_rows)(const float *x, ptrdiff_t row, size_t len, size_t head_dim, float *rows)
{
    const size_t padded = attn_padded(head_dim);
    for (size_t j = 0; j < len; j++) {
        const float *from = x + (ptrdiff_t)j * row;
        float *to = rows + j * padded;
        memcpy(to, from, head_dim * sizeof *to);
        for (size_t c = head_dim; c < padded; c++) to[c] = 0.0f;
    }
}
