// A mixing network whose weights differ from row to row: y = elu(q |W_1| + b_1) . |w_2| + b_2, and its gradients.
//
// Symbols as in marl/nets/mixing.py: rows r < R, agents n < N, features e < E. Rows do not look at each other, so
// that results do not depend on the number of threads.
#include "threads.hpp"
#include "tiles.hpp"

namespace {

using marl::kLanes;
using marl::Vec;
using marl::VecInt;

constexpr double kOperations = 12;  // per weight of W_1, about. CHOICE

// Up to kLanes floats; missing ones are zeros.
inline Vec take(const float* p, int64_t count) {
  if (count >= kLanes) return marl::load(p);
  Vec out{};
  for (int64_t i = 0; i < count; ++i) out[i] = p[i];
  return out;
}

inline void put(float* p, int64_t count, Vec v) {
  if (count >= kLanes) return marl::store(p, v);
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

inline float total(Vec v) {
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

inline Vec abs(Vec v) { return (Vec)((VecInt)v & 0x7fffffff); }

// x with the sign of w; 0 where w is 0.
inline Vec signed_by(Vec x, Vec w) {
  const Vec turned = (Vec)((VecInt)x ^ ((VecInt)w & static_cast<int32_t>(0x80000000u)));
  return w == Vec{} ? Vec{} : turned;
}

// q |W_1| + b_1 for the features from e on.
inline Vec before(int64_t N, int64_t E, int64_t e, const float* q, const float* w1, const float* b1) {
  Vec sum = take(b1 + e, E - e);
  for (int64_t n = 0; n < N; ++n) sum += q[n] * abs(take(w1 + n * E + e, E - e));
  return sum;
}

}  // namespace

extern "C" {

// y (R) from q (R, N), w1 (R, N, E), b1 (R, E), w2 (R, E), b2 (R).
void marl_mixing_forward(int64_t R, int64_t N, int64_t E, const float* q, const float* w1, const float* b1,
                         const float* w2, const float* b2, float* y, int threads) {
  marl::split(R, marl::worthwhile(kOperations * R * N * E, threads), [&](int, int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
      Vec sum{};
      for (int64_t e = 0; e < E; e += kLanes) {
        const Vec x = before(N, E, e, q + r * N, w1 + r * N * E, b1 + r * E);
        sum += (x > Vec{} ? x : marl::exp(x) - 1.0f) * abs(take(w2 + r * E + e, E - e));
      }
      y[r] = total(sum) + b2[r];
    }
  });
}

// Gradients for dy (R); that of b2 is dy itself.
void marl_mixing_backward(int64_t R, int64_t N, int64_t E, const float* q, const float* w1, const float* b1,
                          const float* w2, const float* dy, float* dq, float* dw1, float* db1, float* dw2,
                          int threads) {
  marl::split(R, marl::worthwhile(2 * kOperations * R * N * E, threads), [&](int, int64_t first, int64_t end) {
    std::vector<Vec> along(N);
    for (int64_t r = first; r < end; ++r) {
      for (Vec& sum : along) sum = Vec{};
      for (int64_t e = 0; e < E; e += kLanes) {
        const Vec x = before(N, E, e, q + r * N, w1 + r * N * E, b1 + r * E), w = take(w2 + r * E + e, E - e);
        const Vec power = marl::exp(x), up = dy[r] * abs(w);
        const Vec d = x > Vec{} ? up : up * power;
        put(dw2 + r * E + e, E - e, signed_by(dy[r] * (x > Vec{} ? x : power - 1.0f), w));
        put(db1 + r * E + e, E - e, d);
        for (int64_t n = 0; n < N; ++n) {
          const int64_t at = (r * N + n) * E + e;
          const Vec weight = take(w1 + at, E - e);
          along[n] += d * abs(weight);
          put(dw1 + at, E - e, signed_by(d * q[r * N + n], weight));
        }
      }
      for (int64_t n = 0; n < N; ++n) dq[r * N + n] = total(along[n]);
    }
  });
}

}  // extern "C"
