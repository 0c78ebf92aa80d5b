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
 */
#include <omp.h>
#include <string.h>

#include "elementary.h"

#define ROUND_UP(a, b) (((a) + (b) - 1) / (b) * (b))
#define QP ROUND_UP(Q, LANES)
#define MP ROUND_UP(M, LANES)
#define QV (QP / LANES)
#define MV (MP / LANES)
#define ATMOST(a, b) ((a) < 1 ? 1 : (a) > (b) ? (b) : (a))
#define WIDE ATMOST(ACC / MV, 8)   /* rows kept in registers when a row has MP entries */
#define NARROW ATMOST(ACC / QV, 8) /* the same when a row has QP entries */
#define ROWS 32                    /* samples between two of the backward sweep's products */
#define LAYER (Q * MP + M * QP)    /* packed weights of a layer, for one of the sweeps */

/* rows of c (+)= rows of a · b, where a has `inner` entries a row and b is inner × cols·LANES. */
#define PRODUCT(name, COLS, BLOCK, INNER)                                                        \
  static inline void name(long rows, const REAL *restrict a, long a_stride, const REAL *restrict b, \
                          const REAL *restrict start, long start_stride, REAL *restrict c,        \
                          long c_stride) {                                                        \
    long r = 0;                                                                                   \
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

/* BLOCK rows of factor Σ_s a_s b_sᵀ over n samples, a row of b in COLS registers, KEPT of its
 * entries written; the sum of their squares. Few rows at a time: the sums stay in registers. */
#define OUTER_ROWS(name, COLS, BLOCK, KEPT)                                                      \
  static inline double name(long n, const REAL *restrict a, long a_stride, const REAL *restrict b, \
                            REAL factor, REAL *restrict out) {                                    \
    vec acc[BLOCK][COLS];                                                                         \
    for (int i = 0; i < BLOCK; i++)                                                               \
      for (int j = 0; j < COLS; j++) acc[i][j] = (vec){0};                                        \
    for (long s = 0; s < n; s++)                                                                  \
      for (int j = 0; j < COLS; j++) {                                                            \
        vec row = *(const vec *)(b + (s * COLS + j) * LANES);                                     \
        for (int i = 0; i < BLOCK; i++) acc[i][j] += a[s * a_stride + i] * row;                   \
      }                                                                                           \
    REAL squares = 0;                                                                             \
    for (int i = 0; i < BLOCK; i++) {                                                             \
      REAL line[COLS * LANES];                                                                    \
      for (int j = 0; j < COLS; j++) *(vec *)(line + j * LANES) = factor * acc[i][j];             \
      for (int j = 0; j < KEPT; j++) {                                                            \
        out[i * (long)KEPT + j] = line[j];                                                        \
        squares += line[j] * line[j];                                                             \
      }                                                                                           \
    }                                                                                             \
    return squares;                                                                               \
  }

#define OUTER(name, COLS, BLOCK, ROWS, KEPT)                                                     \
  OUTER_ROWS(name##_block, COLS, BLOCK, KEPT)                                                     \
  OUTER_ROWS(name##_row, COLS, 1, KEPT)                                                           \
  static inline double name(long n, const REAL *restrict a, long a_stride, const REAL *restrict b, \
                            REAL factor, REAL *restrict out) {                                    \
    double squares = 0;                                                                           \
    int r = 0;                                                                                    \
    for (; r + BLOCK <= ROWS; r += BLOCK)                                                         \
      squares += name##_block(n, a + r, a_stride, b, factor, out + r * (long)KEPT);               \
    for (; r < ROWS; r++) squares += name##_row(n, a + r, a_stride, b, factor, out + r * (long)KEPT); \
    return squares;                                                                               \
  }

OUTER(outer_V, MV, ATMOST(ACC / MV, 16), Q, M)
OUTER(outer_W, QV, ATMOST(ACC / QV, 16), M, Q)

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
  REAL *grad_V, *grad_W, *grad_b; /* factor · ∂ℓ a layer */
  double *squares;                /* (3) a layer: |grad|² of V, W and b */
  REAL *scratch;                  /* threads × scratch_size */
  double scale, c_q, pull;        /* p_L = pull · Bᵀ error */
  double factor_V, factor_W, factor_b;
  int threads;
};

struct buffers {
  REAL *pack, *start, *back, *features, *slopes, *states, *adjoints, *kept;
};

static long segments(const struct task *t) { return (t->L + t->segment - 1) / t->segment; }

static long shared_pack(const struct task *t) {
  return t->threads > 1 ? t->L * 2L * LAYER : 0;
}

static long private_size(const struct task *t) {
  const long kept = t->states ? 0 : (segments(t) + 2 * (t->segment + 1)) * t->n * QP;
  return LAYER + (1 + ROWS) * MP + 2 * t->segment * t->n * MP + kept;
}

/* Reals that `scratch` has to hold. */
long scratch_size(const struct task *t) { return shared_pack(t) + t->threads * private_size(t); }

static struct buffers private_buffers(const struct task *t, int thread) {
  struct buffers u;
  u.pack = t->scratch + shared_pack(t) + thread * private_size(t);
  u.start = u.pack + LAYER;
  u.back = u.start + MP;
  u.features = u.back + ROWS * MP;
  u.slopes = u.features + t->segment * t->n * MP;
  u.states = u.slopes + t->segment * t->n * MP;
  u.adjoints = u.states + (t->segment + 1) * t->n * QP;
  u.kept = u.adjoints + (t->segment + 1) * t->n * QP;
  return u;
}

/* c_q Wᵀ (Q × MP) and scale · Vᵀ (M × QP). */
static void pack_forward(const struct task *t, long layer, REAL *restrict pack) {
  const REAL *restrict V = t->V + layer * Q * M, *restrict W = t->W + layer * M * Q;
  const REAL c_q = (REAL)t->c_q, scale = (REAL)t->scale;
  if (QP > Q || MP > M) memset(pack, 0, sizeof(REAL) * LAYER);
  for (int q = 0; q < Q; q++)
    for (int m = 0; m < M; m++) pack[q * MP + m] = c_q * W[m * Q + q];
  pack += Q * MP;
  for (int m = 0; m < M; m++)
    for (int q = 0; q < Q; q++) pack[m * QP + q] = scale * V[q * M + m];
}

/* V (Q × MP) and scale · c_q W (M × QP). */
static void pack_backward(const struct task *t, long layer, REAL *restrict pack) {
  const REAL *restrict V = t->V + layer * Q * M, *restrict W = t->W + layer * M * Q;
  const REAL factor = (REAL)(t->scale * t->c_q);
  if (QP > Q || MP > M) memset(pack, 0, sizeof(REAL) * LAYER);
  for (int q = 0; q < Q; q++)
    for (int m = 0; m < M; m++) pack[q * MP + m] = V[q * M + m];
  pack += Q * MP;
  for (int m = 0; m < M; m++)
    for (int q = 0; q < Q; q++) pack[m * QP + q] = factor * W[m * Q + q];
}

/* Rows of a layer: the next state, and the layer's features and σ′. A row's start is in `start`:
 * what grows with the width is not on the stack, which may be small. */
static void forward(long rows, const REAL *pack, const REAL *bias, const REAL *h, REAL *next,
                    REAL *features, REAL *slopes, REAL *start) {
  memset(start, 0, sizeof(REAL) * MP);
  if (bias) memcpy(start, bias, sizeof(REAL) * M);
  to_wide(rows, h, QP, pack, start, 0, slopes, MP);
  activate(rows * MP, slopes, features);
  to_narrow(rows, features, MP, pack + Q * MP, h, QP, next, QP);
}

/* Rows of a layer: the adjoint before it; σ′ is overwritten by σ′ ⊙ Vᵀp. */
static void backward(long rows, const REAL *pack, const REAL *after, REAL *before, REAL *slopes,
                     REAL *zero, REAL *back) {
  memset(zero, 0, sizeof(REAL) * MP);
  for (long r = 0; r < rows; r += ROWS) {
    const long some = rows - r < ROWS ? rows - r : ROWS;
    REAL *slope = slopes + r * MP;
    to_wide(some, after + r * QP, QP, pack, zero, 0, back, MP);
    for (long i = 0; i < some * MP; i++) slope[i] *= back[i];
    to_narrow(some, slope, MP, pack + Q * MP, after + r * QP, QP, before + r * QP, QP);
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

/* One run by one thread of a team: samples low..high−1, and the other threads the others. */
static void one_run(const struct task *t, long run, struct buffers u, int member, int team) {
  const long L = t->L, n = t->n, c = t->segment, size = n * QP;
  const long low = n * member / team, high = n * (member + 1) / team;
  const long rows = high - low, bytes = sizeof(REAL) * rows * QP;
  const int whole = t->states != 0;
  REAL *packs = t->scratch;
  if (whole) {
    u.states = t->states + run * (L + 1) * size;
    u.adjoints = t->adjoints + run * (L + 1) * size;
  }
  if (team > 1) {
    for (long k = member; k < L; k += team) {
      pack_forward(t, run * L + k, packs + 2 * k * LAYER);
      pack_backward(t, run * L + k, packs + (2 * k + 1) * LAYER);
    }
#pragma omp barrier
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
      const long at = k - first, layer = run * L + k;
      const REAL *pack = team > 1 ? packs + 2 * k * LAYER : u.pack;
      if (team == 1) pack_forward(t, layer, u.pack);
      forward(rows, pack, t->b ? t->b + layer * M : 0, u.states + at * size + low * QP,
              u.states + (at + 1) * size + low * QP, u.features + (at * n + low) * MP,
              u.slopes + (at * n + low) * MP, u.start);
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
    for (long k = end - 1; k >= first; k--) {
      const long at = k - first, layer = run * L + k;
      const REAL *pack = team > 1 ? packs + (2 * k + 1) * LAYER : u.pack;
      if (team == 1) pack_backward(t, layer, u.pack);
      backward(rows, pack, u.adjoints + (at + 1) * size + low * QP, u.adjoints + at * size + low * QP,
               u.slopes + (at * n + low) * MP, u.start, u.back);
      if (team == 1)
        weight_gradients(t, layer, u.states + at * size, u.adjoints + (at + 1) * size,
                         u.features + at * n * MP, u.slopes + at * n * MP);
    }
    if (team > 1) {
#pragma omp barrier
      for (long k = first + member; k < end; k += team)
        weight_gradients(t, run * L + k, u.states + (k - first) * size,
                         u.adjoints + (k - first + 1) * size, u.features + (k - first) * n * MP,
                         u.slopes + (k - first) * n * MP);
#pragma omp barrier
    }
  }
  if (!whole) memcpy(t->first_adjoint + run * size + low * QP, u.adjoints + low * QP, bytes);
}

static void take_part(const struct task *t, int thread, int team) {
  const long alone = t->runs - t->runs % team;
  for (long run = thread; run < alone; run += team)
    one_run(t, run, private_buffers(t, thread), 0, 1);
#pragma omp barrier
  struct buffers shared = private_buffers(t, 0), own = private_buffers(t, thread);
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
