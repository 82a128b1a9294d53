// Linear layers over many rows, forward and backward, with an optional ReLU.
//
// Element (r, c, i) of x lies at (r * C + c) * I + i: C = 1 is one set of weights, C > 1 one per agent.
// Rows are cut into blocks that stay in the first-level cache. Weight gradients are summed per thread and
// then over threads in their order, so that a result depends on the number of threads and on nothing else.
// A block of rows that is nearly all zeros, as one-hot observations are, is multiplied entry by entry instead.
#include "threads.hpp"
#include "tiles.hpp"

namespace {

constexpr int kBlock = 48;        // rows of a block: 48 x 64 floats are 12 KiB
constexpr int64_t kFewInputs = 64;  // below this many inputs looking for zeros does not pay. CHOICE
constexpr int64_t kRun = 16;        // inputs that are looked at together
constexpr int64_t kSparse = 8;      // blocks with less than one entry in eight are sparse. CHOICE

int64_t padded(int64_t n) { return (n + marl::kLanes - 1) / marl::kLanes * marl::kLanes; }

// The entries of a block of rows that are not zero, row after row; `found` is whether they are few.
struct Entries {
  std::vector<int32_t> input;
  std::vector<float> value;
  std::vector<int64_t> end;  // of each row

  void take(const float* x, int64_t i, int64_t last) {
    for (; i < last; ++i)
      if (x[i] != 0.0f) input.push_back(static_cast<int32_t>(i)), value.push_back(x[i]);
  }

  bool found(const float* x, int64_t stride, int64_t rows, int64_t I) {
    if (I < kFewInputs) return false;
    const int64_t most = rows * I / kSparse;
    input.clear(), value.clear(), end.clear();
    for (int64_t r = 0; r < rows; ++r, x += stride) {
      int64_t i = 0;
      for (; i + kRun <= I; i += kRun) {
        uint64_t words[kRun / 2], any = 0;
        std::memcpy(words, x + i, sizeof words);
        for (const uint64_t word : words) any |= word;
        if (any) take(x, i, i + kRun);
      }
      take(x, i, I);
      end.push_back(static_cast<int64_t>(input.size()));
      if (end.back() > most) return false;
    }
    return true;
  }

  // Calls entry(input, value) for every entry of row r.
  template <typename Entry>
  void each(int64_t r, const Entry& entry) const {
    for (int64_t k = r ? end[r - 1] : 0; k < end[r]; ++k) entry(input[k], value[k]);
  }
};

// to += a * from over P floats, a multiple of a vector.
inline void add(int64_t P, float a, const float* from, float* to) {
  for (int64_t p = 0; p < P; p += marl::kLanes)
    marl::store(to + p, marl::load(to + p) + a * marl::load(from + p));
}

}  // namespace

extern "C" {

// y = x W^T + b, W (C, O, I), b (C, O); ReLU if asked.
void marl_linear_forward(int64_t R, int64_t C, int64_t I, int64_t O, const float* x, const float* w,
                         const float* bias, int relu, float* y, int threads) {
  const int64_t P = padded(O);
  std::vector<float> turned(C * I * P, 0.0f), edge(C * P, 0.0f);  // W^T and b, padded
  for (int64_t c = 0; c < C; ++c)
    for (int64_t o = 0; o < O; ++o) {
      edge[c * P + o] = bias[c * O + o];
      for (int64_t i = 0; i < I; ++i) turned[(c * I + i) * P + o] = w[(c * O + o) * I + i];
    }
  threads = marl::worthwhile(2.0 * R * C * I * O, threads);
  marl::split((R + kBlock - 1) / kBlock, threads, [&](int, int64_t first, int64_t last) {
    std::vector<float> out(kBlock * P);
    Entries entries;
    for (int64_t block = first; block < last; ++block) {
      const int64_t r0 = block * kBlock, rows = R - r0 < kBlock ? R - r0 : kBlock;
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t r = 0; r < rows; ++r) std::memcpy(&out[r * P], &edge[c * P], P * sizeof(float));
        const float *from_x = x + (r0 * C + c) * I, *with = &turned[c * I * P];
        if (entries.found(from_x, C * I, rows, I))
          for (int64_t r = 0; r < rows; ++r)
            entries.each(r, [&](int64_t i, float value) { add(P, value, with + i * P, &out[r * P]); });
        else
          marl::product(rows, P, I, from_x, C * I, 1, with, P, out.data(), P, true);
        for (int64_t r = 0; r < rows; ++r) {
          float* __restrict to = y + ((r0 + r) * C + c) * O;
          const float* __restrict from = &out[r * P];
          if (relu)  // written so that NaN stays NaN
            for (int64_t o = 0; o < O; ++o) to[o] = from[o] < 0.0f ? 0.0f : from[o];
          else
            std::memcpy(to, from, O * sizeof(float));
        }
      }
    }
  });
}

