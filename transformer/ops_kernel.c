/* Vectors of the instruction set's width; what is left of a row at its end goes through the same arithmetic in a
 * padded vector, so a number does not depend on where in the row it stands. */
#include "transformer/ops_kernel.h"

#include <stdint.h>
#include <string.h>

#if defined(ISA_AVX512)
#define LANES 16
#elif defined(ISA_AVX2)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec load_some(const float *p, size_t n) { vec v = { 0 }; memcpy(&v, p, n * sizeof(float)); return v; }
INLINE void store_some(float *p, vec v, size_t n) { memcpy(p, &v, n * sizeof(float)); }
INLINE vec splat(float x) { return x - (vec){ 0 }; }
INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* Lanes added in a fixed tree. */
INLINE float total(vec v)
{
    float x[LANES];
    memcpy(x, &v, sizeof v);
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

/* Runs BODY for i = 0, LANES, ...: GET(p) and PUT(p, v) reach row elements i.. of a whole vector, then of the rest. */
#define EACH(n, BODY)                                                              \
    do {                                                                           \
        size_t i = 0;                                                              \
        for (; i + LANES <= (n); i += LANES) {                                     \
            enum { WHOLE = 1 };                                                    \
            const size_t rest = LANES; (void)rest; BODY                            \
        }                                                                          \
        if (i < (n)) {                                                             \
            enum { WHOLE = 0 };                                                    \
            const size_t rest = (n) - i; BODY                                      \
        }                                                                          \
    } while (0)
#define GET(p) (WHOLE ? load((p) + i) : load_some((p) + i, rest))
#define PUT(p, v) (WHOLE ? store((p) + i, (v)) : store_some((p) + i, (v), rest))

/* e^x for -87 <= x <= 88: 2^j e^t, |t| <= ln 2 / 2, e^t by its series to t^7 (relative error 6e-9 and rounding). */
INLINE vec exp_vec(vec x)
{
    const float magic = 0x1.8p23f;
    const vec j = (x * 0x1.715476p0f + magic) - magic;
    vec t = x - j * 0x1.62e400p-1f;              /* ln 2, high part: j times it is exact */
    t = t - j * 0x1.7f7d1cp-20f;
    vec p = t * (1.0f / 5040.0f) + 1.0f / 720.0f;
    p = p * t + 1.0f / 120.0f;
    p = p * t + 1.0f / 24.0f;
    p = p * t + 1.0f / 6.0f;
    p = p * t + 0.5f;
    p = p * t + 1.0f;
    p = p * t + 1.0f;
    const ivec power = ((ivec)(j + (magic + 127.0f))) << 23;
    return p * (vec)power;
}

/* 1 - Phi(a) = e^{-a^2/2} h(a), a >= 0: h as a polynomial of degree 9 in t = 1/(1 + 0.35 a) without constant, least
 * relative error 3.2e-8 on [0, 14] (weighted least squares, exchanged until level). */
INLINE vec normal_tail(vec a, vec *density)
{
    const vec bell = exp_vec(a * a * -0.5f), t = 1.0f / (a * 0.35f + 1.0f);
    vec h = t * -0x1.dd871ep-6f + 0x1.26dac4p-3f;
    h = h * t - 0x1.05da18p-2f;
    h = h * t + 0x1.45fd68p-3f;
    h = h * t - 0x1.7aa350p-6f;
    h = h * t + 0x1.b02954p-4f;
    h = h * t + 0x1.ead5d4p-4f;
    h = h * t + 0x1.1e6fe8p-3f;
    h = h * t + 0x1.1df1d4p-3f;
    *density = bell * 0x1.988454p-2f;            /* 1/sqrt(2 pi) */
    return bell * (h * t);
}

/* GELU and its slope; beyond |u| = 13 the tail is 0 in float32 times anything that matters. */
INLINE vec gelu(vec u, vec *slope)
{
    const ivec negative = u < 0.0f;
    vec a = choose(negative, -u, u);
    a = choose(a > 13.0f, splat(13.0f), a);
    vec density;
    const vec tail = normal_tail(a, &density);
    const vec below = choose(negative, tail, 1.0f - tail);
    *slope = below + choose(negative, -a, a) * density;
    return u * below;
}

static void add_bias(size_t rows, size_t n, const float *bias, float *y, size_t ld)
{
    for (size_t r = 0; r < rows; r++, y += ld) EACH(n, { PUT(y, GET(y) + GET(bias)); });
}

static void bias_gelu(size_t rows, size_t n, const float *bias, float *y, float *slope, size_t ld)
{
    for (size_t r = 0; r < rows; r++, y += ld) {
        vec s;
        if (!slope) {
            EACH(n, { PUT(y, gelu(GET(y) + GET(bias), &s)); });
            continue;
        }
        EACH(n, { const vec g = gelu(GET(y) + GET(bias), &s); PUT(y, g); PUT(slope, s); });
        slope += ld;
    }
}

static void bias_residual(size_t rows, size_t n, const float *bias, const float *scale, const float *residual,
                          float *branch, float *y)
{
    for (size_t r = 0; r < rows; r++, y += n, residual += n) {
        if (branch) {
            EACH(n, { PUT(branch, GET(y) + GET(bias)); });
            branch += n;
        }
        if (scale) EACH(n, { PUT(y, GET(residual) + GET(scale) * (GET(y) + GET(bias))); });
        else EACH(n, { PUT(y, GET(residual) + (GET(y) + GET(bias))); });
    }
}

static void scale_columns(size_t rows, size_t n, const float *scale, const float *a, float *y)
{
    for (size_t r = 0; r < rows; r++, a += n, y += n) EACH(n, { PUT(y, GET(a) * GET(scale)); });
}

static void multiply(size_t n, const float *a, float *y)
{
    EACH(n, { PUT(y, GET(y) * GET(a)); });
}

static void add(size_t n, const float *a, float *y)
{
    EACH(n, { PUT(y, GET(y) + GET(a)); });
}

/* x - mean, 0 beyond the row's end. */
INLINE vec centred(vec x, float mean, size_t rest)
{
    vec c = x - mean;
    if (rest < LANES) {
        const vec zero = { 0 };
        vec kept = zero;
        memcpy(&kept, &c, rest * sizeof(float));
        c = kept;
    }
    return c;
}

static void norm(size_t rows, size_t n, float eps, const float *x, const float *weight, const float *bias, float *y,
                 float *stats)
{
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        vec sum = { 0 }, square = { 0 };
        EACH(n, { sum += GET(x); });
        const float mean = total(sum) / (float)n;
        EACH(n, { const vec c = centred(GET(x), mean, rest); square += c * c; });
        const float rstd = 1.0f / __builtin_sqrtf(total(square) / (float)n + eps);
        EACH(n, { PUT(y, (GET(x) - mean) * rstd * GET(weight) + GET(bias)); });
        if (!stats) continue;
        stats[2 * r] = mean;
        stats[2 * r + 1] = rstd;
    }
}

