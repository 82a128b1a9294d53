// Towers: stages [LayerNorm] - linear - [ReLU or tanh] one after another, then [LayerNorm]; forward and backward.
//
// Element (r, c, i) of x lies at (r * C + c) * I + i: C = 1 is one set of weights, C > 1 one per agent. Rows go
// through all stages in blocks that stay in the first-level cache; features are padded to whole vectors with
// zeros. Gradients are summed per thread and then over threads in their order, so that a result depends on the
// number of threads and on nothing else.
#include <algorithm>
#include <cmath>

#include "threads.hpp"
#include "tiles.hpp"

namespace {

using marl::kLanes;
using marl::Vec;
using marl::load;
using marl::splat;
using marl::store;
using marl::total;

constexpr int kBlock = 48;        // rows of a block
constexpr float kEps = 1e-5f;     // of LayerNorm, as torch's default
enum Activation { kNone, kRelu, kTanh };

int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// LayerNorm of one set of weights over n features: gain and shift, and 1 where a feature is no padding.
struct Norm {
  std::vector<float> gain, shift, real;
  int64_t n = 0, width = 0;

  Norm() = default;
  Norm(const float* g, const float* s, int64_t count) : n(count), width(padded(count)) {
    gain.assign(width, 0.0f), shift.assign(width, 0.0f), real.assign(width, 0.0f);
    for (int64_t i = 0; i < n; ++i) gain[i] = g[i], shift[i] = s[i], real[i] = 1.0f;
  }

  // x (rows, width) becomes its normal form times gain plus shift; `hat` and `scale` keep what backward needs.
  void forward(int64_t rows, float* x, float* hat, float* scale) const {
    for (int64_t r = 0; r < rows; ++r, x += width) {
      Vec sum{}, square{};
      for (int64_t j = 0; j < width; j += kLanes) sum += load(x + j);
      const Vec mean = splat(total(sum) / n);
      for (int64_t j = 0; j < width; j += kLanes) {
        const Vec d = (load(x + j) - mean) * load(&real[j]);
        square += d * d;
        store(x + j, d);
      }
      const float root = 1.0f / std::sqrt(total(square) / n + kEps);
      if (scale) scale[r] = root;
      for (int64_t j = 0; j < width; j += kLanes) {
        const Vec h = load(x + j) * root;
        if (hat) store(hat + r * width + j, h);
        store(x + j, h * load(&gain[j]) + load(&shift[j]));
      }
    }
  }

  // d (rows, width) of the output becomes that of the input; gradients are added to dgain and dshift.
  void backward(int64_t rows, float* d, const float* hat, const float* scale, float* dgain, float* dshift) const {
    for (int64_t r = 0; r < rows; ++r, d += width, hat += width) {
      Vec sum{}, along{};
      for (int64_t j = 0; j < width; j += kLanes) {
        const Vec up = load(d + j), h = load(hat + j), g = up * load(&gain[j]);
        store(dgain + j, load(dgain + j) + up * h);
        store(dshift + j, load(dshift + j) + up);
        sum += g;
        along += g * h;
        store(d + j, g);
      }
      const float mean = total(sum) / n, slope = total(along) / n;
      for (int64_t j = 0; j < width; j += kLanes)
        store(d + j, (load(d + j) - mean - load(hat + j) * slope) * load(&real[j]) * scale[r]);
    }
  }
};

// One set of weights of a stage, and where its gradients stand in a thread's sums.
struct Stage {
  bool norm;
  int64_t activation, I, O, Q, P;       // inputs, outputs, and both padded
  Norm before;                          // of the inputs
  std::vector<float> turned, bias;      // W^T (I, P) packed, for forward; b (P)
  std::vector<float> straight;          // W (O, Q) packed, for backward
  int64_t at_gain, at_shift, at_weight, at_bias;
};

struct Tower {
  std::vector<Stage> stages;
  bool norm;
  Norm after;
  int64_t width = 0, sums = 0, at_gain = 0, at_shift = 0, last;  // widest padded features; floats of the sums

