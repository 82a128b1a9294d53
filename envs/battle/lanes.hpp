// Sixteen worlds side by side: every quantity of a unit is one vector with a lane per world.
// Plain GCC/Clang vector extensions; AVX-512 does each operation in one instruction, smaller machines in several.
#pragma once
#include <cstdint>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace battle {

constexpr int L = 16;  // worlds in a group
typedef float vf __attribute__((vector_size(4 * L)));
typedef int32_t vi __attribute__((vector_size(4 * L)));  // also masks: -1 true, 0 false

inline vf splat(float v) { return v - vf{}; }
inline vi splat(int32_t v) { return v - vi{}; }
inline vf pick(vi mask, vf a, vf b) { return mask ? a : b; }
inline vi pick(vi mask, vi a, vi b) { return mask ? a : b; }
inline vf least(vf a, vf b) { return a < b ? a : b; }
inline vf most(vf a, vf b) { return a > b ? a : b; }

inline bool any(vi mask) {
#ifdef __AVX512F__
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
  int32_t all = 0;
  for (int l = 0; l < L; ++l) all |= mask[l];
  return all != 0;
#endif
}

inline uint32_t bits_of(vi mask) {  // bit l set where lane l is true
#ifdef __AVX512F__
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#else
  uint32_t out = 0;
  for (int l = 0; l < L; ++l) out |= (mask[l] != 0 ? 1u : 0u) << l;
  return out;
#endif
}

inline vf root(vf a) {
#ifdef __AVX512F__
  return (vf)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)a);
#else
  vf out;
  for (int l = 0; l < L; ++l) out[l] = __builtin_sqrtf(a[l]);
  return out;
#endif
}

// rows[index[l]][l] for every lane; index must be valid.
inline vf gather(const vf* rows, vi index) {
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const vi at = index * L + lane;
#ifdef __AVX512F__
  return (vf)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xFFFF, (__m512i)at, rows, 4);
#else
  vf out;
  for (int l = 0; l < L; ++l) out[l] = reinterpret_cast<const float*>(rows)[at[l]];
  return out;
#endif
}

}  // namespace battle
