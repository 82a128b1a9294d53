// The counter-based streams of marl/rng.py, bit for bit. Include in every native world.
#pragma once
#include <cstdint>

namespace marl {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

inline uint64_t mix(uint64_t x) {  // SplitMix64 finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

inline uint64_t fold(uint64_t key, uint64_t word) { return mix(key + mix(word + kGolden)); }

// 64 random bits number i of the stream `key`.
inline uint64_t bits(uint64_t key, uint64_t i) { return mix(key + (i + 1) * kGolden); }

// Uniform float32 on [0, 1) from the top 24 bits: number i of the stream `key`.
inline float uniform(uint64_t key, uint64_t i) {
  return static_cast<float>(bits(key, i) >> 40) * (1.0f / 16777216.0f);
}

}  // namespace marl
