// The pair of features p < q of largest saliency in every row: agents/cmarl_attack/jsma.py.
#include <algorithm>
#include <vector>

#include "threads.hpp"
#include "tiles.hpp"

namespace {

using marl::kLanes;
using marl::Vec;

constexpr double kOperations = 8;  // per pair, about. CHOICE

// |A| |B| of a pair whose sums A = a_p + a_q and B = b_p + b_q differ in sign and that can move by the sign of A, else
// at most 0. `can` is 1 or 0: up where A is above 0, down elsewhere.
inline Vec saliency(Vec a, Vec b, Vec up, Vec down) { return (a * b) * (a > Vec{} ? -up : -down); }

struct Row {
  std::vector<float> a, b, up, down;  // a vector longer than O, the rest zeros

  explicit Row(int64_t O) : a(O + kLanes), b(O + kLanes), up(O + kLanes), down(O + kLanes) {}

  Vec at(int64_t p, int64_t q) const {
    return saliency(a[p] + marl::load(&a[q]), b[p] + marl::load(&b[q]), up[p] * marl::load(&up[q]),
                    down[p] * marl::load(&down[q]));
  }
};

}  // namespace

extern "C" {

// move (R, O): the sign of A at the two features of the best pair, the first of equals, and 0 elsewhere.
// towards, others (R, O): a and b; up, down (R, O): bool, whether a feature can move that way.
void marl_best_pair(int64_t R, int64_t O, const float* towards, const float* others, const uint8_t* up,
                    const uint8_t* down, float* move, int threads) {
  const int some = marl::worthwhile(kOperations * R * O * O / 2 / kLanes, threads);
  marl::split(R, some, [&](int, int64_t first, int64_t last) {
    Row row(O);
    for (int64_t r = first; r < last; ++r) {
      const int64_t at = r * O;
      std::copy_n(towards + at, O, row.a.begin()), std::copy_n(others + at, O, row.b.begin());
      std::copy_n(up + at, O, row.up.begin()), std::copy_n(down + at, O, row.down.begin());
      float best = 0.0f;
      int64_t best_p = -1, best_q = -1;
      for (int64_t p = 0; p + 1 < O; ++p) {
        Vec most{};
        for (int64_t q = p + 1; q < O; q += kLanes) {
          const Vec s = row.at(p, q);
          most = s > most ? s : most;
        }
        float top = 0.0f;
        for (int i = 0; i < kLanes; ++i) top = std::max(top, most[i]);
        if (!(top > best)) continue;
        best = top, best_p = p, best_q = -1;
        for (int64_t q = p + 1; best_q < 0; q += kLanes) {
          const Vec s = row.at(p, q);
          for (int i = 0; i < kLanes && best_q < 0; ++i)
            if (s[i] == top) best_q = q + i;
        }
      }
      std::fill_n(move + at, O, 0.0f);
      if (best_p < 0) continue;
      const float sign = row.a[best_p] + row.a[best_q] > 0.0f ? 1.0f : -1.0f;
      move[at + best_p] = move[at + best_q] = sign;
    }
  });
}

}  // extern "C"
