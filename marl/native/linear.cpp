// Linear layers over many rows, forward and backward, with an optional ReLU.
//
// Element (r, c, i) of x lies at (r * C + c) * I + i: C = 1 is one set of weights, C > 1 one per agent.
// Rows are cut into blocks that stay in the first-level cache. Weight gradients are summed per thread and
// then over threads in their order, so that a result depends on the number of threads and on nothing else.
// Rows of whole vectors are read and written where they lie, others through padded copies of a block.
// A block of rows that is nearly all zeros, as one-hot observations are, is multiplied entry by entry instead.
#include <algorithm>

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

// to += a times row k of packed B (K, P).
inline void add_row(int64_t K, int64_t P, float a, const float* packed, int64_t k, float* to) {
  marl::each_panel(P, [&](int64_t j, int64_t width) { add(width, a, packed + j * K + k * width, to + j); });
}

}  // namespace

extern "C" {

// y = x W^T + b, W (C, O, I), b (C, O); ReLU if asked.
void marl_linear_forward(int64_t R, int64_t C, int64_t I, int64_t O, const float* x, const float* w,
                         const float* bias, int relu, float* y, int threads) {
  const int64_t P = padded(O);
  std::vector<float> turned(C * I * P), edge(C * P, 0.0f);  // W^T packed, and b
  for (int64_t c = 0; c < C; ++c) {
    std::copy(bias + c * O, bias + (c + 1) * O, &edge[c * P]);
    const auto weight = [&](int64_t i, int64_t o) { return o < O ? w[(c * O + o) * I + i] : 0.0f; };
    marl::pack(I, P, weight, &turned[c * I * P]);
  }
  threads = marl::worthwhile(2.0 * R * C * I * P, threads);
  marl::split((R + kBlock - 1) / kBlock, threads, [&](int, int64_t first, int64_t last) {
    std::vector<float> copy(O == P ? 0 : kBlock * P);
    Entries entries;
    for (int64_t block = first; block < last; ++block) {
      const int64_t r0 = block * kBlock, rows = R - r0 < kBlock ? R - r0 : kBlock;
      for (int64_t c = 0; c < C; ++c) {
        float* to = y + (r0 * C + c) * O;
        float* out = O == P ? to : copy.data();
        const int64_t next = O == P ? C * O : P;  // from one row of `out` to the next
        for (int64_t r = 0; r < rows; ++r) std::memcpy(out + r * next, &edge[c * P], P * sizeof(float));
        const float *from_x = x + (r0 * C + c) * I, *with = &turned[c * I * P];
        if (entries.found(from_x, C * I, rows, I))
          for (int64_t r = 0; r < rows; ++r)
            entries.each(r, [&](int64_t i, float value) { add_row(I, P, value, with, i, out + r * next); });
        else
          marl::packed_product(rows, P, I, from_x, C * I, 1, with, out, next, true);
        if (relu)  // written so that NaN stays NaN
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t o = 0; o < P; o += marl::kLanes) {
              const marl::Vec v = marl::load(out + r * next + o);
              marl::store(out + r * next + o, v < marl::Vec{} ? marl::Vec{} : v);
            }
        if (O != P)
          for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * C * O, out + r * next, O * sizeof(float));
      }
    }
  });
}

// Gradients of the above for dy; `y` is the output where a ReLU was applied, else null. dx may be null.
void marl_linear_backward(int64_t R, int64_t C, int64_t I, int64_t O, const float* x, const float* w,
                          const float* y, const float* dy, float* dx, float* dw, float* db, int threads) {
  const int64_t P = padded(O), Q = padded(I);
  std::vector<float> packed(dx ? C * O * Q : 0);  // W
  for (int64_t c = 0; dx && c < C; ++c) {
    const auto weight = [&](int64_t o, int64_t i) { return i < I ? w[(c * O + o) * I + i] : 0.0f; };
    marl::pack(O, Q, weight, &packed[c * O * Q]);
  }
  threads = marl::worthwhile(4.0 * R * C * I * P, threads);
  std::vector<std::vector<float>> sums(threads), turned(threads);  // dW and db; dW^T of sparse blocks
  marl::split((R + kBlock - 1) / kBlock, threads, [&](int thread, int64_t first, int64_t last) {
    sums[thread].assign(C * (O * Q + P), 0.0f);
    float *weight = sums[thread].data(), *edge = weight + C * O * Q;
    std::vector<float> copy_d(kBlock * P, 0.0f), copy_x(kBlock * Q, 0.0f), copy_dx(kBlock * Q);
    Entries entries;
    for (int64_t block = first; block < last; ++block) {
      const int64_t r0 = block * kBlock, rows = R - r0 < kBlock ? R - r0 : kBlock;
      for (int64_t c = 0; c < C; ++c) {
        const int64_t at = r0 * C + c;  // the block's first row
        const bool direct = O == P && !y;
        const float* d = direct ? dy + at * O : copy_d.data();
        const int64_t next_d = direct ? C * O : P;
        for (int64_t r = 0; !direct && r < rows; ++r) {
          const float* __restrict from = dy + (at + r * C) * O;
          float* __restrict to = &copy_d[r * P];
          if (y) {
            const float* __restrict on = y + (at + r * C) * O;
            for (int64_t o = 0; o < O; ++o) to[o] = on[o] > 0.0f ? from[o] : 0.0f;
          } else {
            std::memcpy(to, from, O * sizeof(float));
          }
        }
        for (int64_t o = 0; o < P; o += marl::kLanes) {
          marl::Vec sum = marl::load(edge + c * P + o);
          for (int64_t r = 0; r < rows; ++r) sum += marl::load(d + r * next_d + o);
          marl::store(edge + c * P + o, sum);
        }
        if (entries.found(x + at * I, C * I, rows, I)) {
          if (turned[thread].empty()) turned[thread].assign(C * I * P, 0.0f);
          float* into = &turned[thread][c * I * P];
          for (int64_t r = 0; r < rows; ++r)
            entries.each(r, [&](int64_t i, float value) { add(P, value, d + r * next_d, into + i * P); });
        } else {
          for (int64_t r = 0; I != Q && r < rows; ++r)
            std::memcpy(&copy_x[r * Q], x + (at + r * C) * I, I * sizeof(float));
          const float* in = I == Q ? x + at * I : copy_x.data();
          marl::product(O, Q, rows, d, 1, next_d, in, I == Q ? C * I : Q, weight + c * O * Q, Q, true);
        }
        if (!dx) continue;
        float* out = I == Q ? dx + at * I : copy_dx.data();
        marl::packed_product(rows, Q, O, d, next_d, 1, &packed[c * O * Q], out, I == Q ? C * I : Q, false);
        for (int64_t r = 0; I != Q && r < rows; ++r)
          std::memcpy(dx + (at + r * C) * I, &copy_dx[r * Q], I * sizeof(float));
      }
    }
  });
  std::fill(dw, dw + C * O * I, 0.0f), std::fill(db, db + C * O, 0.0f);
  for (const auto& sum : sums)
    for (int64_t k = 0; !sum.empty() && k < C * O; ++k) {
      for (int64_t i = 0; i < I; ++i) dw[k * I + i] += sum[k * Q + i];
      db[k] += sum[C * O * Q + k / O * P + k % O];
    }
  for (const auto& sum : turned)
    for (int64_t k = 0; !sum.empty() && k < C * O; ++k)
      for (int64_t i = 0; i < I; ++i) dw[k * I + i] += sum[(k / O * I + i) * P + k % O];
}

}  // extern "C"
