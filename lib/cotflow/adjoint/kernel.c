/* The loss's gradient for a residual network: one sweep forward and one backward, sizes fixed.
 *
 * The compiler is given: REAL (float or double), LANES (reals in a vector register), ACC (vector
 * registers for sums), Q (state), M (width), ACTIVATION (0 GELU, 1 tanh, 2 ReLU, 3 identity), and
 * the table of elementary.py. Rows are padded with zeros to whole registers: QP and MP.
 *
 * Runs are independent: each thread takes whole runs, so that a run stays in its core's cache and
 * the weight gradients of a layer are taken while the layer is there. The runs that are left over
 * are shared: samples in the sweeps, layers in the weight gradients. No sum is ever split between
 * threads, and the result does not depend on their number.
 *
 * Features and σ′ are kept for the backward sweep where they stay in the cache, and made again
 * otherwise: a product and an activation cost less than memory does.
 */
#include <omp.h>
#include <string.h>

#include "elementary.h"

#define ROUND_UP(a, b) (((a) + (b) - 1) / (b) * (b))
#define QP ROUND_UP(Q, LANES)
#define MP ROUND_UP(M, LANES)
#define QV (QP / LANES)
#define MV (MP / LANES)
/* What of a product is in registers at once: TILE registers of a row, and as many rows as hide the
 * latency of a sum, few of them, since the last block may have less. */
#define TILE(cols) (ACC >= 20 && (cols) % 4 == 0 ? 4 : (cols) % 2 == 0 ? 2 : 1)
#define HEIGHT(cols) (TILE(cols) > 1 ? 5 : 10)
/* The same for weight gradients, whose number of rows is mostly a power of two. */
#define POWER(x) ((x) >= 16 ? 16 : (x) >= 8 ? 8 : 4)
#define ROWS 64                 /* samples, at most, that a layer's products take together */
#define LAYER (Q * MP + M * QP) /* a layer of weights, rows padded */
#ifndef KEPT_BYTES
#define KEPT_BYTES (1L << 23) /* of features and σ′ that are kept and not made again */
#endif
#define LINE (64 / (long)sizeof(REAL)) /* reals of a cache line */

/* Rows of c = start + factor · rows of a · b, where a has INNER entries a row and b is INNER ×
 * COLS · LANES. The last block overlaps the one before it. */
#define PRODUCT(name, COLS, INNER)                                                               \
  static inline __attribute__((always_inline)) void name##_block(                                \
      const int height, const REAL *restrict a, long a_stride, const REAL *restrict b,           \
      const REAL *restrict start, long start_stride, REAL factor, REAL *restrict c,              \
      long c_stride) {                                                                           \
    for (long tile = 0; tile < COLS * LANES; tile += TILE(COLS) * LANES) {                       \
      vec acc[HEIGHT(COLS)][TILE(COLS)];                                                         \
      for (int i = 0; i < height; i++)                                                           \
        for (int j = 0; j < TILE(COLS); j++) acc[i][j] = (vec){0};                               \
      for (int k = 0; k < INNER; k++) {                                                          \
        vec row[TILE(COLS)];                                                                     \
        for (int j = 0; j < TILE(COLS); j++)                                                     \
          row[j] = *(const vec *)(b + tile + ((long)k * COLS + j) * LANES);                      \
        for (int i = 0; i < height; i++)                                                         \
          for (int j = 0; j < TILE(COLS); j++) acc[i][j] += a[i * a_stride + k] * row[j];        \
      }                                                                                          \
      for (int i = 0; i < height; i++)                                                           \
        for (int j = 0; j < TILE(COLS); j++) {                                                   \
          const long at = tile + j * LANES;                                                      \
          *(vec *)(c + i * c_stride + at) =                                                      \
              factor * acc[i][j] + *(const vec *)(start + i * start_stride + at);                \
        }                                                                                        \
    }                                                                                            \
  }                                                                                              \
  static inline void name(long rows, const REAL *restrict a, long a_stride,                      \
                          const REAL *restrict b, const REAL *restrict start, long start_stride, \
                          REAL factor, REAL *restrict c, long c_stride) {                        \
    const int height = HEIGHT(COLS);                                                             \
    if (rows < height) {                                                                         \
      for (long r = 0; r < rows; r++)                                                            \
        name##_block(1, a + r * a_stride, a_stride, b, start + r * start_stride, start_stride,   \
                     factor, c + r * c_stride, c_stride);                                        \
      return;                                                                                    \
    }                                                                                            \
    for (long next = 0; next < rows; next += height) {                                           \
      const long r = next + height <= rows ? next : rows - height;                               \
      name##_block(height, a + r * a_stride, a_stride, b, start + r * start_stride,              \
                   start_stride, factor, c + r * c_stride, c_stride);                            \
    }                                                                                            \
  }

