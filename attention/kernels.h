/* Between the calls (shapes, tasks, memory) and their arithmetic, which is compiled once per
 * instruction set. Everything here concerns one query head. */
#ifndef ATTENTION_KERNELS_H
#define ATTENTION_KERNELS_H
#include <stddef.h>
#include <stdint.h>

#include "prefix_ntk/attention.h"

enum {
    ATTN_PANEL = 64,          /* keys of a transposed panel: (head_dim, 64) */
    ATTN_STRIP = 256,         /* keys whose scores are kept between max, exp and P V */
    ATTN_QUERIES = 192,       /* largest query block of a forward task */
    ATTN_GRAD_QUERIES = 96,   /* tile of the backward pass: queries ... */
    ATTN_GRAD_KEYS = 128,     /* ... by keys */
    ATTN_FEW_ROWS = 16        /* most rows of a decoding task */
};

/* Row length of padded copies: head_dim rounded up to the widest vector. */
static inline size_t attn_padded(size_t head_dim) { return (head_dim + 15) / 16 * 16; }
static inline size_t attn_panels(size_t len) { return (len + ATTN_PANEL - 1) / ATTN_PANEL; }

/* Keys and values of one head: rows, or panels made before (then `len` rows were
 * packed from the start of the panels). */
struct attn_keys {
    size_t len;
    const float *k, *v;
    ptrdiff_t k_row, v_row;
    const float *k_panels, *v_panels;   /* NULL: made on the fly from the rows */
    /* Not ATTN_F32: panels of keys and padded rows of values are here, and nothing is above. */
    enum attn_storage storage;
    const uint16_t *k_half, *v_half;
};

struct attn_forward_block {
    size_t rows, head_dim;
    size_t first_row;             /* of all rows of the call; the kernel does not read it */
    const float *q;
    ptrdiff_t q_row;
    float scale2;                 /* scale * log2(e) */
    struct attn_keys prefix, input;
    int causal;
    ptrdiff_t bound;              /* causal: row i sees input keys j < bound + i */
    /* Summary; feat_dim 0: none. phi (rows, feat_dim) is overwritten; NULL: elu1 of q. */
    size_t feat_dim;
    float *phi;
    const double *phi_log;        /* NULL, or features are e^{phi_log[i]} phi[i] */
    const float *Z, *kvec;
    ptrdiff_t Z_row;
    int few, dots;                /* keys and values as attn_decode_block takes them; rows at most ATTN_FEW_ROWS */
    float *out;
    ptrdiff_t out_row;
    float (*stats)[2];            /* NULL: not wanted */
    int partial;                  /* leave values unnormalised */
    float *scratch;               /* attn_forward_scratch floats, aligned */
    const struct attn_forward_block *next;                /* NULL, or whose rows are fetched meanwhile */
};

/* A few queries against keys that are read once, each row by itself: its numbers do not depend on the others. */
struct attn_decode_block {
    size_t rows, head_dim;        /* rows at most ATTN_FEW_ROWS */
    const float *q;               /* (rows, padded): scale2 q */
    struct attn_keys prefix, input;
    const size_t *input_seen;     /* (rows) how many of the input keys a row sees; NULL: all */
    int dots;                     /* scores of rows of keys by dot products, not from panels; head_dim % 16 == 0 */
    float *acc, *mass, *shift;    /* out: (rows, padded), lanes of the sum (rows, vector), (ATTN_FEW_ROWS) */
    float *scratch;               /* attn_decode_keys_scratch floats, aligned */
};

/* The same from the caller's rows to the caller's. */
struct attn_decode_rows {
    size_t rows, head_dim;
    const float *q[ATTN_FEW_ROWS];
    float scale2;
    struct attn_keys prefix, input;
    const size_t *input_seen;
    int dots, partial;            /* partial: values stay unnormalised; else rows whose D is bad are 0 */
    float *out[ATTN_FEW_ROWS];
    float (*stats)[2];            /* (rows): M, D */
    float *scratch;               /* attn_decode_rows_scratch floats, aligned */
};

/* What the backward pass reads of the queries of one head, made once per task. */
struct attn_grad_rows {
    size_t rows;
    float *q;                     /* (rows, padded): scale2 q */
    float *g;                     /* (rows, padded): d_out / D, 0 where D is bad */
    float *dq;                    /* (rows, padded): sum dS K, to be multiplied by scale */
    float *shift, *delta;         /* M (+inf where D is bad), <d_out, out> / D */
};

