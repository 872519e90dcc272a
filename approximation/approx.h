/* How far NTK-Attention is from attention with the prefix itself. Hidden, double.
 *
 * Everything a query sees of a set of tokens is a mass and a weighted sum of
 * values, so a prefix and any summary that stands in for it are compared as
 * such pairs (docs/derivations.md, "The error of a summary"):
 *
 *   exact    p_i = sum_r e^{t_ir}           N_i = sum_r e^{t_ir} v_r
 *   approx   p^_i = <phi(q_i), k>           N^_i = phi(q_i)^T Z
 *   output   T_i = (Na_i + N^_i) / (a_i + p^_i)      a, Na: the input tokens
 *
 * Arrays are row-major double, owned by the caller; t = <q, k> scale. Functions
 * return GSL codes (GSL_ENOMEM, GSL_EDOM not finite, GSL_EINVAL) and are
 * single-threaded: programs run trials side by side. */
#ifndef ATTENTION_APPROX_H
#define ATTENTION_APPROX_H
#include <stddef.h>

/* ---- masses and weighted values per query -------------------------------- */

/* Row i stands for mass[i] e^{shift[i]} and num[i][.] e^{shift[i]}. */
struct attn_sums {
    size_t num_queries, dim;
    double *shift, *mass;      /* (num_queries) */
    double *num;               /* (num_queries, dim) */
};

/* All zero: an empty set of tokens. */
int attn_sums_alloc(struct attn_sums *s, size_t num_queries, size_t dim);
void attn_sums_free(struct attn_sums *s);       /* accepts a zeroed struct */

/* Exact sums over (K, V), (len, dim) each, for Q (num_queries, dim); shift is the
 * row maximum of the scores, so any finite score is fine. */
int attn_sums_exact(const double *Q, const double *K, const double *V, size_t len, double scale,
                    struct attn_sums *out);

/* log-mass of row i: log mass + shift; -inf when empty. GSL's usual care is the
 * caller's: mass must not be negative. */
double attn_sums_log_mass(const struct attn_sums *s, size_t i);

/* ---- a prefix read once, in constant memory -------------------------------- */

/* Power sums M_j = sum_r t_ir^j (v_r, 1), j = 0..degree, of which every polynomial
 * map is a combination; exact sums at several temperatures (scores theta t);
 * optionally E E^T, E = e^{theta t}, for the best factorisation of a given rank. */
struct prefix_sums {
    size_t num_queries, dim, degree, num_temps, prefix_len;
    int with_gram;
    double scale, max_key_norm;
    double *temps;             /* (num_temps) */
    double *shift;             /* (num_queries): subtracted in exact sums, at temperature 1 */
    double *power;             /* (degree + 1, num_queries, dim + 1), last column the mass */
    double *exact;             /* (num_temps, num_queries, dim + 1) */
    double *gram;              /* (num_temps, num_queries, num_queries) or NULL */
    double *work;
};

enum { PREFIX_SUMS_BLOCK = 512 };

/* temps NULL: the one temperature 1. shift NULL: zeros, good while |t| < 600; else
 * a bound of the scores per query. */
int prefix_sums_alloc(struct prefix_sums *s, size_t num_queries, size_t dim, double scale,
                      size_t degree, const double *temps, size_t num_temps, const double *shift,
                      int with_gram);
void prefix_sums_free(struct prefix_sums *s);
int prefix_sums_copy(struct prefix_sums *to, const struct prefix_sums *from);

/* Bytes of such sums, and of attn_sums. */
size_t prefix_sums_bytes(size_t num_queries, size_t dim, size_t degree, size_t num_temps, int with_gram);
size_t attn_sums_bytes(size_t num_queries, size_t dim);

/* Adds count <= PREFIX_SUMS_BLOCK tokens. */
int prefix_sums_add(struct prefix_sums *s, const double *Q, const double *Kp, const double *Vp,
                    size_t count);

/* The prefix itself at temperature number `temp`. */
int prefix_sums_exact(const struct prefix_sums *s, size_t temp, struct attn_sums *out);

/* sum_r p(theta t_ir) with coefficients num[0..degree_num] on the values and
 * den[0..degree_den] on the mass. `centred`: the polynomial of theta (t_ir - c_i),
 * times e^{theta c_i}, c_i = <q_i, kbar> scale with kbar the mean key. */
int prefix_sums_polynomial(const struct prefix_sums *s, double theta, int centred,
                           const double *num, size_t degree_num, const double *den,
                           size_t degree_den, struct attn_sums *out);

