// Small dense products for networks: C (+)= A B in register tiles, and the activations of recurrent cells.
//
// Vectors are GCC/Clang vector extensions of 16 floats: one register with AVX-512, several elsewhere.
#pragma once
#include <cstdint>
#include <cstring>

namespace marl {

constexpr int kLanes = 16;
typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4)));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4), aligned(4)));

#if defined(__AVX512F__)
constexpr int kRows = 6;  // 6 rows x 4 vectors of sums + 4 + 1 operands fill 29 of 32 registers
#else
constexpr int kRows = 2;
#endif

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec splat(float x) { return x - Vec{}; }

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
  return p * reinterpret_cast<Vec&>(bits);
}
inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
inline Vec tanh(Vec x) { return 2.0f / (1.0f + exp(-2.0f * x)) - 1.0f; }

// One register tile: C[i][j] (+)= sum_k A[i * ai + k * ak] * B[k * ldb + j], j < 16 V.
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

// A strip of V vectors of columns: tiles of R rows, then the same with what is left, 16 V columns each.
template <int R, int V>
inline void strip(int M, int K, const float* A, int64_t ai, int64_t ak, const float* B, int64_t ldb, float* C,
                  int64_t ldc, bool add) {
  int i = 0;
  for (; i + R <= M; i += R) tile<R, V>(K, A + i * ai, ai, ak, B, ldb, C + i * ldc, ldc, add);
  if constexpr (R > 1)
    if (i < M) strip<R - 1, V>(M - i, K, A + i * ai, ai, ak, B, ldb, C + i * ldc, ldc, add);
}

// C (M, N) (+)= A (M, K) B (K, N) for any strides of A; N must be a multiple of 16.
inline void product(int M, int N, int K, const float* A, int64_t ai, int64_t ak, const float* B, int64_t ldb,
                    float* C, int64_t ldc, bool add) {
  int j = 0;
  for (; j + 4 * kLanes <= N; j += 4 * kLanes) strip<kRows, 4>(M, K, A, ai, ak, B + j, ldb, C + j, ldc, add);
  if (N - j == 3 * kLanes) strip<kRows, 3>(M, K, A, ai, ak, B + j, ldb, C + j, ldc, add);
  if (N - j == 2 * kLanes) strip<kRows, 2>(M, K, A, ai, ak, B + j, ldb, C + j, ldc, add);
  if (N - j == kLanes) strip<kRows, 1>(M, K, A, ai, ak, B + j, ldb, C + j, ldc, add);
}

}  // namespace marl