  // plan: norm, outputs, activation of each stage; pointers: [gain, shift,] W, b of each, then [gain, shift].
  Tower(int64_t I, int64_t S, const int64_t* plan, bool final_norm, const float* const* p, int64_t c, bool learn)
      : norm(final_norm) {
    for (int64_t s = 0; s < S; ++s, plan += 3) {
      Stage g{plan[0] != 0, plan[2], I, plan[1], padded(I), padded(plan[1]), {}, {}, {}, {}, 0, 0, 0, 0};
      if (g.norm) g.before = Norm(p[0] + c * I, p[1] + c * I, I), p += 2;
      const float *w = p[0] + c * g.O * I, *b = p[1] + c * g.O;
      p += 2;
      const auto weight = [&](int64_t o, int64_t i) { return o < g.O && i < I ? w[o * I + i] : 0.0f; };
      g.bias.assign(g.P, 0.0f);
      std::copy(b, b + g.O, g.bias.begin());
      (learn ? g.straight : g.turned).resize(learn ? g.O * g.Q : I * g.P);
      if (learn)
        marl::pack(g.O, g.Q, weight, g.straight.data());
      else
        marl::pack(I, g.P, [&](int64_t i, int64_t o) { return weight(o, i); }, g.turned.data());
      g.at_gain = sums, g.at_shift = g.at_gain + g.Q, g.at_weight = g.at_shift + g.Q;
      g.at_bias = g.at_weight + g.O * g.Q, sums = g.at_bias + g.P;
      width = std::max({width, g.Q, g.P});
      I = g.O;
      stages.push_back(std::move(g));
    }
    if (norm) after = Norm(p[0] + c * I, p[1] + c * I, I);
    at_gain = sums, at_shift = at_gain + padded(I), sums = at_shift + padded(I);
    last = I;
  }

  // Whether backward looks at a stage's output.
  bool reads(const Stage& s) const { return &s != &stages.back() || norm || s.activation != kNone; }
};

std::vector<Tower> towers(int64_t C, int64_t I, int64_t S, const int64_t* plan, int final_norm,
                          const float* const* parameters, bool learn) {
  std::vector<Tower> out;
  for (int64_t c = 0; c < C; ++c) out.emplace_back(I, S, plan, final_norm != 0, parameters, c, learn);
  return out;
}

double operations(const Tower& tower, int64_t rows) {
  double sum = 0.0;
  for (const auto& s : tower.stages) sum += 2.0 * s.I * s.O + 10.0 * s.norm * s.I + 20.0 * s.O * (s.activation == kTanh);
  return sum * rows;
}

// Rows of n features at a stride, to and from padded rows.
void gather(int64_t rows, const float* from, int64_t stride, int64_t n, float* to, int64_t width) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += width) {
    std::memcpy(to, from, n * sizeof(float));
    std::memset(to + n, 0, (width - n) * sizeof(float));
  }
}

void scatter(int64_t rows, const float* from, int64_t width, int64_t n, float* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, from += width, to += stride) std::memcpy(to, from, n * sizeof(float));
}

void activate(int64_t activation, int64_t count, float* x) {
  if (activation == kRelu)  // written so that NaN stays NaN
    for (int64_t j = 0; j < count; j += kLanes) {
      const Vec v = load(x + j);
      store(x + j, v < Vec{} ? Vec{} : v);
    }
  if (activation == kTanh)
    for (int64_t j = 0; j < count; j += kLanes) store(x + j, marl::tanh(load(x + j)));
}

// d (rows, P) times the activation's slope at its output y (rows, O) at a stride.
void activate_backward(int64_t activation, int64_t rows, int64_t O, int64_t P, const float* y, int64_t stride, float* d) {
  if (activation == kNone) return;
  for (int64_t r = 0; r < rows; ++r, y += stride, d += P)
    if (activation == kRelu)
      for (int64_t o = 0; o < O; ++o) d[o] = y[o] > 0.0f ? d[o] : 0.0f;
    else
      for (int64_t o = 0; o < O; ++o) d[o] *= 1.0f - y[o] * y[o];
}

}  // namespace

