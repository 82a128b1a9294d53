// What an LSTM cell does with its gates, forward and backward; the products around it are the caller's.
//
// Legend: R rows, H features of the state; gates (R, 4, H) in the order i, f, g, o; saved (R, 5, H) holds their
// activations and tanh(c').
#include <algorithm>

#include "tiles.hpp"

namespace {

using marl::kLanes;
using marl::Vec;

// The first m <= kLanes floats; the other lanes are 0.
inline Vec load(const float* p, int64_t m) {
  if (m == kLanes) return marl::load(p);
  float whole[kLanes] = {0};
  std::copy_n(p, m, whole);
  return marl::load(whole);
}

inline void store(float* p, Vec v, int64_t m) {
  if (m == kLanes) return marl::store(p, v);
  float whole[kLanes];
  marl::store(whole, v);
  std::copy_n(whole, m, p);
}

}  // namespace

extern "C" {

// h' = o tanh(c'), c' = f c + i g, of the sum of two products `a` and `b` (R, 4, H). `b` and `saved` may be null.
void marl_lstm_forward(int64_t R, int64_t H, const float* a, const float* b, const float* c, float* h_next,
                       float* c_next, float* saved) {
  for (int64_t r = 0; r < R; ++r, a += 4 * H, c += H, h_next += H, c_next += H) {
    for (int64_t j = 0; j < H; j += kLanes) {
      const int64_t m = std::min<int64_t>(kLanes, H - j);
      Vec gate[4];
      for (int k = 0; k < 4; ++k) gate[k] = load(a + k * H + j, m) + (b ? load(b + k * H + j, m) : Vec{});
      const Vec i = marl::sigmoid(gate[0]), f = marl::sigmoid(gate[1]);
      const Vec g = marl::tanh(gate[2]), o = marl::sigmoid(gate[3]);
      const Vec now = f * load(c + j, m) + i * g, squashed = marl::tanh(now);
      store(h_next + j, o * squashed, m);
      store(c_next + j, now, m);
      if (!saved) continue;
      const Vec kept[5] = {i, f, g, o, squashed};
      for (int k = 0; k < 5; ++k) store(saved + k * H + j, kept[k], m);
    }
    if (b) b += 4 * H;
    if (saved) saved += 5 * H;
  }
}

// Gradients of both products (R, 4, H), which are the same, and of c, from those of h' and c'.
void marl_lstm_backward(int64_t R, int64_t H, const float* saved, const float* c, const float* dh,
                        const float* dc_next, float* dgates, float* dc) {
  for (int64_t r = 0; r < R; ++r, saved += 5 * H, c += H, dh += H, dc_next += H, dgates += 4 * H, dc += H)
    for (int64_t j = 0; j < H; j += kLanes) {
      const int64_t m = std::min<int64_t>(kLanes, H - j);
      Vec kept[5];
      for (int k = 0; k < 5; ++k) kept[k] = load(saved + k * H + j, m);
      const Vec i = kept[0], f = kept[1], g = kept[2], o = kept[3], squashed = kept[4], up = load(dh + j, m);
      const Vec now = load(dc_next + j, m) + up * o * (1.0f - squashed * squashed);
      store(dgates + j, now * g * i * (1.0f - i), m);
      store(dgates + H + j, now * load(c + j, m) * f * (1.0f - f), m);
      store(dgates + 2 * H + j, now * i * (1.0f - g * g), m);
      store(dgates + 3 * H + j, up * squashed * o * (1.0f - o), m);
      store(dc + j, now * f, m);
    }
}

}  // extern "C"