/* The prefix replaced by the Gaussian of its moments: with c_i, var_i the mean and
 * variance of theta t_i., log mass = log m + c_i + var_i / 2 and mean = vbar + cov(theta t, v).
 * A summary of kbar, vbar, cov(k, k), cov(k, v) gives it: 3/2 d^2 + 5/2 d + 1 numbers.
 * Needs degree >= 2. */
int prefix_sums_cumulant(const struct prefix_sums *s, double theta, struct attn_sums *out);

/* The best rank-r factorisation of E (Eckart-Young), as a map on these queries. */
int prefix_sums_oracle(const struct prefix_sums *s, size_t temp, size_t rank, struct attn_sums *out);

/* The tokens of a stream are cut at powers of two up to PREFIX_SUMS_BLOCK and at its
 * multiples, whatever lengths are asked for, so no length changes the bits of another.
 * The end of the block that starts at `first`. */
size_t prefix_sums_block_end(size_t first);

/* ---- comparison ------------------------------------------------------------------ */

struct approx_errors {
    double err_max;            /* max |T - PA| */
    double err_rel;            /* ||T - PA||_F / ||PA - Attn||_F */
    double err_mass, err_mean; /* the two parts of the exact split, same denominator */
    double abs_rms;            /* sqrt(mean over queries of ||T - PA||^2) */
    double effect_rms;         /* the same of PA - Attn */
    double out_rms;            /* the same of PA */
    double mass_mean;          /* mean of rho^ */
    double rho_mean;           /* mean of rho */
    size_t num_nonpositive;    /* rows with D <= 0: left out of all of the above */
    size_t num_rows;           /* rows that entered */
};

/* `into` becomes what both sets of rows give together (num_rows 0 at first). */
void approx_errors_merge(struct approx_errors *into, const struct approx_errors *more);

/* Any of input, approx may be NULL (no input tokens; no prefix at all). T
 * (num_queries, dim) receives the approximate output when not NULL (rows with D <= 0: PA). */
int approx_compare(const struct attn_sums *input, const struct attn_sums *prefix,
                   const struct attn_sums *approx, struct approx_errors *out, double *T);

/* ---- summaries by features ------------------------------------------------------- */

/* Z (r, dim) += Phi_k^T V, k (r) += Phi_k^T 1 for a block of tokens, Phi_k (count, r). */
void summary_add(const double *Phi_k, const double *V, size_t count, size_t r, size_t dim,
                 double *Z, double *k);
/* mass = Phi k, num = Phi Z, shift 0; Phi (num_queries, r). */
void summary_apply(const double *Phi, size_t r, const double *Z, const double *k,
                   struct attn_sums *out);

/* What (Z, k) is fitted to: rows of features and the exact sums of the same queries. */
struct summary_problem {
    size_t r;
    const double *Phi;                       /* (num_queries, r) */
    const struct attn_sums *input, *prefix;
};

/* k first: Phi k / (a + p) to rho, k >= 0 when `nonnegative`, else ridge raised until
 * D > 0 on every row; then Z with k fixed. Ridges are chosen on the last quarter of
 * the rows, then all rows are used. GSL_EDOM when no ridge gives D > 0. */
int summary_fit_lstsq(const struct summary_problem *p, int nonnegative, double *Z, double *k);

/* min ||A x - b||, x >= 0, from G = A^T A (r, r) and c = A^T b (Lawson-Hanson). */
int nnls_normal(const double *G, const double *c, size_t r, double *x);

enum summary_param { SUMMARY_LINEAR, SUMMARY_FREE, SUMMARY_LOG, SUMMARY_ABS };

/* Adam on the mean squared error of the output, batches of `batch` rows in turn; Z, k
 * are the start and the result. linear: k projected to k >= 0, for maps with features
 * >= 0; free: k of either sign, GSL_EDOM once a D <= 0; log: k = e^theta, which needs
 * k > 0 at the start; abs: k = |theta|, theta the k given, with the slope 0 at 0 that automatic
 * differentiation has there. losses (may be NULL) receives the loss of each step. */
int summary_fit_adam(const struct summary_problem *p, enum summary_param param, double lr,
                     size_t num_steps, size_t batch, double *Z, double *k, double *losses);

/* ---- exponentials, vectorised ------------------------------------------------------ */

/* y = e^x to 2 ulp; x below -708 gives 0, above 709 +inf. y may be x. */
void approx_exp(size_t n, const double *x, double *y);

#endif