struct attn_backward_block {
    size_t head_dim;
    struct attn_grad_rows rows;
    struct attn_keys keys;        /* of this task; panels from its first key on */
    int causal;
    ptrdiff_t bound;              /* causal: row i sees keys j < bound + i of this task */
    float *dk, *dv;               /* NULL: not wanted */
    ptrdiff_t dk_row, dv_row;
    int add;                      /* add to dk, dv instead of overwriting */
    float *scratch;               /* attn_backward_scratch floats, aligned */
};

/* Feature part of the backward pass for rows of one head. */
struct attn_feature_grad {
    size_t rows, head_dim, feat_dim;
    const float *q;               /* as the caller gave it */
    ptrdiff_t q_row;
    const float *g;               /* (rows, padded): d_out / D */
    const float *shift, *delta;
    float *phi;                   /* (rows, feat_dim); with elu1 made here */
    int elu1;
    const double *phi_log;
    const float *Z, *kvec;
    ptrdiff_t Z_row;
    float *dphi;                  /* (rows, feat_dim padded) out; with elu1 scratch */
    float *dq;                    /* elu1: (rows, padded) = dq_scale dq + ...; else not touched */
    float dq_scale;
    float *dZ, *dk;               /* (feat_dim, dZ_row), (feat_dim): += */
    ptrdiff_t dZ_row;
    int first;                    /* = instead of += */
    float *scratch;               /* attn_feature_scratch floats, aligned */
};

/* Floats of scratch; elu1: of a call with phi NULL. */
size_t attn_forward_scratch(size_t rows, size_t head_dim, int elu1);
size_t attn_backward_scratch(size_t head_dim);
size_t attn_feature_scratch(size_t head_dim);
size_t attn_decode_keys_scratch(size_t head_dim);
size_t attn_decode_rows_scratch(size_t head_dim);

/* What the backward pass makes attn_grad_rows from. */
struct attn_grad_source {
    size_t head_dim;
    const float *q, *out, *d_out; /* as the caller gave them */
    ptrdiff_t q_row, out_row, d_out_row;
    float scale2;
    const float (*stats)[2];
};

/* One set per instruction set. Panels and padded rows start at multiples of ATTN_ALIGN. */
struct attn_kernels {
    /* Returns the first row whose D is not positive and finite, or `rows`. */
    size_t (*forward_block)(const struct attn_forward_block *b);
    void (*grad_prepare)(const struct attn_grad_rows *rows, const struct attn_grad_source *from);
    void (*backward_block)(const struct attn_backward_block *b);
    void (*feature_backward)(const struct attn_feature_grad *f);
    /* len rows as panels of 64: panel p is (head_dim, 64), entry (c, j) is rows[64 p + j][c]; beyond len 0
     * up to the next multiple of 16, the rest is not touched. */
    void (*pack_panels)(const float *rows, ptrdiff_t row, size_t len, size_t head_dim, float *panels);
    /* Rows padded with zeros to a multiple of 16 columns. */
    void (*pack_rows)(const float *x, ptrdiff_t row, size_t len, size_t head_dim, float *rows);
    void (*decode_rows)(const struct attn_decode_rows *t);
    /* n numbers into half precision, to nearest even, NaN stays NaN; how many finite ones became infinite. And back. */
    size_t (*narrow)(enum attn_storage storage, size_t n, const float *x, uint16_t *half);
    void (*widen)(enum attn_storage storage, size_t n, const uint16_t *half, float *x);
};

const struct attn_kernels *attn_kernels_current(void);

/* The functions of a set, for the kernel files, which call each other's. */
#define ATTN_KERNELS(isa)                                                                                    \
    size_t attn_forward_block_##isa(const struct attn_forward_block *);                                      \
    void attn_grad_prepare_##isa(const struct attn_grad_rows *, const struct attn_grad_source *);            \
    void attn_backward_block_##isa(const struct attn_backward_block *);                                      \
    void attn_feature_backward_##isa(const struct attn_feature_grad *);                                      \
    void attn_pack_panels_##isa(const float *, ptrdiff_t, size_t, size_t, float *);                          \
    void attn_pack_rows_##isa(const float *, ptrdiff_t, size_t, size_t, float *);                            \
    void attn_decode_keys_##isa(const struct attn_decode_block *);                                           \
    void attn_decode_rows_##isa(const struct attn_decode_rows *);                                            \
    size_t attn_narrow_##isa(enum attn_storage, size_t, const float *, uint16_t *);                          \
    void attn_widen_##isa(enum attn_storage, size_t, const uint16_t *, float *);
ATTN_KERNELS(portable)
ATTN_KERNELS(avx2)
ATTN_KERNELS(avx512)
ATTN_KERNELS(neon)

#endif
