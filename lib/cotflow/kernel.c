/* One forward and one backward sweep of a residual network, compiled for fixed sizes.
 *
 * The compiler is given: REAL (float or double), LANES (reals in a vector register), Q (state),
 * M (width), ACTIVATION (0 GELU, 1 tanh, 2 ReLU, 3 identity). Rows are padded with zeros to whole
 * registers: QP and MP. Samples are independent in the sweeps and layers in the weight gradients,
 * so that threads never share a sum and the result does not depend on their number.
 */
#include <math.h>
#include <string.h>

#ifdef VECTOR_MATH
/* glibc has vector versions of these, which its header offers to -ffast-math alone. */
REAL EXP(REAL) __attribute__((simd("notinbranch")));
REAL ERF(REAL) __attribute__((simd("notinbranch")));
REAL TANH(REAL) __attribute__((simd("notinbranch")));
#endif

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));

#define ROUND_UP(a, b) (((a) + (b) - 1) / (b) * (b))
#define QP ROUND_UP(Q, LANES)
#define MP ROUND_UP(M, LANES)
#define QV (QP / LANES)
#define MV (MP / LANES)
#define CLAMP(a) ((a) < 1 ? 1 : (a) > 8 ? 8 : (a))
#define WIDE CLAMP(16 / MV)   /* rows kept in registers when a row has MP entries */
#define NARROW CLAMP(16 / QV) /* the same when a row has QP entries */
#define ROWS 32               /* samples between two of the backward sweep's products */

/* rows of c (+)= rows of a · b, where a has `inner` entries a row and b is inner × cols·LANES. */
#define PRODUCT(name, COLS, BLOCK, INNER)                                                        \
  static inline void name(int rows, const REAL *restrict a, long a_stride, const REAL *restrict b, \
                          const REAL *restrict start, long start_stride, REAL *restrict c,        \
                          long c_stride) {                                                        \
    int r = 0;                                                                                    \
    for (; r + BLOCK <= rows; r += BLOCK) {                                                       \
      vec acc[BLOCK][COLS];                                                                       \
      for (int i = 0; i < BLOCK; i++)                                                             \
        for (int j = 0; j < COLS; j++)                                                            \
          acc[i][j] = *(const vec *)(start + (r + i) * start_stride + j * LANES);                 \
      for (int k = 0; k < INNER; k++)                                                             \
        for (int j = 0; j < COLS; j++) {                                                          \
          vec row = *(const vec *)(b + (long)k * COLS * LANES + j * LANES);                       \
          for (int i = 0; i < BLOCK; i++) acc[i][j] += a[(r + i) * a_stride + k] * row;           \
        }                                                                                         \
      for (int i = 0; i < BLOCK; i++)                                                             \
        for (int j = 0; j < COLS; j++) *(vec *)(c + (r + i) * c_stride + j * LANES) = acc[i][j];  \
    }                                                                                             \
    for (; r < rows; r++) {                                                                       \
      vec acc[COLS];                                                                              \
      for (int j = 0; j < COLS; j++) acc[j] = *(const vec *)(start + r * start_stride + j * LANES); \
      for (int k = 0; k < INNER; k++)                                                             \
        for (int j = 0; j < COLS; j++)                                                            \
          acc[j] += a[r * a_stride + k] * *(const vec *)(b + (long)k * COLS * LANES + j * LANES); \
      for (int j = 0; j < COLS; j++) *(vec *)(c + r * c_stride + j * LANES) = acc[j];             \
    }                                                                                             \
  }

PRODUCT(to_wide, MV, WIDE, Q)
PRODUCT(to_narrow, QV, NARROW, M)

/* Σ_i a_i b_iᵀ over n samples, rows of b of COLS registers; BLOCK rows of the result at a time. */
#define OUTER(name, COLS, BLOCK, ROWS, KEPT)                                                     \
  static inline void name(long n, const REAL *restrict a, long a_stride, const REAL *restrict b,  \
                          long b_stride, REAL factor, REAL *restrict out) {                       \
    for (int r = 0; r < ROWS; r += BLOCK) {                                                       \
      const int rows = ROWS - r < BLOCK ? ROWS - r : BLOCK;                                       \
      vec acc[BLOCK][COLS];                                                                       \
      memset(acc, 0, sizeof acc);                                                                 \
      if (rows == BLOCK)                                                                          \
        for (long s = 0; s < n; s++)                                                              \
          for (int j = 0; j < COLS; j++) {                                                        \
            vec row = *(const vec *)(b + s * b_stride + j * LANES);                               \
            for (int i = 0; i < BLOCK; i++) acc[i][j] += a[s * a_stride + r + i] * row;           \
          }                                                                                       \
      else                                                                                        \
        for (long s = 0; s < n; s++)                                                              \
          for (int j = 0; j < COLS; j++)                                                          \
            for (int i = 0; i < rows; i++)                                                        \
              acc[i][j] += a[s * a_stride + r + i] * *(const vec *)(b + s * b_stride + j * LANES); \
      for (int i = 0; i < rows; i++) {                                                            \
        REAL line[COLS * LANES];                                                                  \
        memcpy(line, acc[i], sizeof line);                                                        \
        for (int j = 0; j < KEPT; j++) out[(r + i) * (long)KEPT + j] = factor * line[j];          \
      }                                                                                           \
    }                                                                                             \
  }

