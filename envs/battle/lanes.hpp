// Worlds side by side: every quantity of a unit is one vector with a lane per world, as many as the machine's
// vector registers hold (16 with AVX-512, 8 with AVX2, else 4). No lane looks at another, so results do not
// depend on how many there are. Vector extensions of GCC and Clang; intrinsics where those fall short.
#pragma once
#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace battle {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int L = 16;  // worlds in a group
#elif defined(__AVX2__)
constexpr int L = 8;
#else
constexpr int L = 4;
#endif

typedef float vf __attribute__((vector_size(4 * L)));
typedef int32_t vi __attribute__((vector_size(4 * L)));  // also masks: -1 true, 0 false

inline vf splat(float v) { return v - vf{}; }
inline vi splat(int32_t v) { return v - vi{}; }
inline vf pick(vi mask, vf a, vf b) { return mask ? a : b; }
inline vi pick(vi mask, vi a, vi b) { return mask ? a : b; }
inline vf least(vf a, vf b) { return a < b ? a : b; }
inline vf most(vf a, vf b) { return a > b ? a : b; }

// Bit l set where lane l of the mask is true.
inline uint32_t bits_of(vi mask) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#else
  uint32_t out = 0;
  for (int l = 0; l < L; ++l) out |= (mask[l] != 0 ? 1u : 0u) << l;
  return out;
#endif
}

inline bool any(vi mask) { return bits_of(mask) != 0; }

inline vf root(vf a) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return (vf)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)a);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)a);
#else
  vf out;
  for (int l = 0; l < L; ++l) out[l] = __builtin_sqrtf(a[l]);
  return out;
#endif
}

// The square of L rows by L lanes, rows and lanes exchanged: log2(L) rounds of zipping the two halves.
inline void transpose(const vf* in, vf* out) {
#if defined(__GNUC__) && !defined(__clang__)
  vi low, high;
  for (int k = 0; k < L; ++k) {
    low[k] = k / 2 + (k % 2) * L;
    high[k] = low[k] + L / 2;
  }
  vf a[L], b[L];
  for (int k = 0; k < L; ++k) a[k] = in[k];
  for (int round = 1; round < L; round *= 2) {
    for (int k = 0; k < L / 2; ++k) {
      b[2 * k] = __builtin_shuffle(a[k], a[k + L / 2], low);
      b[2 * k + 1] = __builtin_shuffle(a[k], a[k + L / 2], high);
    }
    for (int k = 0; k < L; ++k) a[k] = b[k];
  }
  for (int k = 0; k < L; ++k) out[k] = a[k];
#else
  for (int k = 0; k < L; ++k)
    for (int l = 0; l < L; ++l) out[l][k] = in[k][l];
#endif
}

// rows[index[l]][l] for every lane; index must be valid.
inline vf gather(const vf* rows, vi index) {
  const float* base = reinterpret_cast<const float*>(rows);
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (vf)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xFFFF, (__m512i)(index * L + lane), base, 4);
#else
  vf out;
  for (int l = 0; l < L; ++l) out[l] = base[index[l] * L + l];
  return out;
#endif
}

}  // namespace battle
