/* A prefix folded into a summary (Z, k), and back.
 *
 *   Z = Phi(K_P)^T V_P  (feat_dim, value_dim)      k = Phi(K_P)^T 1  (feat_dim)
 *
 * (plug-in summary of arXiv:2406.14036v2; phi of feature.h, its VALUE side in Z and
 * its MASS side in k). Summaries add: tokens may come in any number of calls, in
 * constant memory, and folds made by different threads or processes merge. Sums are
 * kept in double precision and in eight interleaved lanes, added in a fixed tree:
 * the result depends on the tokens and on where calls are split, not on threads;
 * calls split at multiples of attn_fold_block give the bits of one call.
 *
 * Favor features span hundreds of orders of magnitude, so sums carry a scale of
 * their own: Z and k are e^{log_scale} times the stored numbers. Conventions of
 * feature.h (rows with strides, codes, threads). A fold is one caller's at a time. */
#ifndef PREFIX_NTK_SUMMARY_H
#define PREFIX_NTK_SUMMARY_H
#include <stddef.h>
#include "prefix_ntk/export.h"
#include "prefix_ntk/feature.h"

#ifdef __cplusplus
extern "C" {
#endif

struct attn_fold;

/* An empty sum. The map must outlive it. GSL_EUNSUP the map is not explicit (use
 * feature_score on the scores instead); GSL_EINVAL value_dim = 0; GSL_EOVRFLW; GSL_ENOMEM. */
PREFIX_NTK_API int attn_fold_alloc(const feature_map *map, size_t value_dim, struct attn_fold **fold);
PREFIX_NTK_API void attn_fold_free(struct attn_fold *fold);          /* accepts NULL */

/* Bytes attn_fold_alloc takes for feat_dim features; SIZE_MAX when that overflows (no failure of
 * other arguments). */
PREFIX_NTK_API size_t attn_fold_bytes(size_t feat_dim, size_t value_dim);

/* Tokens per block. */
PREFIX_NTK_API size_t attn_fold_block(const feature_map *map);

/* Bytes of scratch of attn_fold_add and attn_fold_backward, any number of tokens; num_threads below 1
 * counts as 1. SIZE_MAX when that overflows (value_dim above 2^44). */
PREFIX_NTK_API size_t attn_fold_workspace(const feature_map *map, size_t value_dim, int num_threads);

/* Adds n tokens: K (n, dim), V (n, value_dim). work: attn_fold_workspace bytes or NULL.
 * GSL_EDOM a number is not finite, GSL_EBADLEN, GSL_ENOMEM; the fold is then spoilt
 * (attn_fold_reset). */
PREFIX_NTK_API int attn_fold_add_f32(struct attn_fold *fold, size_t n, const float *K, size_t ldk,
                                     const float *V, size_t ldv, int num_threads, void *work);
PREFIX_NTK_API int attn_fold_add_f64(struct attn_fold *fold, size_t n, const double *K, size_t ldk,
                                     const double *V, size_t ldv, int num_threads, void *work);

PREFIX_NTK_API void attn_fold_reset(struct attn_fold *fold);

/* into += from. GSL_EBADLEN: the maps are not equal (feature_map_equal; each fold may have one of
 * its own) or value_dim differs. */
PREFIX_NTK_API int attn_fold_merge(struct attn_fold *into, const struct attn_fold *from);

/* A fold as bytes, for another process or a later one: attn_fold_saved_size of them, at an address
 * that a double may have. Layout, version 1, in the byte order of the machine:
 *
 *   0   "PNTKSUM\n"; uint32 0x0a0b0c0d, which tells the byte order; uint32 version
 *   16  "fold", zeros to 8 bytes; uint64 size of everything
 *   32  uint64 FNV-1a of the map: family, order, dim, feat_dim, degree, coefficients, directions
 *   40  uint64 family, order, dim, feat_dim, value_dim, lanes, tokens, blocks
 *   104 double per lane its log-scale, then its sums (feat_dim, value_dim + 1), k the last column
 *   end uint64 FNV-1a of all before
 *
 * Load replaces what the fold holds; it then goes on, bit by bit, as the saved one would have.
 * GSL_EINVAL the size given or the address is wrong (save); the bytes are of another kind, map or
 * value_dim (load); GSL_ESANITY (load) they are no such bytes, of another version or byte order, cut
 * off or damaged. The fold is untouched then. */
PREFIX_NTK_API size_t attn_fold_saved_size(const struct attn_fold *fold);
PREFIX_NTK_API int attn_fold_save(const struct attn_fold *fold, void *bytes, size_t size);
PREFIX_NTK_API int attn_fold_load(struct attn_fold *fold, const void *bytes, size_t size);

/* Tokens added so far. */
PREFIX_NTK_API size_t attn_fold_count(const struct attn_fold *fold);

/* Z (feat_dim, value_dim, no gaps) and kvec, the vector k (feat_dim). log_scale NULL: the true numbers,
 * GSL_EOVRFLW when one is out of range, GSL_EUNDRFLW when all of k falls below the smallest
 * normal number, so that the prefix would be lost (Z and k are written then, too). An empty
 * fold gives zeros and scale 0. GSL_ENOMEM. */
PREFIX_NTK_API int attn_fold_read_f32(const struct attn_fold *fold, float *Z, float *kvec, double *log_scale);
PREFIX_NTK_API int attn_fold_read_f64(const struct attn_fold *fold, double *Z, double *kvec, double *log_scale);

/* From the gradients in Z and k as read (stored numbers, log_scale of that read; 0
 * for true ones) to those in the tokens:
 *   dV = Phi dZ     dK = J_phi(K)^T (V dZ^T) + J_phi(K)^T (1 dk^T)
 * K, V, dZ, dkvec in, dK, dV out. accumulate: 0 overwrites dK, dV, 1 adds. GSL_EUNSUP, GSL_EINVAL,
 * GSL_EBADLEN, GSL_ENOMEM, GSL_EDOM as above, GSL_EOVRFLW a gradient is out of range. */
PREFIX_NTK_API int attn_fold_backward_f32(const feature_map *map, size_t value_dim, size_t n,
                                          const float *K, size_t ldk, const float *V, size_t ldv,
                                          const double *dZ, const double *dkvec, double log_scale,
                                          float *dK, size_t lddk, float *dV, size_t lddv,
                                          int accumulate, int num_threads, void *work);
PREFIX_NTK_API int attn_fold_backward_f64(const feature_map *map, size_t value_dim, size_t n,
                                          const double *K, size_t ldk, const double *V, size_t ldv,
                                          const double *dZ, const double *dkvec, double log_scale,
                                          double *dK, size_t lddk, double *dV, size_t lddv,
                                          int accumulate, int num_threads, void *work);

#ifdef __cplusplus
}
#endif
#endif
