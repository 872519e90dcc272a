#include "transformer/attention_beside.h"

#include <cblas.h>
#include <gsl/gsl_errno.h>

#include "transformer/arena.h"

/* Rows per block of features. */
enum { FEATURE_ROWS = 64 };

struct feature_work { float *phi, *dphi; void *map; };

static size_t block_bytes(const struct feature_map *map)
{
    return (FEATURE_ROWS * feature_dim(map) * sizeof(float) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

static struct feature_work feature_work_of(char *work, const struct feature_map *map)
{
    const size_t bytes = block_bytes(map);
    return (struct feature_work){ (float *)work, (float *)(work + bytes), work + 2 * bytes };
}

size_t attention_beside_bytes(const struct feature_map *map)
{
    return 2 * block_bytes(map) + feature_workspace(map, 1);
}

static size_t rows_from(const struct attention_beside *b, size_t i)
{
    return b->rows - i < FEATURE_ROWS ? b->rows - i : FEATURE_ROWS;
}

int attention_beside_forward(const struct attention_beside *b, float *out, char *work)
{
    const size_t d = b->dim, r = feature_dim(b->map);
    const struct feature_work f = feature_work_of(work, b->map);
    for (size_t head = 0; head < b->heads; head++)
        for (size_t i = 0; i < b->rows; i += FEATURE_ROWS) {
            const size_t n = rows_from(b, i);
            const float *q = b->q + i * b->q_stride + head * d;
            const int status = feature_forward_f32(b->map, FEATURE_QUERY, n, q, b->q_stride, f.phi, r, NULL, 1, f.map);
            if (status) return status;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n, (blasint)d, (blasint)r, 1.0f, f.phi,
                        (blasint)r, b->Z + head * r * d, (blasint)d, 1.0f, out + i * b->stride + head * d,
                        (blasint)b->stride);
        }
    return GSL_SUCCESS;
}

int attention_beside_backward(const struct attention_beside *b, const float *d_out, float *dq, float *dZ, char *work)
{
    const size_t d = b->dim, r = feature_dim(b->map);
    const struct feature_work f = feature_work_of(work, b->map);
    for (size_t head = 0; head < b->heads; head++)
        for (size_t i = 0; i < b->rows; i += FEATURE_ROWS) {
            const size_t n = rows_from(b, i), at = i * b->q_stride + head * d;
            const float *q = b->q + at, *dT = d_out + i * b->stride + head * d;
            int status = feature_forward_f32(b->map, FEATURE_QUERY, n, q, b->q_stride, f.phi, r, NULL, 1, f.map);
            if (status) return status;
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)r, (blasint)d, (blasint)n, 1.0f, f.phi,
                        (blasint)r, dT, (blasint)b->stride, 1.0f, dZ + head * r * d, (blasint)d);
            if (!dq) continue;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)n, (blasint)r, (blasint)d, 1.0f, dT,
                        (blasint)b->stride, b->Z + head * r * d, (blasint)d, 0.0f, f.dphi, (blasint)r);
            status = feature_backward_f32(b->map, FEATURE_QUERY, n, q, b->q_stride, f.dphi, r, NULL, dq + at,
                                          b->q_stride, 1, 1, f.map);
            if (status) return status;
        }
    return GSL_SUCCESS;
}
