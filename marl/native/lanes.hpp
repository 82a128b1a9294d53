// Worlds side by side: every quantity of a unit is one vector with a lane per world, as many as the machine's
// vector registers hold (16 with AVX-512, 8 with AVX2, else 4). No lane looks at another, so results do not
// depend on how many there are. Vector extensions of GCC and Clang; intrinsics where those fall short.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "tiles.hpp"

namespace marl {

constexpr int L = kLanes;  // worlds in a group
typedef Vec vf;
typedef VecInt vi;  // also masks: -1 true, 0 false

inline vi splat(int32_t v) { return v - vi{}; }
inline vf pick(vi mask, vf a, vf b) { return mask ? a : b; }
inline vi pick(vi mask, vi a, vi b) { return mask ? a : b; }
inline vf least(vf a, vf b) { return a < b ? a : b; }
inline vf most(vf a, vf b) { return a > b ? a : b; }

// Bit l set where lane l of the mask is true.
inline uint32_t bits_of(vi mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
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
#if defined(__AVX512F__)
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
#if defined(__AVX512F__)
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (vf)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xFFFF, (__m512i)(index * L + lane), base, 4);
#else
  vf out;
  for (int l = 0; l < L; ++l) out[l] = base[index[l] * L + l];
  return out;
#endif
}

struct Lanes {  // which worlds a group holds
  int64_t first;
  int count;
};

inline uint32_t all_of(Lanes lanes) { return (1u << lanes.count) - 1u; }

// Copy feature-major rows of some lanes to a world-major tensor of `width` features, a square at a time; the last
// square overlaps the one before. Fewer features than lanes: `rows` is padded to a whole square.
inline void write_rows(const vf* rows, int width, Lanes lanes, uint32_t which, float* out) {
  vf square[L];
  float* first = out + lanes.first * width;
  if (width < L) {
    transpose(rows, square);
    for (uint32_t left = which; left; left &= left - 1) {
      const int l = __builtin_ctz(left);
      std::memcpy(first + l * width, &square[l], sizeof(float) * width);
    }
    return;
  }
  for (int f = 0;; f = f + 2 * L <= width ? f + L : width - L) {
    transpose(rows + f, square);
    for (uint32_t left = which; left; left &= left - 1) {
      const int l = __builtin_ctz(left);
      store(first + l * width + f, square[l]);
    }
    if (f == width - L) return;
  }
}

}  // namespace marl
