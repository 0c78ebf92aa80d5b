/* σ and σ′ on whole vector registers. elementary.py has the formulas, their errors and the table,
 * which the compiler is given beside REAL and LANES. */
#include <stdint.h>

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));
typedef WORD bits __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));

#define SIGN ((WORD)1 << (8 * sizeof(REAL) - 1))
#define ALL(x) ((vec){0} + (REAL)(x))
#define WHERE(condition, a, b) ((vec)(((bits)(condition) & (bits)(a)) | (~(bits)(condition) & (bits)(b))))

/* A polynomial, highest power first, as even + x · odd: two chains of half the length. */
#define POLYNOMIAL(name, ...)                                                 \
  static inline vec name(vec x, vec square) {                                 \
    const REAL c[] = {__VA_ARGS__};                                           \
    const int n = sizeof c / sizeof *c, even = (n - 1) % 2, odd = n % 2;      \
    vec evens = ALL(c[even]), odds = ALL(c[odd]);                             \
    for (int i = even + 2; i < n; i += 2) evens = evens * square + c[i];      \
    for (int i = odd + 2; i < n; i += 2) odds = odds * square + c[i];         \
    return odds * x + evens;                                                  \
  }

POLYNOMIAL(series, SERIES)
POLYNOMIAL(tail_top, TAIL_TOP)
POLYNOMIAL(tail_bottom, TAIL_BOTTOM)

/* m and scale = 2^(k + offset), where exp(x + low) = 2^k (1 + m); about is x + low or near it. */
static inline vec exponential(vec x, vec low, vec about, vec *scale) {
  const vec shifted = about * (REAL)LOG2E + (REAL)SHIFT, k = shifted - (REAL)SHIFT;
  const vec r = ((x - k * (REAL)LN2_HIGH) - k * (REAL)LN2_LOW) + low;
  *scale = (vec)(((bits)shifted << MANTISSA) + ((WORD)SCALE_BITS << MANTISSA));
  const vec square = r * r;
  return r + square * series(r, square);
}

/* |z|, at most end; NaN stays what it is. */
static inline vec size(vec z, REAL end) {
  const vec a = (vec)((bits)z & ~SIGN);
  return WHERE(a > end, ALL(end), a);
}

static inline bits negative(vec z) { return (bits)((__typeof__(z < z))z >> (8 * sizeof(REAL) - 1)); }

/* Φ(z), and z times the density. */
static inline vec normal(vec z, vec *moment) {
  const vec a = size(z, TAIL_END), square = a * a, h = (vec)((bits)a & (WORD)HEAD);
  vec scale;
  const vec m = exponential((REAL)-0.5 * (h * h), (REAL)-0.5 * ((a - h) * (a + h)),
                            (REAL)-0.5 * square, &scale);
  const vec bell = scale + scale * m;
  const vec tail = bell * tail_top(a, square) / tail_bottom(a, square);
  const vec within = (vec)((bits)a | ((bits)z & SIGN));
  *moment = (within * bell) * (REAL)DENSITY;
  return WHERE(negative(z), tail, 1 - tail);
}

static inline vec gelu(vec z, vec *slope) {
  vec moment;
  const vec cdf = normal(z, &moment);
  *slope = cdf + moment;
  return z * cdf;
}

static inline vec hyperbolic_tangent(vec z, vec *slope) {
  const vec x = -2 * size(z, TANH_END);
  vec scale;
  const vec m = exponential(x, (vec){0}, x, &scale), s = scale * (REAL)UNIT;
  const vec less = s * m + (s - 1), u = 1 / (2 + less);
  *slope = (4 * u * u) * ((scale + scale * m) * (REAL)UNIT);
  return (vec)(((bits)(less * u) & ~SIGN) | ((bits)z & SIGN));
}

static inline vec rectifier(vec z, vec *slope) {
  *slope = WHERE(z > 0, ALL(1), ALL(0));
  return WHERE(z <= 0, ALL(0), z);
}

static inline vec identity(vec z, vec *slope) {
  *slope = ALL(1);
  return z;
}

static inline vec activation(vec z, vec *slope) {
#if ACTIVATION == 0
  return gelu(z, slope);
#elif ACTIVATION == 1
  return hyperbolic_tangent(z, slope);
#elif ACTIVATION == 2
  return rectifier(z, slope);
#else
  return identity(z, slope);
#endif
}
