/* What the machine can do at most: multiply-adds in registers, and a sum of two arrays. */
#include <omp.h>

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));

#if defined(__AVX512F__) || defined(__aarch64__)
#define SUMS 24 /* enough to hide the latency of one, and all of them in registers */
#else
#define SUMS 12
#endif

/* Each thread: rounds · multiply_adds() of them. Returns what depends on all. */
REAL multiply(long rounds, REAL factor, REAL term, int threads) {
  REAL total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    vec sums[SUMS];
    for (int i = 0; i < SUMS; i++) sums[i] = (vec){0} + (REAL)i;
    for (long k = 0; k < rounds; k++)
#pragma GCC unroll 32
      for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * factor + term;
    for (int i = 0; i < SUMS; i++) total += sums[i][0];
  }
  return total;
}

long multiply_adds(void) { return SUMS * LANES; }

void add(long count, const REAL *restrict a, const REAL *restrict b, REAL *restrict c, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long i = 0; i < count; i++) c[i] = a[i] + b[i];
}