PRODUCT(to_wide, MV, Q)
PRODUCT(to_narrow, QV, M)

/* HEIGHT rows of factor Σ_i a_i b_iᵀ over n samples, a row of b in COLS registers, KEPT of its
 * entries written; the sum of their squares. */
#define OUTER_ROWS(name, COLS, HEIGHT, KEPT)                                                     \
  static inline double name(long n, const REAL *restrict a, long a_stride,                       \
                            const REAL *restrict b, REAL factor, REAL *restrict out) {           \
    vec squares = {0};                                                                           \
    for (long tile = 0; tile < COLS * LANES; tile += TILE(COLS) * LANES) {                       \
      vec acc[HEIGHT][TILE(COLS)];                                                               \
      for (int i = 0; i < HEIGHT; i++)                                                           \
        for (int j = 0; j < TILE(COLS); j++) acc[i][j] = (vec){0};                               \
      for (long s = 0; s < n; s++) {                                                             \
        vec row[TILE(COLS)];                                                                     \
        for (int j = 0; j < TILE(COLS); j++)                                                     \
          row[j] = *(const vec *)(b + tile + (s * COLS + j) * LANES);                            \
        for (int i = 0; i < HEIGHT; i++)                                                         \
          for (int j = 0; j < TILE(COLS); j++) acc[i][j] += a[s * a_stride + i] * row[j];        \
      }                                                                                          \
      const long some = KEPT - tile < TILE(COLS) * LANES ? KEPT - tile : TILE(COLS) * LANES;     \
      for (int i = 0; i < HEIGHT; i++) {                                                         \
        REAL line[TILE(COLS) * LANES];                                                           \
        for (int j = 0; j < TILE(COLS); j++) {                                                   \
          const vec entries = factor * acc[i][j];                                                \
          squares += entries * entries;                                                          \
          *(vec *)(line + j * LANES) = entries;                                                  \
        }                                                                                        \
        memcpy(out + i * (long)KEPT + tile, line, sizeof(REAL) * some);                          \
      }                                                                                          \
    }                                                                                            \
    double total = 0;                                                                            \
    for (int l = 0; l < LANES; l++) total += squares[l];                                         \
    return total;                                                                                \
  }

