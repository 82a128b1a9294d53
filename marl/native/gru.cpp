// The gated recurrent unit over sequences with resets, forward and backward.
//
// Symbols as in marl/nets/recurrent.py: sequences b < B, entries t < T, agents n < N, inputs I, state H.
// Tensors are (B, T, N, .); C sets of weights are shared by all agents (C = 1) or one each (C = N). Every
// thread owns some sequences from the first entry to the last, so that threads never wait for each other.
// Within a thread the inputs of one entry are gathered into a small buffer, features are padded to whole vectors,
// and input and recurrent product, gates and new state are computed without leaving registers.
#include <algorithm>

#include "threads.hpp"
#include "tiles.hpp"

namespace {

using marl::kLanes;
using marl::kGateRows;
using marl::Vec;

int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

struct Sizes {
  int64_t B, T, N, C, I, H;
  int64_t group() const { return N / C; }  // agents that share one set of weights
  int64_t at(int64_t b, int64_t t, int64_t n) const { return (b * T + t) * N + n; }
  double operations() const { return 6.0 * B * T * N * H * (I + H); }
};

// Weights of one set for `forward`: [block of kLanes features][input k][r, z, n][kLanes].
std::vector<float> pack(const float* w, int64_t K, int64_t H) {
  const int64_t blocks = padded(H) / kLanes;
  std::vector<float> out(blocks * K * 3 * kLanes, 0.0f);
  for (int64_t gate = 0; gate < 3; ++gate)
    for (int64_t j = 0; j < H; ++j)
      for (int64_t k = 0; k < K; ++k)
        out[((j / kLanes * K + k) * 3 + gate) * kLanes + j % kLanes] = w[(gate * H + j) * K + k];
  return out;
}

// Sums of a tile of M rows for one block of features: r, z, and the two halves of n kept apart.
template <int M>
struct Gates {
  Vec r[M], z[M], in[M], hn[M];
};

template <int M>
inline void accumulate(Gates<M>& g, Vec (&third)[M], int64_t K, const float* a, int64_t lda, const float* w) {
  for (int64_t k = 0; k < K; ++k, w += 3 * kLanes) {
    const Vec wr = marl::load(w), wz = marl::load(w + kLanes), wn = marl::load(w + 2 * kLanes);
    for (int i = 0; i < M; ++i) {
      const float value = a[i * lda + k];
      g.r[i] += value * wr;
      g.z[i] += value * wz;
      third[i] += value * wn;
    }
  }
}

struct Weights {
  std::vector<float> input, recurrent;  // packed
  std::vector<float> bias;              // [6][padded H]: input r, z, n, recurrent r, z, n
};

Weights weights(const Sizes& s, const float* wi, const float* bi, const float* wh, const float* bh) {
  const int64_t P = padded(s.H);
  Weights out{pack(wi, s.I, s.H), pack(wh, s.H, s.H), std::vector<float>(6 * P, 0.0f)};
  for (int64_t gate = 0; gate < 3; ++gate)
    for (int64_t j = 0; j < s.H; ++j) {
      out.bias[gate * P + j] = bi[gate * s.H + j];
      out.bias[(3 + gate) * P + j] = bh[gate * s.H + j];
    }
  return out;
}

// One block of features, from j on, of one entry of `rows` gathered rows: tiles of M rows, then what is left.
template <int M>
void cells(const Sizes& s, const Weights& w, int64_t j, int64_t rows, const float* x, const float* h, float* next,
           float* saved) {
  const int64_t P = padded(s.H);
  const float *wi = &w.input[j * s.I * 3], *wh = &w.recurrent[j * s.H * 3], *b = &w.bias[j];
  const Vec br = marl::load(b) + marl::load(b + 3 * P), bz = marl::load(b + P) + marl::load(b + 4 * P);
  int64_t r = 0;
  for (; r + M <= rows; r += M) {
    Gates<M> g;
    for (int i = 0; i < M; ++i) {
      g.r[i] = br;
      g.z[i] = bz;
      g.in[i] = marl::load(b + 2 * P);
      g.hn[i] = marl::load(b + 5 * P);
    }
    accumulate<M>(g, g.in, s.I, x + r * s.I, s.I, wi);
    accumulate<M>(g, g.hn, s.H, h + r * P, P, wh);
    for (int i = 0; i < M; ++i) {
      const Vec reset = marl::sigmoid(g.r[i]), update = marl::sigmoid(g.z[i]);
      const Vec n = marl::tanh(g.in[i] + reset * g.hn[i]), old = marl::load(h + (r + i) * P + j);
      marl::store(next + (r + i) * P + j, n + update * (old - n));
      if (!saved) continue;
      float* to = saved + (r + i) * 4 * P + j;
      marl::store(to, reset);
      marl::store(to + P, update);
      marl::store(to + 2 * P, n);
      marl::store(to + 3 * P, g.hn[i]);
    }
  }
  if constexpr (M > 1)
    if (r < rows) cells<M - 1>(s, w, j, rows - r, x + r * s.I, h + r * P, next + r * P, saved ? saved + r * 4 * P : nullptr);
}

// dgates (rows, 4, P) in the order n of the input, r, z, n of the recurrent half, their sums over rows added to
// `bias` (4, P); dh becomes dh * z.
void gates_backward(int64_t rows, int64_t P, const float* saved, const float* h, float* dh, float* d, float* bias) {
  for (int64_t j = 0; j < P; j += kLanes) {
    Vec sum[4];
    for (int g = 0; g < 4; ++g) sum[g] = marl::load(bias + g * P + j);
    for (int64_t r = 0; r < rows; ++r) {
      const float* gates = saved + r * 4 * P + j;
      const Vec reset = marl::load(gates), update = marl::load(gates + P), n = marl::load(gates + 2 * P);
      const Vec hn = marl::load(gates + 3 * P), old = marl::load(h + r * P + j), up = marl::load(dh + r * P + j);
      const Vec dn = up * (1.0f - update) * (1.0f - n * n);
      const Vec out[4] = {dn, dn * hn * reset * (1.0f - reset), up * (old - n) * update * (1.0f - update), dn * reset};
      for (int g = 0; g < 4; ++g) {
        sum[g] += out[g];
        marl::store(d + (r * 4 + g) * P + j, out[g]);
      }
      marl::store(dh + r * P + j, up * update);
    }
    for (int g = 0; g < 4; ++g) marl::store(bias + g * P + j, sum[g]);
  }
}

// Where forward leaves what backward needs, so that both go through it in order: for each set of weights and each
// entry t the state before t (rows, P), zeros where t starts an episode, and after all of those the gates
// (rows, 4, P); one more state follows the last entry. Row b * G + n of an entry is agent n of sequence b.
struct Saved {
  float* base;
  int64_t rows, T, P;
  float* state(int64_t c, int64_t t) const { return base + (c * (5 * T + 1) + t) * rows * P; }
  float* gates(int64_t c, int64_t t) const { return state(c, T + 1) + t * 4 * rows * P; }
};

// What one thread sums up for one set of weights; gates in the order of `gates_backward`.
struct Sums {
  std::vector<float> input, recurrent, bias;  // [n r z][padded I], [r z n][padded H], [n r z n][padded H]
};

}  // namespace

