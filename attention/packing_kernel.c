/* Keys and values in the layout of the tiles. */
#include "attention/kernel_vectors.h"
#include "attention/kernels.h"

void ISA_NAME(attn_pack_panels)(const float *rows, ptrdiff_t row, size_t len, size_t head_dim, float *panels)
{
    for (size_t j = 0; j < round16(len); j += VW) {
        float *to = panels + j / ATTN_PANEL * ATTN_PANEL * head_dim + j % ATTN_PANEL;
        for (size_t c = 0; c < head_dim; c += VW) {
            const size_t cols = least(VW, head_dim - c);
            vf x[VW];
            load_square(rows + (ptrdiff_t)j * row + c, row, j < len ? least(VW, len - j) : 0, cols, x);
            transpose_square(x);
            UNROLL for (int i = 0; i < VW; i++) {
                if ((size_t)i >= cols) break;
                store(to + (c + (size_t)i) * ATTN_PANEL, x[i]);
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
