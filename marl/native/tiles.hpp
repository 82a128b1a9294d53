// Small dense products for networks: C (+)= A B in register tiles, and the activations of recurrent cells.
//
// Vectors are GCC/Clang vector extensions of exactly one register: wider ones are taken apart through memory.
#pragma once
#include <cstdint>
#include <cstring>

namespace marl {

// kRows x kVectors sums, kVectors + 1 operands in `tile`; 3 kGateRows sums, 4 operands in the GRU's.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 6, kVectors = 4, kGateRows = 6;  // 29 and 22 of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 6, kVectors = 2, kGateRows = 4;  // 15 and 16 of 16
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 6, kVectors = 4, kGateRows = 6;  // 29 and 22 of 32
#else
constexpr int kLanes = 4, kRows = 6, kVectors = 2, kGateRows = 4;  // 15 and 16 of 16
#endif
typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4)));
typedef float Anywhere __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

// Not memcpy: for some processors GCC splits it into halves that go through the stack.
inline Vec load(const float* p) { return *reinterpret_cast<const Anywhere*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Anywhere*>(p) = v; }
inline Vec splat(float x) { return x - Vec{}; }

// The sum of all lanes: halves are added until one is left.
template <int Half = kLanes / 2>
inline float total(Vec v) {
#if defined(__GNUC__) && !defined(__clang__)
  VecInt other;
  for (int i = 0; i < kLanes; ++i) other[i] = i ^ Half;
  v += __builtin_shuffle(v, other);
  if constexpr (Half > 1) return total<Half / 2>(v);
  return v[0];
#else
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
#endif
}

// exp(x): 2^k e^r with |r| <= ln(2)/2 and the minimax polynomial of Cephes expf; 2 ulp on [-87, 88].
inline Vec exp(Vec x) {
  x = x < splat(-87.0f) ? splat(-87.0f) : x;  // a NaN fails both tests and passes through
  x = x > splat(88.0f) ? splat(88.0f) : x;
  const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Vec k = (x * 1.44269504088896341f + shift) - shift;
  Vec r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VecInt bits = (__builtin_convertvector(k, VecInt) + 127) << 23;
  return p * (Vec)bits;
}
inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
inline Vec tanh(Vec x) { return 2.0f / (1.0f + exp(-2.0f * x)) - 1.0f; }

// One register tile: C[i][j] (+)= sum_k A[i * ai + k * ak] * B[k * ldb + j], j < V kLanes.
template <int R, int V>
inline void tile(int K, const float* A, int64_t ai, int64_t ak, const float* B, int64_t ldb, float* C,
                 int64_t ldc, bool add) {
  Vec sum[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = add ? load(C + i * ldc + v * kLanes) : Vec{};
  for (int k = 0; k < K; ++k) {
    Vec b[V];
    for (int v = 0; v < V; ++v) b[v] = load(B + k * ldb + v * kLanes);
    for (int i = 0; i < R; ++i) {
      const float a = A[i * ai + k * ak];
      for (int v = 0; v < V; ++v) sum[i][v] += a * b[v];
    }
  }
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) store(C + i * ldc + v * kLanes, sum[i][v]);
}

// A strip of V vectors of columns: tiles of R rows, then the same with what is left.
template <int R, int V>
inline void strip(int M, int K, const float* A, int64_t ai, int64_t ak, const float* B, int64_t ldb, float* C,
                  int64_t ldc, bool add) {
  int i = 0;
  for (; i + R <= M; i += R) tile<R, V>(K, A + i * ai, ai, ak, B, ldb, C + i * ldc, ldc, add);
  if constexpr (R > 1)
    if (i < M) strip<R - 1, V>(M - i, K, A + i * ai, ai, ak, B, ldb, C + i * ldc, ldc, add);
}

constexpr int kDepth = 64;  // terms of a sum at a time: 64 rows of a strip of B are 16 KiB at most. CHOICE

// Columns in strips of V vectors, then the same with what is left. Panels: B is as `pack` leaves it.
template <int V, bool Panels>
inline void strips(int M, int N, int K, const float* A, int64_t ai, int64_t ak, const float* B, int64_t ldb,
                   float* C, int64_t ldc, bool add) {
  const int64_t next_row = Panels ? V * kLanes : ldb, next_column = Panels ? K : 1;
  int j = 0;
  for (; j + V * kLanes <= N; j += V * kLanes)
    for (int k = 0; k == 0 || k < K; k += kDepth)
      strip<kRows, V>(M, K - k < kDepth ? K - k : kDepth, A + k * ak, ai, ak, B + j * next_column + k * next_row,
                      next_row, C + j, ldc, add || k > 0);
  if constexpr (V > 1)
    if (j < N) strips<V - 1, Panels>(M, N - j, K, A, ai, ak, B + j * next_column, ldb, C + j, ldc, add);
}

// C (M, N) (+)= A (M, K) B (K, N) for any strides of A; N must be a multiple of kLanes.
inline void product(int M, int N, int K, const float* A, int64_t ai, int64_t ak, const float* B, int64_t ldb,
                    float* C, int64_t ldc, bool add) {
  strips<kVectors, false>(M, N, K, A, ai, ak, B, ldb, C, ldc, add);
}

// The same for B from `pack`: what a strip needs lies together, whatever N is.
inline void packed_product(int M, int N, int K, const float* A, int64_t ai, int64_t ak, const float* B, float* C,
                           int64_t ldc, bool add) {
  strips<kVectors, true>(M, N, K, A, ai, ak, B, 0, C, ldc, add);
}

// Calls panel(j, width) for every panel of N columns: strips of kVectors vectors, and what is left.
template <typename Panel>
inline void each_panel(int64_t N, const Panel& panel) {
  constexpr int64_t kWidth = kVectors * kLanes;
  for (int64_t j = 0; j < N; j += kWidth) panel(j, N - j < kWidth ? N - j : kWidth);
}

// B(k, j) = value(k, j) for `packed_product`, K N floats: panel after panel, in each row after row.
template <typename Value>
inline void pack(int64_t K, int64_t N, const Value& value, float* to) {
  each_panel(N, [&](int64_t first, int64_t width) {
    for (int64_t k = 0; k < K; ++k)
      for (int64_t j = 0; j < width; ++j) *to++ = value(k, first + j);
  });
}

}  // namespace marl
