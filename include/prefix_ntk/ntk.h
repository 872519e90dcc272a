/* Neural tangent kernels of the prefix model: empirical, infinite-prefix limit.
 *
 * Kernel matrices are (n d, n d), row i d + k for sample i, output k; symmetric,
 * both triangles filled. Full kernel K: all of dF/dw; key kernel H: the softmax
 * (key) path only. Conventions of prefix_model.h (layout, codes, threads). */
#ifndef PREFIX_NTK_NTK_H
#define PREFIX_NTK_NTK_H
#include "prefix_ntk/prefix_model.h"

#ifdef __cplusplus
extern "C" {
#endif

enum ntk_kernel { NTK_FULL, NTK_KEY };

/* Bytes ntk_gram needs beyond its arguments. */
PREFIX_NTK_API size_t ntk_gram_workspace(size_t num_samples, size_t dim, size_t prefix_len, int num_threads);

/* K or H of the prefix W at its current value: (1/m) sum_r <dF_k(x_i)/dw_r, dF_l(x_j)/dw_r>.
 * By pair moments (below) where they are accurate, else as ntk_gram_syrk: normwise
 * accurate to about 1e-11 for any finite W, to about 1e-15 for random prefixes. */
PREFIX_NTK_API int ntk_gram(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                            enum ntk_kernel kernel, gsl_matrix *gram, int num_threads);

/* The same by the features-and-SYRK route: slower, best conditioned; the cross-check. */
PREFIX_NTK_API int ntk_gram_syrk(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                                 enum ntk_kernel kernel, gsl_matrix *gram, int num_threads);

/* The kernel of a prefix that arrives in pieces. The Jacobian of token r is
 *
 *   m S_ir (a_r I + (b_r - f_i) x_i^T),   b_r = a_r w_r,   f_i = sum_r S_ir b_r
 *
 * so all of K and H is in the moments sum_r rho_ir rho_jr (1, a, w, b, w w^T) of the
 * pairs i <= j, rho_ir = e^{<w_r,x_i>} up to a factor per sample: plain sums over
 * tokens, normalised only at the end. A sweep over prefix lengths costs what the
 * longest costs. Signs are +-1.
 *
 * Sums run in fixed blocks merged in a fixed binary tree: the kernel of the first m
 * tokens has the same bits however they were cut into calls, on any number of
 * threads, whichever kernels were asked for in between. */
struct ntk_moments;

/* Of inputs X (copied). `law` says what may be left out: POSITIVE all signs are 1;
 * MIRRORED only the first half of the prefix is added, its twins of opposite sign
 * are understood. `kernel`: NTK_FULL serves both kernels, NTK_KEY only H, for less and
 * with the same bits. NULL: no memory, or X empty. */
PREFIX_NTK_API struct ntk_moments *ntk_moments_alloc(const gsl_matrix *X, enum prefix_signs law,
                                                     enum ntk_kernel kernel, int num_threads);
PREFIX_NTK_API void ntk_moments_free(struct ntk_moments *moments);

/* Bytes for prefixes up to prefix_len tokens. */
PREFIX_NTK_API size_t ntk_moments_bytes(size_t num_samples, size_t dim, enum prefix_signs law,
                                        enum ntk_kernel kernel, size_t prefix_len);

/* Adds tokens W (count, dim), signs (count). GSL_EBADLEN shapes; GSL_EINVAL a sign the
 * law does not allow; GSL_EDOM not finite; GSL_ERANGE a score beyond 2^20, where only
 * ntk_gram_syrk goes. After a failure other than GSL_EBADLEN and GSL_EINVAL the sums
 * are incomplete and every later call returns the same code. */
PREFIX_NTK_API int ntk_moments_add(struct ntk_moments *moments, const gsl_matrix *W,
                                   const gsl_vector *signs);

/* Appends the tokens of `from` (same inputs, law, kernel) to those of `into`, whose
 * number must be a multiple of NTK_MOMENTS_LEAF times the smallest power of two not
 * below the leaves of `from`: then the bits are those of adding the tokens one
 * after another. GSL_EINVAL otherwise; GSL_ENOMEM. Where adding to `from` failed, `into` fails likewise. */
enum { NTK_MOMENTS_LEAF = 16384 };
PREFIX_NTK_API int ntk_moments_merge(struct ntk_moments *into, const struct ntk_moments *from);

/* The sums as numbers, to be kept or sent to another process: state_size of them. Load takes
 * the place of what was added: GSL_EINVAL for numbers of other inputs, law or kernel (as far as
 * shapes show it), GSL_ENOMEM. The bits of what follows are those of moments that went on. */
PREFIX_NTK_API size_t ntk_moments_state_size(const struct ntk_moments *moments);
PREFIX_NTK_API void ntk_moments_save(const struct ntk_moments *moments, double *state);
PREFIX_NTK_API int ntk_moments_load(struct ntk_moments *moments, const double *state, size_t size);

/* The same as bytes that can be kept and checked: ntk_moments_saved_size of them, at an address that
 * a double may have. Layout, version 1, in the byte order of the machine:
 *
 *   0   "PNTKSUM\n"; uint32 0x0a0b0c0d, which tells the byte order; uint32 version
 *   16  "moments", a zero; uint64 size of everything
 *   32  uint64 FNV-1a of the inputs X
 *   40  uint64 num_samples, dim, law, kernel, instruction set of the kernels, numbers, 0, 0
 *   104 the numbers of ntk_moments_save
 *   end uint64 FNV-1a of all before
 *
 * GSL_EINVAL the size given or the address is wrong; the bytes are of another kind, other inputs, law,
 * kernel or instruction set (whose sums have other low bits: PREFIX_NTK_ISA); GSL_ESANITY they are no
 * such bytes, of another version or byte order, cut off or damaged; GSL_ENOMEM. Moments that were
 * refused are untouched. */
PREFIX_NTK_API size_t ntk_moments_saved_size(const struct ntk_moments *moments);
PREFIX_NTK_API int ntk_moments_save_bytes(const struct ntk_moments *moments, void *bytes, size_t size);
PREFIX_NTK_API int ntk_moments_load_bytes(struct ntk_moments *moments, const void *bytes, size_t size);

/* Forgets the tokens, and what failed. */
PREFIX_NTK_API void ntk_moments_clear(struct ntk_moments *moments);

/* Tokens added so far. */
PREFIX_NTK_API size_t ntk_moments_count(const struct ntk_moments *moments);

/* Kernel of the tokens added so far; more can follow. *cancellation (may be NULL):
 * the Frobenius norm of what is subtracted and added per that of the kernel, so
 * that the relative error is about DBL_EPSILON times this. GSL_EINVAL no tokens, or
 * NTK_FULL of moments for NTK_KEY; GSL_EDOM the kernel is not finite. */
PREFIX_NTK_API int ntk_moments_gram(struct ntk_moments *moments, enum ntk_kernel kernel,
                                    gsl_matrix *gram, double *cancellation);

/* Beyond this cancellation ntk_gram and ntk_sweep take the SYRK route. */
#define NTK_MAX_CANCELLATION 1e4

/* Kernels of nested random prefixes of one trial (prefix_draw's), which are never
 * stored as a whole. Step through prefix lengths in ascending order; a length may be
 * repeated for the other kernel. */
struct ntk_sweep;
PREFIX_NTK_API struct ntk_sweep *ntk_sweep_alloc(const gsl_matrix *X, uint64_t seed, uint64_t trial,
                                                 enum prefix_signs law, double sigma,
                                                 enum ntk_kernel kernel, int num_threads);
PREFIX_NTK_API void ntk_sweep_free(struct ntk_sweep *sweep);

/* K or H of the first prefix_len tokens, as accurate as ntk_gram; the bits do not
 * depend on the steps before. GSL_EINVAL a shorter prefix than before, an empty one, or
 * an odd one for mirrored signs; and what ntk_moments_gram returns. */
PREFIX_NTK_API int ntk_sweep_step(struct ntk_sweep *sweep, size_t prefix_len, enum ntk_kernel kernel,
                                  gsl_matrix *gram);

/* The parts of such a step, for processes that share a prefix. Extend adds tokens up to prefix_len
 * (a later step goes on from there); part forgets all and adds tokens [first, first + count) alone,
 * an aligned subtree of leaves for ntk_moments_merge. Codes of ntk_moments_add. The moments are the sweep's. */
PREFIX_NTK_API int ntk_sweep_extend(struct ntk_sweep *sweep, size_t prefix_len);
PREFIX_NTK_API int ntk_sweep_part(struct ntk_sweep *sweep, size_t first, size_t count);
PREFIX_NTK_API struct ntk_moments *ntk_sweep_moments(struct ntk_sweep *sweep);

/* The Jacobian itself, (n d, prefix_len d), row i d + k, column r d + q: dF_k(x_i)/dw_rq, for
 * small prefixes: the kernel is (1/m) J J'. */
PREFIX_NTK_API int ntk_jacobian(const gsl_matrix *W, const gsl_vector *signs, const gsl_matrix *X,
                                enum ntk_kernel kernel, gsl_matrix *jacobian);

/* Infinite-prefix limit between two sets of inputs: (n1 d, n2 d). `law` matters
 * through E[a] (positive: 1, else 0). */
PREFIX_NTK_API int ntk_limit(const gsl_matrix *X1, const gsl_matrix *X2, double sigma,
                             enum prefix_signs law, enum ntk_kernel kernel, gsl_matrix *limit);

/* How far a finite prefix is from the limit, to first order in 1/sqrt(m):
 *
 *   sqrt(E ||K_m - K*||_F^2) / ||K*||_F  ->  constant / sqrt(m)
 *
 * Exact in the limit for every law (closed form, docs/derivations.md). The variance
 * is carried by tokens 2 sigma ||x_i + x_j|| standard deviations out; until the
 * prefix holds such tokens the error looks smaller than this and falls more slowly.
 * *prefix_len_min (may be NULL) receives the m at which one of them is expected.
 * GSL_EDOM when sigma is not positive, X not finite, or the limit is 0;
 * GSL_EOVRFLW when the variance exceeds the range of a double. */
PREFIX_NTK_API int ntk_error_constant(const gsl_matrix *X, double sigma, enum prefix_signs law,
                                      enum ntk_kernel kernel, double *constant,
                                      double *prefix_len_min);

/* Eigenvalues of a symmetric matrix in ascending order; each is off by at most
 * about size * DBL_EPSILON * (the largest), whatever its own size. */
PREFIX_NTK_API int ntk_eigenvalues(const gsl_matrix *symmetric, gsl_vector *eigenvalues);

/* The smallest of them alone, for less: of a positive definite matrix by Cholesky and Lanczos on
 * the inverse. Takes a copy. */
PREFIX_NTK_API int ntk_lambda_min(const gsl_matrix *symmetric, double *lambda_min);

/* The same without the copy, overwriting the matrix, with the bits of one thread on any number of
 * them. Beyond the matrix it needs about 200 vectors. */
PREFIX_NTK_API int ntk_lambda_min_in_place(gsl_matrix *symmetric, int num_threads, double *lambda_min);

/* Singular values of any matrix, descending: min(rows, columns) of them. */
PREFIX_NTK_API int ntk_singular_values(const gsl_matrix *A, gsl_vector *values);

#ifdef __cplusplus
}
#endif
#endif