static void norm_backward(size_t rows, size_t n, const float *x, const float *stats, const float *weight,
                          const float *dy, const float *residual, float *dx)
{
    for (size_t r = 0; r < rows; r++, x += n, dy += n, dx += n) {
        const float mean = stats[2 * r], rstd = stats[2 * r + 1];
        vec sum = { 0 }, along = { 0 };
        EACH(n, {
            const vec g = GET(weight) * GET(dy);
            sum += g;
            along += g * ((GET(x) - mean) * rstd);
        });
        const float shift = total(sum) / (float)n, slope = total(along) / (float)n;
        if (residual) {
            EACH(n, {
                const vec g = GET(weight) * GET(dy);
                PUT(dx, GET(residual) + rstd * (g - shift - (GET(x) - mean) * rstd * slope));
            });
            residual += n;
        } else {
            EACH(n, {
                const vec g = GET(weight) * GET(dy);
                PUT(dx, rstd * (g - shift - (GET(x) - mean) * rstd * slope));
            });
        }
    }
}

static void norm_columns(size_t rows, size_t n, size_t ld, const float *x, const float *stats, const float *dy,
                         float *d_weight, float *d_bias)
{
    EACH(n, {
        vec weight = { 0 };
        vec bias = { 0 };
        for (size_t r = 0; r < rows; r++) {
            const vec g = GET(dy + r * ld);
            bias += g;
            weight += g * ((GET(x + r * ld) - stats[2 * r]) * stats[2 * r + 1]);
        }
        PUT(d_weight, weight);
        PUT(d_bias, bias);
    });
}

static void sum_columns(size_t rows, size_t n, size_t ld, const float *a, const float *b, float *sum)
{
    EACH(n, {
        vec s = { 0 };
        if (b) for (size_t r = 0; r < rows; r++) s += GET(a + r * ld) * GET(b + r * ld);
        else for (size_t r = 0; r < rows; r++) s += GET(a + r * ld);
        PUT(sum, s);
    });
}

static float exp_row(size_t n, float max, float *s)
{
    vec sum = { 0 };
    EACH(n, {
        vec x = GET(s) - max;
        const ivec tiny = x < -87.0f;
        x = choose(tiny, splat(-87.0f), x);
        vec p = choose(tiny, (vec){ 0 }, exp_vec(x));
        PUT(s, p);
        sum += centred(p, 0.0f, rest);
    });
    return total(sum);
}

/* Lists of lanes for __builtin_shufflevector, which are constants: those with bit w set come from the second vector,
 * each from its place or from its partner's. */
#if LANES == 16
#define LIST(f, w) f(0, w), f(1, w), f(2, w), f(3, w), f(4, w), f(5, w), f(6, w), f(7, w), f(8, w), f(9, w), f(10, w), \
                   f(11, w), f(12, w), f(13, w), f(14, w), f(15, w)
#elif LANES == 8
#define LIST(f, w) f(0, w), f(1, w), f(2, w), f(3, w), f(4, w), f(5, w), f(6, w), f(7, w)
#else
#define LIST(f, w) f(0, w), f(1, w), f(2, w), f(3, w)
#endif
#define OWN(lane, w) ((lane) & (w) ? LANES + (lane) : (lane))
#define PARTNER(lane, w) ((lane) & (w) ? LANES + ((lane) ^ (w)) : (lane) ^ (w))
#define FOLD(w)                                                                    \
    _Pragma("GCC unroll 8") for (int i = 0; i < (w); i++)                          \
        v[i] = __builtin_shufflevector(v[i], v[i + (w)], LIST(OWN, w)) +           \
               __builtin_shufflevector(v[i], v[i + (w)], LIST(PARTNER, w));

const struct ops_kernels ISA_NAME(ops_kernels) = {
    .add_bias = add_bias, .bias_gelu = bias_gelu, .bias_residual = bias_residual, .scale_columns = scale_columns,
    .multiply = multiply, .add = add, .norm = norm, .norm_backward = norm_backward, .norm_columns = norm_columns,
    .sum_columns = sum_columns, .exp_row = exp_row
};