extern "C" {

// y (R, C, outputs) of x (R, C, I). `saved`, if not null, takes every stage's output (R, C, O) one after another.
void marl_tower_forward(int64_t R, int64_t C, int64_t I, int64_t S, const int64_t* plan, int final_norm,
                        const float* x, const float* const* parameters, float* saved, float* y, int threads) {
  const auto sets = towers(C, I, S, plan, final_norm, parameters, false);
  const int64_t W = sets[0].width;
  threads = marl::worthwhile(C * operations(sets[0], R), threads);
  marl::split((R + kBlock - 1) / kBlock, threads, [&](int, int64_t first, int64_t end) {
    std::vector<float> in(kBlock * W), out(kBlock * W);
    for (int64_t block = first; block < end; ++block)
      for (int64_t c = 0; c < C; ++c) {
        const int64_t r0 = block * kBlock, rows = std::min<int64_t>(kBlock, R - r0);
        const Tower& tower = sets[c];
        gather(rows, x + (r0 * C + c) * I, C * I, I, in.data(), padded(I));
        float* keep = saved;
        for (const auto& s : tower.stages) {
          if (s.norm) s.before.forward(rows, in.data(), nullptr, nullptr);
          for (int64_t r = 0; r < rows; ++r) std::memcpy(&out[r * s.P], s.bias.data(), s.P * sizeof(float));
          marl::packed_product(rows, s.P, s.I, in.data(), s.Q, 1, s.turned.data(), out.data(), s.P, true);
          activate(s.activation, rows * s.P, out.data());
          if (saved && tower.reads(s)) scatter(rows, out.data(), s.P, s.O, keep + (r0 * C + c) * s.O, C * s.O);
          keep += R * C * s.O;
          in.swap(out);
        }
        if (tower.norm) tower.after.forward(rows, in.data(), nullptr, nullptr);
        scatter(rows, in.data(), padded(tower.last), tower.last, y + (r0 * C + c) * tower.last, C * tower.last);
      }
  });
}

// Gradients for dy, in the order of the parameters, written or added to what is there; dx or they may be null.
void marl_tower_backward(int64_t R, int64_t C, int64_t I, int64_t S, const int64_t* plan, int final_norm,
                         const float* x, const float* const* parameters, const float* saved, const float* dy,
                         float* dx, float* const* gradients, int add, int threads) {
  const auto sets = towers(C, I, S, plan, final_norm, parameters, true);
  const int64_t W = sets[0].width, L = sets[0].last, size = sets[0].sums;
  threads = marl::worthwhile(2.0 * C * operations(sets[0], R), threads);
  std::vector<std::vector<float>> sums(threads);
  marl::split((R + kBlock - 1) / kBlock, threads, [&](int thread, int64_t first, int64_t end) {
    sums[thread].assign(C * size, 0.0f);  // of LayerNorms also where nobody asks
    std::vector<float> d(kBlock * W), in(kBlock * W), hat(kBlock * W), out(kBlock * W), scale(kBlock);
    for (int64_t block = first; block < end; ++block)
      for (int64_t c = 0; c < C; ++c) {
        const int64_t r0 = block * kBlock, rows = std::min<int64_t>(kBlock, R - r0);
        const Tower& tower = sets[c];
        float* sum = &sums[thread][c * size];
        const float* kept = saved;
        for (const auto& s : tower.stages) kept += R * C * s.O;
        gather(rows, dy + (r0 * C + c) * L, C * L, L, d.data(), padded(L));
        if (tower.norm) {
          gather(rows, kept - R * C * L + (r0 * C + c) * L, C * L, L, in.data(), padded(L));
          tower.after.forward(rows, in.data(), hat.data(), scale.data());
          tower.after.backward(rows, d.data(), hat.data(), scale.data(), sum + tower.at_gain, sum + tower.at_shift);
        }
        for (int64_t i = S - 1; i >= 0; --i) {
          const Stage& s = tower.stages[i];
          kept -= R * C * s.O;
          activate_backward(s.activation, rows, s.O, s.P, kept + (r0 * C + c) * s.O, C * s.O, d.data());
          for (int64_t r = 0; gradients && r < rows; ++r)
            for (int64_t j = 0; j < s.P; j += kLanes)
              store(sum + s.at_bias + j, load(sum + s.at_bias + j) + load(&d[r * s.P + j]));
          const float* input = i > 0 ? kept - R * C * s.I : x;
          gather(rows, input + (r0 * C + c) * s.I, C * s.I, s.I, in.data(), s.Q);
          if (s.norm) s.before.forward(rows, in.data(), hat.data(), scale.data());
          if (gradients)
            marl::product(s.O, s.Q, rows, d.data(), 1, s.P, in.data(), s.Q, sum + s.at_weight, s.Q, true);
          if (i == 0 && !s.norm && !dx) break;
          marl::packed_product(rows, s.Q, s.O, d.data(), s.P, 1, s.straight.data(), out.data(), s.Q, false);
          if (s.norm)
            s.before.backward(rows, out.data(), hat.data(), scale.data(), sum + s.at_gain, sum + s.at_shift);
          d.swap(out);
        }
        if (dx) scatter(rows, d.data(), padded(I), I, dx + (r0 * C + c) * I, C * I);
      }
  });
  const auto collect = [&](int64_t c, int64_t at, int64_t rows, int64_t n, int64_t width, float* to) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; ++i) {
        float all = add ? to[(c * rows + r) * n + i] : 0.0f;
        for (const auto& part : sums) all += part.empty() ? 0.0f : part[c * size + at + r * width + i];
        to[(c * rows + r) * n + i] = all;
      }
  };
  for (int64_t c = 0; gradients && c < C; ++c) {
    float* const* to = gradients;
    for (const auto& s : sets[c].stages) {
      if (s.norm) {
        collect(c, s.at_gain, 1, s.I, s.Q, *to++);
        collect(c, s.at_shift, 1, s.I, s.Q, *to++);
      }
      collect(c, s.at_weight, s.O, s.I, s.Q, *to++);
      collect(c, s.at_bias, 1, s.O, s.P, *to++);
    }
    if (sets[c].norm) {
      collect(c, sets[c].at_gain, 1, L, padded(L), *to++);
      collect(c, sets[c].at_shift, 1, L, padded(L), *to++);
    }
  }
}

}  // extern "C"