#define OUTER(name, COLS, HEIGHT, ALL_ROWS, KEPT)                                                \
  OUTER_ROWS(name##_block, COLS, HEIGHT, KEPT)                                                   \
  OUTER_ROWS(name##_row, COLS, 1, KEPT)                                                          \
  static inline double name(long n, const REAL *restrict a, long a_stride,                       \
                            const REAL *restrict b, REAL factor, REAL *restrict out) {           \
    double squares = 0;                                                                          \
    int r = 0;                                                                                   \
    for (; r + HEIGHT <= ALL_ROWS; r += HEIGHT)                                                  \
      squares += name##_block(n, a + r, a_stride, b, factor, out + r * (long)KEPT);              \
    for (; r < ALL_ROWS; r++)                                                                    \
      squares += name##_row(n, a + r, a_stride, b, factor, out + r * (long)KEPT);                \
    return squares;                                                                              \
  }

OUTER(outer_V, MV, POWER(ACC / TILE(MV)), Q, M)
OUTER(outer_W, QV, POWER(ACC / TILE(QV)), M, Q)

#if Q % LANES == 0 && M % LANES == 0 && !defined(__clang__)
/* The transpose of a square block: with each bit, entries change places whose row has it and whose
 * lane does not, or the other way round. */
static inline void transpose_block(const REAL *restrict a, long a_stride, REAL *restrict out,
                                   long out_stride) {
  vec rows[LANES];
  for (int i = 0; i < LANES; i++) rows[i] = *(const vec *)(a + i * a_stride);
#pragma GCC unroll 8
  for (int bit = 1; bit < LANES; bit *= 2) {
    bits low, high;
    for (int l = 0; l < LANES; l++) {
      low[l] = l & bit ? LANES + l - bit : l;
      high[l] = l & bit ? LANES + l : l + bit;
    }
#pragma GCC unroll 64
    for (int i = 0; i < LANES; i++)
      if (!(i & bit)) {
        const vec one = rows[i], other = rows[i + bit];
        rows[i] = __builtin_shuffle(one, other, low);
        rows[i + bit] = __builtin_shuffle(one, other, high);
      }
  }
  for (int i = 0; i < LANES; i++) *(vec *)(out + i * out_stride) = rows[i];
}

static inline void transpose(int rows, int cols, const REAL *restrict a, REAL *restrict out,
                             int padded) {
  for (int r = 0; r < rows; r += LANES)
    for (int c = 0; c < cols; c += LANES)
      transpose_block(a + (long)r * cols + c, cols, out + (long)c * padded + r, padded);
}
#else
/* rows × cols becomes cols × rows, whose rows are padded with zeros. */
static inline void transpose(int rows, int cols, const REAL *restrict a, REAL *restrict out,
                             int padded) {
  for (int c = 0; c < cols; c++) {
    for (int r = 0; r < rows; r++) out[(long)c * padded + r] = a[(long)r * cols + c];
    for (int r = rows; r < padded; r++) out[(long)c * padded + r] = 0;
  }
}
#endif

/* rows × cols with its rows padded by zeros: a itself where nothing is missing. */
static inline const REAL *pad(int rows, int cols, const REAL *restrict a, REAL *restrict out,
                              int padded) {
  if (cols == padded) return a;
  for (int r = 0; r < rows; r++) {
    memcpy(out + (long)r * padded, a + (long)r * cols, sizeof(REAL) * cols);
    memset(out + (long)r * padded + cols, 0, sizeof(REAL) * (padded - cols));
  }
  return out;
}

/* z becomes σ′(z), feature σ(z); whole registers. */
static inline void activate(long count, REAL *restrict z, REAL *restrict feature) {
  for (long i = 0; i < count; i += LANES) {
    vec slope;
    *(vec *)(feature + i) = activation(*(const vec *)(z + i), &slope);
    *(vec *)(z + i) = slope;
  }
}

/* One gradient. Arrays over (runs, layers, …) are contiguous; b, the gradients, and either
 * states and adjoints or the next two may be NULL. */
struct task {
  long runs, L, n, D;             /* D outputs */
  long segment;                   /* layers whose activations are kept at once */
  const REAL *V, *W, *b, *B;      /* (Q, M), (M, Q), (M) a layer; (D, Q) a run */
  const REAL *h0, *y;             /* (n, Q) and (n, D) a run */
  REAL *states, *adjoints;        /* (L + 1, n, QP) a run */
  REAL *last_state;               /* (n, QP) a run, and so is the next, for checkpointing */
  REAL *first_adjoint;
  REAL *error;                    /* (n, D) a run: B h_L − y */
  REAL *grad_V, *grad_W, *grad_b; /* factor · ∂ℛ a layer */
  double *squares;                /* (3) a layer: |grad|² of V, W and b */
  REAL *scratch;                  /* threads × scratch_size */
  double scale, c_q, pull;        /* p_L = pull · Bᵀ error */
  double factor_V, factor_W, factor_b;
  int threads;
};

/* `features` and `slopes` have room for the last layers of a segment, kept by the forward sweep;
 * as these leave it backwards, those before them are made there. */
struct buffers {
  REAL *pack, *start, *back, *features, *slopes, *states, *adjoints, *kept;
};

static long segments(const struct task *t) { return (t->L + t->segment - 1) / t->segment; }

static long room(const struct task *t) {
  const long layers = KEPT_BYTES / (t->n * MP * 2 * (long)sizeof(REAL)) / 2 * 2;
  return layers >= t->segment ? t->segment : layers < 2 ? 2 : layers;
}

static long private_size(const struct task *t) {
  const long kept = t->states ? 0 : (segments(t) + 2 * (t->segment + 1)) * t->n * QP;
  return LAYER + (1 + ROWS) * MP + 2 * room(t) * t->n * MP + kept;
}

/* Reals that `scratch` has to hold. */
long scratch_size(const struct task *t) { return t->threads * private_size(t); }

static struct buffers private_buffers(const struct task *t, int thread) {
  struct buffers u;
  u.pack = t->scratch + thread * private_size(t);
  u.start = u.pack + LAYER;
  u.back = u.start + MP;
  u.features = u.back + ROWS * MP;
  u.slopes = u.features + room(t) * t->n * MP;
  u.states = u.slopes + room(t) * t->n * MP;
  u.adjoints = u.states + (t->segment + 1) * t->n * QP;
  u.kept = u.adjoints + (t->segment + 1) * t->n * QP;
  return u;
}

/* Features and σ′ of rows of a layer, from its states and c_q Wᵀ. A row's start is in `start`: what
 * grows with the width is not on the stack, which may be small. */
static void activations(const struct task *t, long layer, long rows, const REAL *transposed,
                        const REAL *h, REAL *features, REAL *slopes, REAL *start) {
  memset(start, 0, sizeof(REAL) * MP);
  if (t->b) memcpy(start, t->b + layer * M, sizeof(REAL) * M);
  to_wide(rows, h, QP, transposed, start, 0, (REAL)t->c_q, slopes, MP);
  activate(rows * MP, slopes, features);
}

/* Samples at a time: equal parts of the rows. */
static long parts(long rows) { return (rows + ROWS - 1) / ROWS; }

/* Asks for what the next layer needs: the processor foresees nothing beyond a page. */
static inline void expect(const REAL *a, long count, const int write) {
  for (long i = 0; i < count; i += LINE)
    if (write) __builtin_prefetch(a + i, 1);
    else __builtin_prefetch(a + i, 0);
}

static inline void expect_weights(const struct task *t, long layer) {
  expect(t->V + layer * Q * M, Q * M, 0);
  expect(t->W + layer * M * Q, M * Q, 0);
}

/* Rows of a layer: the next state, and the layer's features and σ′, kept or overwritten. */
static void forward(const struct task *t, long layer, long rows, const REAL *h, REAL *next, int keep,
                    REAL *features, REAL *slopes, struct buffers u) {
  REAL *wide = u.pack, *narrow = u.pack + Q * MP;
  transpose(M, Q, t->W + layer * M * Q, wide, MP);
  transpose(Q, M, t->V + layer * Q * M, narrow, QP);
  for (long part = 0; part < parts(rows); part++) {
    const long low = rows * part / parts(rows), some = rows * (part + 1) / parts(rows) - low;
    REAL *feature = features + (keep ? low * MP : 0), *slope = slopes + (keep ? low * MP : 0);
    activations(t, layer, some, wide, h + low * QP, feature, slope, u.start);
    to_narrow(some, feature, MP, narrow, h + low * QP, QP, (REAL)t->scale, next + low * QP, QP);
  }
}

/* Rows of a layer: the adjoint before it; σ′, made again where it was not kept, is overwritten by
 * σ′ ⊙ Vᵀp. */
static void backward(const struct task *t, long layer, long rows, const REAL *h, const REAL *after,
                     REAL *before, int keep, REAL *features, REAL *slopes, struct buffers u) {
  REAL *wide = u.pack, *narrow = u.pack + Q * MP;
  const REAL *W = pad(M, Q, t->W + layer * M * Q, narrow, QP);
  if (!keep) transpose(M, Q, t->W + layer * M * Q, wide, MP);
  for (long part = 0; part < parts(rows) && !keep; part++) {
    const long low = rows * part / parts(rows), some = rows * (part + 1) / parts(rows) - low;
    activations(t, layer, some, wide, h + low * QP, features + low * MP, slopes + low * MP, u.start);
  }
  const REAL *V = pad(Q, M, t->V + layer * Q * M, wide, MP);
  memset(u.start, 0, sizeof(REAL) * MP);
  for (long part = 0; part < parts(rows); part++) {
    const long low = rows * part / parts(rows), some = rows * (part + 1) / parts(rows) - low;
    const REAL *p = after + low * QP;
    REAL *slope = slopes + low * MP;
    to_wide(some, p, QP, V, u.start, 0, 1, u.back, MP);
    for (long i = 0; i < some * MP; i++) slope[i] *= u.back[i];
    to_narrow(some, slope, MP, W, p, QP, (REAL)(t->scale * t->c_q), before + low * QP, QP);
  }
}

static void weight_gradients(const struct task *t, long layer, const REAL *state, const REAL *adjoint,
                             const REAL *features, const REAL *slopes) {
  double *squares = t->squares + 3 * layer;
  if (t->grad_V)
    squares[0] = outer_V(t->n, adjoint, QP, features, (REAL)t->factor_V, t->grad_V + layer * Q * M);
  if (t->grad_W)
    squares[1] = outer_W(t->n, slopes, MP, state, (REAL)t->factor_W, t->grad_W + layer * M * Q);
  if (t->grad_b) {
    REAL *sum = t->grad_b + layer * M, total = 0;
    memset(sum, 0, sizeof(REAL) * M);
    for (long s = 0; s < t->n; s++)
      for (int m = 0; m < M; m++) sum[m] += slopes[s * MP + m];
    for (int m = 0; m < M; m++) {
      sum[m] *= (REAL)t->factor_b;
      total += sum[m] * sum[m];
    }
    squares[2] = total;
  }
}

/* Error of some samples, and their last adjoint. */
static void turn(const struct task *t, long run, long low, long high, const REAL *last, REAL *adjoint) {
  const REAL *B = t->B + run * t->D * Q;
  for (long s = low; s < high; s++) {
    REAL p[QP];
    memset(p, 0, sizeof p);
    for (long d = 0; d < t->D; d++) {
      REAL e = 0;
      for (int q = 0; q < Q; q++) e += B[d * Q + q] * last[s * QP + q];
      e -= t->y[(run * t->n + s) * t->D + d];
      t->error[(run * t->n + s) * t->D + d] = e;
      for (int q = 0; q < Q; q++) p[q] += (REAL)t->pull * e * B[d * Q + q];
    }
    memcpy(adjoint + s * QP, p, sizeof p);
  }
}

static inline void meet(int team) {
  if (team == 1) return;
#pragma omp barrier
}

/* Where the activations are of the layer that has so many above it; what one thread makes again is
 * used at once. */
static inline long slot(long above, long slots, int team) {
  return above < slots ? above : team == 1 ? 0 : above % slots;
}

/* One run by one thread of a team: samples low..high−1, and the other threads the others. */
static void one_run(const struct task *t, long run, struct buffers u, int member, int team) {
  const long L = t->L, n = t->n, c = t->segment, size = n * QP;
  const long low = n * member / team, high = n * (member + 1) / team;
  const long rows = high - low, bytes = sizeof(REAL) * rows * QP;
  const int whole = t->states != 0;
  const long slots = room(t), together = team == 1 ? 1 : slots == c ? c : slots / 2;
  if (whole) {
    u.states = t->states + run * (L + 1) * size;
    u.adjoints = t->adjoints + run * (L + 1) * size;
  }
  for (long s = low; s < high; s++) {
    memset(u.states + s * QP, 0, sizeof(REAL) * QP);
    memcpy(u.states + s * QP, t->h0 + (run * n + s) * Q, sizeof(REAL) * Q);
  }
  const long last = segments(t) - 1;
  for (long pass = 0; pass <= 2 * last; pass++) {
    const long segment = pass <= last ? pass : 2 * last - pass, first = segment * c;
    const long end = first + c < L ? first + c : L;
    if (pass > last) memcpy(u.states + low * QP, u.kept + segment * size + low * QP, bytes);
    else if (!whole) memcpy(u.kept + segment * size + low * QP, u.states + low * QP, bytes);
    for (long k = first; k < end; k++) {
      const long at = k - first, above = end - 1 - k;
      const int keep = above < slots;
      const long place = ((keep ? above * n : 0) + low) * MP;
      if (k + 1 < end) {
        expect_weights(t, run * L + k + 1);
        expect(u.states + (at + 2) * size + low * QP, rows * QP, 1);
      }
      forward(t, run * L + k, rows, u.states + at * size + low * QP,
              u.states + (at + 1) * size + low * QP, keep, u.features + place, u.slopes + place, u);
    }
    if (pass < last) {
      memcpy(u.states + low * QP, u.states + (end - first) * size + low * QP, bytes);
      continue;
    }
    if (pass == last) {
      turn(t, run, low, high, u.states + (end - first) * size, u.adjoints + (end - first) * size);
      if (!whole)
        memcpy(t->last_state + run * size + low * QP, u.states + (end - first) * size + low * QP, bytes);
    } else
      memcpy(u.adjoints + (end - first) * size + low * QP, u.adjoints + low * QP, bytes);
    /* From the last layer down, a team meets after so many: it takes the weight gradients of one
     * half of the room while it fills the other. */
    for (long top = end; top > first; top -= together) {
      const long bottom = top - together > first ? top - together : first;
      for (long k = top - 1; k >= bottom; k--) {
        const long at = k - first, above = end - 1 - k;
        const int keep = above < slots;
        const long place = (slot(above, slots, team) * n + low) * MP;
        if (k > first) {
          expect_weights(t, run * L + k - 1);
          expect(u.states + (at - 1) * size + low * QP, rows * QP, 0);
          expect(u.adjoints + (at - 1) * size + low * QP, rows * QP, 1);
        }
        backward(t, run * L + k, rows, u.states + at * size + low * QP,
                 u.adjoints + (at + 1) * size + low * QP, u.adjoints + at * size + low * QP, keep,
                 u.features + place, u.slopes + place, u);
      }
      meet(team);
      for (long k = bottom + member; k < top; k += team) {
        const long at = k - first, place = slot(end - 1 - k, slots, team) * n * MP;
        weight_gradients(t, run * L + k, u.states + at * size, u.adjoints + (at + 1) * size,
                         u.features + place, u.slopes + place);
      }
    }
    meet(team);
  }
  if (!whole) memcpy(t->first_adjoint + run * size + low * QP, u.adjoints + low * QP, bytes);
}

static void take_part(const struct task *t, int thread, int team) {
  const long alone = t->runs - t->runs % team;
  for (long run = thread; run < alone; run += team)
    one_run(t, run, private_buffers(t, thread), 0, 1);
#pragma omp barrier
  struct buffers shared = private_buffers(t, 0), own = private_buffers(t, thread);
  shared.pack = own.pack;
  shared.start = own.start;
  shared.back = own.back;
  for (long run = alone; run < t->runs; run++) one_run(t, run, shared, thread, team);
}

void gradient(const struct task *t) {
  /* One thread asks nothing of OpenMP, whose teams do not survive a fork. */
  if (t->threads == 1) {
    take_part(t, 0, 1);
    return;
  }
#pragma omp parallel num_threads(t->threads)
  take_part(t, omp_get_thread_num(), omp_get_num_threads());
}