// Gradients of the above for dy; `y` is the output where a ReLU was applied, else null. dx may be null.
void marl_linear_backward(int64_t R, int64_t C, int64_t I, int64_t O, const float* x, const float* w,
                          const float* y, const float* dy, float* dx, float* dw, float* db, int threads) {
  const int64_t P = padded(O), Q = padded(I);
  std::vector<float> wide(C * O * Q, 0.0f);  // W with padded rows
  for (int64_t k = 0; k < C * O; ++k) std::memcpy(&wide[k * Q], w + k * I, I * sizeof(float));
  threads = marl::worthwhile(4.0 * R * C * I * O, threads);
  std::vector<std::vector<float>> sums(threads), turned(threads);  // dW and db; dW^T of sparse blocks
  marl::split((R + kBlock - 1) / kBlock, threads, [&](int thread, int64_t first, int64_t last) {
    sums[thread].assign(C * O * (Q + 1), 0.0f);
    float *weight = sums[thread].data(), *edge = weight + C * O * Q;
    std::vector<float> d(kBlock * P, 0.0f), in(kBlock * Q, 0.0f), out(kBlock * Q);
    Entries entries;
    for (int64_t block = first; block < last; ++block) {
      const int64_t r0 = block * kBlock, rows = R - r0 < kBlock ? R - r0 : kBlock;
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = (r0 + r) * C + c;
          const float* __restrict from = dy + at * O;
          float *__restrict to = &d[r * P], *__restrict sum = edge + c * O;
          if (y) {
            const float* __restrict on = y + at * O;
            for (int64_t o = 0; o < O; ++o) to[o] = on[o] > 0.0f ? from[o] : 0.0f;
          } else {
            std::memcpy(to, from, O * sizeof(float));
          }
          for (int64_t o = 0; o < O; ++o) sum[o] += to[o];
        }
        if (entries.found(x + (r0 * C + c) * I, C * I, rows, I)) {
          if (turned[thread].empty()) turned[thread].assign(C * I * P, 0.0f);
          float* into = &turned[thread][c * I * P];
          for (int64_t r = 0; r < rows; ++r)
            entries.each(r, [&](int64_t i, float value) { add(P, value, &d[r * P], into + i * P); });
        } else {
          for (int64_t r = 0; r < rows; ++r)
            std::memcpy(&in[r * Q], x + ((r0 + r) * C + c) * I, I * sizeof(float));
          marl::product(O, Q, rows, d.data(), 1, P, in.data(), Q, weight + c * O * Q, Q, true);
        }
        if (!dx) continue;
        marl::product(rows, Q, O, d.data(), P, 1, &wide[c * O * Q], Q, out.data(), Q, false);
        for (int64_t r = 0; r < rows; ++r)
          std::memcpy(dx + ((r0 + r) * C + c) * I, &out[r * Q], I * sizeof(float));
      }
    }
  });
  for (int64_t k = 0; k < C * O; ++k) {
    for (int64_t i = 0; i < I; ++i) {
      float total = 0.0f;
      for (const auto& sum : sums) total += sum.empty() ? 0.0f : sum[k * Q + i];
      for (const auto& sum : turned) total += sum.empty() ? 0.0f : sum[(k / O * I + i) * P + k % O];
      dw[k * I + i] = total;
    }
    float total = 0.0f;
    for (const auto& sum : sums) total += sum.empty() ? 0.0f : sum[C * O * Q + k];
    db[k] = total;
  }
}

}  // extern "C"
