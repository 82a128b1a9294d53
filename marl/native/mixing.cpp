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

constexpr double kOperations = 20;  // per weight of W_1, about. CHOICE

// A vector of which `count` floats count; the others are zeros. `Whole`: all of them.
template <bool Whole>
inline Vec take(const float* p, int64_t count) {
  if (Whole || count >= kLanes) return marl::load(p);
  float some[kLanes] = {};
  std::memcpy(some, p, count * sizeof(float));
  return marl::load(some);
}

template <bool Whole>
inline void put(float* p, int64_t count, Vec v) {
  if (Whole || count >= kLanes) return marl::store(p, v);
  std::memcpy(p, &v, count * sizeof(float));
}

inline Vec abs(Vec v) { return (Vec)((VecInt)v & 0x7fffffff); }

// x with the sign of w; 0 where w is 0.
inline Vec signed_by(Vec x, Vec w) {
  const Vec turned = (Vec)((VecInt)x ^ ((VecInt)w & static_cast<int32_t>(0x80000000u)));
  return w == Vec{} ? Vec{} : turned;
}

struct Arrays {  // as below
  int64_t N, E;
  const float *q, *w1, *b1, *w2;
};

// q |W_1| + b_1 of row r for the features from e on.
template <bool Whole>
inline Vec before(const Arrays& a, int64_t r, int64_t e) {
  const float *q = a.q + r * a.N, *w1 = a.w1 + r * a.N * a.E + e;
  Vec sum = take<Whole>(a.b1 + r * a.E + e, a.E - e);
  for (int64_t n = 0; n < a.N; ++n) sum += q[n] * abs(take<Whole>(w1 + n * a.E, a.E - e));
  return sum;
}

template <bool Whole>
void forward(const Arrays a, int64_t first, int64_t end, const float* b2, float* y) {
  for (int64_t r = first; r < end; ++r) {
    Vec sum{};
    for (int64_t e = 0; e < a.E; e += kLanes) {
      const Vec x = before<Whole>(a, r, e);
      sum += (x > Vec{} ? x : marl::exp(x) - 1.0f) * abs(take<Whole>(a.w2 + r * a.E + e, a.E - e));
    }
    y[r] = marl::total(sum) + b2[r];
  }
}

template <bool Whole>
void backward(const Arrays a, int64_t first, int64_t end, const float* dy, float* dq, float* dw1, float* db1,
              float* dw2) {
  std::vector<Vec> along(a.N);
  for (int64_t r = first; r < end; ++r) {
    for (Vec& sum : along) sum = Vec{};
    for (int64_t e = 0; e < a.E; e += kLanes) {
      const int64_t left = a.E - e;
      const Vec x = before<Whole>(a, r, e), w = take<Whole>(a.w2 + r * a.E + e, left);
      const Vec power = marl::exp(x), up = dy[r] * abs(w);
      const Vec d = x > Vec{} ? up : up * power;
      put<Whole>(dw2 + r * a.E + e, left, signed_by(dy[r] * (x > Vec{} ? x : power - 1.0f), w));
      put<Whole>(db1 + r * a.E + e, left, d);
      for (int64_t n = 0; n < a.N; ++n) {
        const int64_t at = (r * a.N + n) * a.E + e;
        const Vec weight = take<Whole>(a.w1 + at, left);
        along[n] += d * abs(weight);
        put<Whole>(dw1 + at, left, signed_by(d * a.q[r * a.N + n], weight));
      }
    }
    for (int64_t n = 0; n < a.N; ++n) dq[r * a.N + n] = marl::total(along[n]);
  }
}

}  // namespace

extern "C" {

// y (R) from q (R, N), w1 (R, N, E), b1 (R, E), w2 (R, E), b2 (R).
void marl_mixing_forward(int64_t R, int64_t N, int64_t E, const float* q, const float* w1, const float* b1,
                         const float* w2, const float* b2, float* y, int threads) {
  const auto rows = E % kLanes ? forward<false> : forward<true>;
  marl::split(R, marl::worthwhile(kOperations * R * N * E, threads), [&](int, int64_t first, int64_t end) {
    rows({N, E, q, w1, b1, w2}, first, end, b2, y);
  });
}

// Gradients for dy (R); that of b2 is dy itself.
void marl_mixing_backward(int64_t R, int64_t N, int64_t E, const float* q, const float* w1, const float* b1,
                          const float* w2, const float* dy, float* dq, float* dw1, float* db1, float* dw2,
                          int threads) {
  const auto rows = E % kLanes ? backward<false> : backward<true>;
  marl::split(R, marl::worthwhile(2 * kOperations * R * N * E, threads), [&](int, int64_t first, int64_t end) {
    rows({N, E, q, w1, b1, w2}, first, end, dy, dq, dw1, db1, dw2);
  });
}

}  // extern "C"