extern "C" {

// Floats of `saved`.
int64_t marl_gru_saved(int64_t B, int64_t T, int64_t N, int64_t H) { return B * N * (5 * T + 1) * padded(H); }

// h (B, T, N, H) from x (B, T, N, I); h0 (B, N, H) may be null (zeros); saved (see `Saved`) may be null.
void marl_gru_forward(int64_t B, int64_t T, int64_t N, int64_t C, int64_t I, int64_t H, const float* x,
                      const uint8_t* start, const float* h0, const float* wi, const float* bi, const float* wh,
                      const float* bh, float* h, float* saved, int threads) {
  const Sizes s{B, T, N, C, I, H};
  const int64_t P = padded(H), G = s.group();
  const Saved keep{saved, B * G, T, P};
  std::vector<Weights> sets;
  for (int64_t c = 0; c < C; ++c)
    sets.push_back(weights(s, wi + c * 3 * H * I, bi + c * 3 * H, wh + c * 3 * H * H, bh + c * 3 * H));
  marl::split(B, marl::worthwhile(s.operations(), threads), [&](int, int64_t b0, int64_t b1) {
    const int64_t rows = (b1 - b0) * G;
    std::vector<float> in(rows * I), passing(saved ? 0 : 2 * rows * P);
    for (int64_t c = 0; c < C; ++c) {
      const auto state = [&](int64_t t) { return saved ? keep.state(c, t) + b0 * G * P : &passing[t % 2 * rows * P]; };
      std::fill(state(0), state(0) + rows * P, 0.0f);
      for (int64_t r = 0; h0 && r < rows; ++r)
        std::memcpy(state(0) + r * P, h0 + ((b0 + r / G) * N + c * G + r % G) * H, H * sizeof(float));
      for (int64_t t = 0; t < T; ++t) {
        float *now = state(t), *next = state(t + 1);
        for (int64_t b = b0; b < b1; ++b) {
          const int64_t r = (b - b0) * G;
          std::memcpy(&in[r * I], x + s.at(b, t, c * G) * I, G * I * sizeof(float));
          if (start[b * T + t]) std::memset(now + r * P, 0, G * P * sizeof(float));
        }
        for (int64_t j = 0; j < P; j += kLanes)
          cells<kGateRows>(s, sets[c], j, rows, in.data(), now, next, saved ? keep.gates(c, t) + b0 * G * 4 * P : nullptr);
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(h + s.at(b0 + r / G, t, c * G + r % G) * H, next + r * P, H * sizeof(float));
      }
    }
  });
}

// Gradients for dh (B, T, N, H) of the states; dx may be null. The initial state counts as constant.
void marl_gru_backward(int64_t B, int64_t T, int64_t N, int64_t C, int64_t I, int64_t H, const float* x,
                       const uint8_t* start, const float* wi, const float* wh, float* saved, const float* dh, float* dx, float* dwi,
                       float* dbi, float* dwh, float* dbh, int threads) {
  const Sizes s{B, T, N, C, I, H};
  const int64_t P = padded(H), Q = padded(I), G = s.group();
  const Saved keep{saved, B * G, T, P};
  threads = marl::worthwhile(2.0 * s.operations(), threads);
  const int64_t order_input[3] = {2, 0, 1};  // gate of rows n, r, z
  // Weights with padded rows: input [C][n r z][H][Q], recurrent [C][r z n][P][P].
  std::vector<float> wide_i(C * 3 * P * Q, 0.0f), wide_h(C * 3 * P * P, 0.0f);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t g = 0; g < 3; ++g)
      for (int64_t j = 0; j < H; ++j) {
        std::memcpy(&wide_i[((c * 3 + g) * P + j) * Q], wi + ((c * 3 + order_input[g]) * H + j) * I, I * sizeof(float));
        std::memcpy(&wide_h[((c * 3 + g) * P + j) * P], wh + ((c * 3 + g) * H + j) * H, H * sizeof(float));
      }
  std::vector<std::vector<Sums>> sums(threads);
  marl::split(B, threads, [&](int thread, int64_t b0, int64_t b1) {
    const int64_t rows = (b1 - b0) * G;
    std::vector<float> in(rows * Q, 0.0f), up(rows * P), d(rows * 4 * P);
    std::vector<float> out(rows * Q);
    for (int64_t c = 0; c < C; ++c) {
      sums[thread].push_back({std::vector<float>(3 * P * Q, 0.0f), std::vector<float>(3 * P * P, 0.0f),
                              std::vector<float>(4 * P, 0.0f)});
      Sums& sum = sums[thread].back();
      std::fill(up.begin(), up.end(), 0.0f);
      for (int64_t t = T - 1; t >= 0; --t) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = s.at(b0 + r / G, t, c * G + r % G);
          std::memcpy(&in[r * Q], x + at * I, I * sizeof(float));
          for (int64_t j = 0; j < H; ++j) up[r * P + j] += dh[at * H + j];
        }
        const float* old = keep.state(c, t) + b0 * G * P;
        gates_backward(rows, P, keep.gates(c, t) + b0 * G * 4 * P, old, up.data(), d.data(), sum.bias.data());
        marl::product(3 * P, Q, rows, d.data(), 1, 4 * P, in.data(), Q, sum.input.data(), Q, true);
        marl::product(3 * P, P, rows, d.data() + P, 1, 4 * P, old, P, sum.recurrent.data(), P, true);
        marl::product(rows, P, 3 * P, d.data() + P, 4 * P, 1, &wide_h[c * 3 * P * P], P, up.data(), P, true);
        for (int64_t r = 0; r < rows; ++r)
          if (start[(b0 + r / G) * T + t]) std::memset(&up[r * P], 0, P * sizeof(float));
        if (!dx) continue;
        marl::product(rows, Q, 3 * P, d.data(), 4 * P, 1, &wide_i[c * 3 * P * Q], Q, out.data(), Q, false);
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(dx + s.at(b0 + r / G, t, c * G + r % G) * I, &out[r * Q], I * sizeof(float));
      }
    }
  });
  std::fill(dwi, dwi + C * 3 * H * I, 0.0f), std::fill(dwh, dwh + C * 3 * H * H, 0.0f);
  std::fill(dbi, dbi + C * 3 * H, 0.0f), std::fill(dbh, dbh + C * 3 * H, 0.0f);
  for (const auto& of_thread : sums)
    for (size_t c = 0; c < of_thread.size(); ++c)
      for (int64_t g = 0; g < 3; ++g)
        for (int64_t j = 0; j < H; ++j) {
          const Sums& sum = of_thread[c];
          const int64_t gi = (c * 3 + order_input[g]) * H + j, gh = (c * 3 + g) * H + j;
          const float *input = &sum.input[(g * P + j) * Q], *recurrent = &sum.recurrent[(g * P + j) * P];
          for (int64_t i = 0; i < I; ++i) dwi[gi * I + i] += input[i];
          for (int64_t i = 0; i < H; ++i) dwh[gh * H + i] += recurrent[i];
          dbi[gi] += sum.bias[g * P + j];
          dbh[gh] += sum.bias[(g + 1) * P + j];
        }
}

}  // extern "C"