OUTER(outer_V, MV, WIDE, Q, M)
OUTER(outer_W, QV, NARROW, M, Q)

/* z becomes σ′(z), feature σ(z). */
static inline void activate(long count, REAL *restrict z, REAL *restrict feature) {
  for (long i = 0; i < count; i++) {
    const REAL t = z[i];
#if ACTIVATION == 0
    const REAL cdf = (REAL)0.5 + (REAL)0.5 * ERF(t * (REAL)0.70710678118654752440);
    feature[i] = t * cdf;
    z[i] = cdf + t * (REAL)0.39894228040143267794 * EXP((REAL)-0.5 * t * t);
#elif ACTIVATION == 1
    const REAL y = TANH(t);
    feature[i] = y;
    z[i] = 1 - y * y;
#elif ACTIVATION == 2
    feature[i] = t > 0 ? t : 0;
    z[i] = t > 0;
#else
    feature[i] = t;
    z[i] = 1;
#endif
  }
}

static inline REAL *packed(REAL *pack, long layer) { return pack + layer * (2L * Q * MP + 2L * M * QP); }

/* Per run and layer: c_q Wᵀ (Q × MP), V (Q × MP), scale · Vᵀ (M × QP), scale · c_q W (M × QP). */
void pack_weights(long layers, const REAL *restrict V, const REAL *restrict W, REAL scale, REAL c_q,
                  REAL *restrict pack, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long k = 0; k < layers; k++) {
    REAL *Wt = packed(pack, k), *Vn = Wt + Q * MP, *Vt = Vn + Q * MP, *Wn = Vt + M * QP;
    memset(Wt, 0, sizeof(REAL) * (2 * Q * MP + 2 * M * QP));
    for (int q = 0; q < Q; q++)
      for (int m = 0; m < M; m++) {
        const REAL v = V[(k * Q + q) * M + m], w = W[(k * M + m) * Q + q];
        Wt[q * MP + m] = c_q * w;
        Vn[q * MP + m] = v;
        Vt[m * QP + q] = scale * v;
        Wn[m * QP + q] = scale * c_q * w;
      }
  }
}

/* States (runs, L+1, n, QP), the first given; features and σ′ (runs, L, n, MP); bias (runs, L, MP). */
void forward(long runs, long L, long n, REAL *restrict pack, const REAL *restrict bias,
             REAL *restrict states, REAL *restrict features, REAL *restrict slopes, int threads) {
  const long parts = threads;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (long run = 0; run < runs; run++)
    for (long part = 0; part < parts; part++) {
      const long low = n * part / parts;
      const int rows = (int)(n * (part + 1) / parts - low);
      for (long k = 0; k < L; k++) {
        const long at = (run * L + k) * n + low;
        const REAL *Wt = packed(pack, run * L + k), *Vt = Wt + 2 * Q * MP;
        REAL *h = states + ((run * (L + 1) + k) * n + low) * QP, *z = slopes + at * MP;
        to_wide(rows, h, QP, Wt, bias + (run * L + k) * MP, 0, z, MP);
        activate((long)rows * MP, z, features + at * MP);
        to_narrow(rows, features + at * MP, MP, Vt, h, QP, h + n * QP, QP);
      }
    }
}

/* Adjoints (runs, L+1, n, QP), the last given; σ′ is overwritten by σ′ ⊙ Vᵀp. */
void backward(long runs, long L, long n, REAL *restrict pack, REAL *restrict adjoints,
              REAL *restrict slopes, int threads) {
  const long parts = threads;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (long run = 0; run < runs; run++)
    for (long part = 0; part < parts; part++) {
      const long low = n * part / parts;
      const int rows = (int)(n * (part + 1) / parts - low);
      REAL back[ROWS * MP], zero[MP];
      memset(zero, 0, sizeof zero);
      for (long k = L - 1; k >= 0; k--) {
        const REAL *Vn = packed(pack, run * L + k) + Q * MP, *Wn = Vn + Q * MP + M * QP;
        for (int r = 0; r < rows; r += ROWS) {
          const int some = rows - r < ROWS ? rows - r : ROWS;
          REAL *p = adjoints + ((run * (L + 1) + k) * n + low + r) * QP, *after = p + n * QP;
          REAL *slope = slopes + ((run * L + k) * n + low + r) * MP;
          to_wide(some, after, QP, Vn, zero, 0, back, MP);
          for (long i = 0; i < (long)some * MP; i++) slope[i] *= back[i];
          to_narrow(some, slope, MP, Wn, after, QP, p, QP);
        }
      }
    }
}

/* factor_V Σ p aᵀ into (runs, L, Q, M) and factor_W Σ s hᵀ into (runs, L, M, Q); NULL skips one. */
void weight_gradients(long runs, long L, long n, const REAL *restrict states,
                      const REAL *restrict adjoints, const REAL *restrict features,
                      const REAL *restrict slopes, REAL factor_V, REAL factor_W,
                      REAL *restrict grad_V, REAL *restrict grad_W, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long layer = 0; layer < runs * L; layer++) {
    const long run = layer / L, at = run * (L + 1) + layer % L;
    if (grad_V)
      outer_V(n, adjoints + (at + 1) * n * QP, QP, features + layer * n * MP, MP, factor_V,
              grad_V + layer * Q * M);
    if (grad_W)
      outer_W(n, slopes + layer * n * MP, MP, states + at * n * QP, QP, factor_W,
              grad_W + layer * M * Q);
  }
}
