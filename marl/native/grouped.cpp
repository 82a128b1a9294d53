// Grouped linear layers: y = x (W * mask)^T + b over blocks of weights, forward and backward.
//
// Rows are permuted into group-major order in blocks that stay in the second-level cache, multiplied group by
// group with packed panels of weights, and permuted back; a network whose activations stay group-major skips
// both permutations. A panel holds the weights of up to kVectors vectors of outputs, input after input, so
// that the register tile streams it. Inputs are cut into chunks so that a panel's chunk and the rows' stay
// in the cache too.
//
// Threads are torch's own (one OpenMP runtime per process). They take rows, each its own cache lines; where
// rows are few they take panels. A result depends on their number and on nothing else.
#include "grouped.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <utility>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "lanes.hpp"
#include "tiles.hpp"

namespace {

using marl::Gradients;
using marl::kLanes;
using marl::Plan;
using marl::Side;
using marl::Vec;

// Sums of a tile: most_rows(V) x V of them, V + 1 operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;
constexpr int most_rows(int V) { return V == 4 ? 6 : V == 3 ? 8 : 12; }  // 29, 28, 27 of 32 registers
#else
constexpr int kVectors = 2;
constexpr int most_rows(int V) { return V == 2 ? 6 : 8; }  // 15 of 16 registers
#endif
constexpr int64_t kWidth = kVectors * kLanes;
constexpr int64_t kChunk = 512;          // inputs of a chunk: 128 KiB of a panel. CHOICE
constexpr int64_t kRowsOfBlock = 192;    // with a chunk: 384 KiB. CHOICE
constexpr int64_t kBlockFloats = 65536;  // permuted rows of a block: 256 KiB on each side. CHOICE
constexpr int64_t kCopy = 4;  // panels of a group from which its rows are copied together first. CHOICE

constexpr int64_t kLight = 131072;  // floats of weights that stay in the second-level cache
constexpr int64_t kManyRows = 256;  // from which threads take rows, each with all weights. CHOICE
constexpr double kWorthAThread = 200000;  // cycles; waking a thread takes 100000 and more. CHOICE
constexpr int kLastSteps = 32;            // pauses, about a microsecond. CHOICE
constexpr int64_t kAhead = 64;  // floats of the next group that are prefetched in every row. CHOICE

typedef std::unique_ptr<float[]> Floats;
inline Floats floats(int64_t n) { return Floats(new float[n]); }

inline int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

inline Vec load_part(const float* p, int lanes) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1), p);
#else
  Vec v{};
  std::memcpy(&v, p, lanes * sizeof(float));
  return v;
#endif
}

inline void store_part(float* p, Vec v, int lanes) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << lanes) - 1), (__m512)v);
#else
  std::memcpy(p, &v, lanes * sizeof(float));
#endif
}

// What a tile does before and after its sums.
struct Ends {
  const float* bias;  // first value of every column, or of every row if `by_row`; null: zeros; not read if add
  bool add;           // sums begin with C
  bool relu;
  int last;     // lanes of the last vector that are columns
  int ahead_a;  // floats to prefetch behind each row of A
  int ahead_c;  // and of C
  bool by_row = false;
};

// Few sums wait for each other: k is cut into so many series that 8 multiplications are under way.
constexpr int splits(int sums) { return sums == 1 ? 8 : sums == 2 ? 4 : sums <= 4 ? 2 : 1; }

// Calls f with the constants 0 to N - 1: sums that are indexed by constants alone stay in registers.
template <int N, typename F>
__attribute__((always_inline)) inline void each(const F& f) {
  [&]<int... n>(std::integer_sequence<int, n...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, n>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// C[i][j] = sum_k A[i * ai + k * ak] B[k * V kLanes + j].
template <int R, int V>
void tile(int64_t K, const float* A, int64_t ai, int64_t ak, const float* B, float* C, int64_t ldc,
          const Ends& ends) {
  Vec sum[R * V];
  const bool part = ends.last < kLanes;
  if (ends.add) {
    each<R * V>([&](auto s) __attribute__((always_inline)) {
      const float* from = C + s / V * ldc + s % V * kLanes;
      sum[s] = s % V == V - 1 && part ? load_part(from, ends.last) : marl::load(from);
    });
  } else if (ends.bias && ends.by_row) {
    each<R * V>([&](auto s) __attribute__((always_inline)) { sum[s] = marl::splat(ends.bias[s / V]); });
  } else if (ends.bias) {
    each<R * V>([&](auto s) __attribute__((always_inline)) { sum[s] = marl::load(ends.bias + s % V * kLanes); });
  } else {
    each<R * V>([&](auto s) __attribute__((always_inline)) { sum[s] = Vec{}; });
  }
  int64_t k = 0;
  if constexpr (constexpr int S = splits(R * V); S > 1) {
    Vec more[(S - 1) * R * V];
    each<(S - 1) * R * V>([&](auto s) __attribute__((always_inline)) { more[s] = Vec{}; });
    for (; k + S <= K; k += S)
      each<S * V>([&](auto at) __attribute__((always_inline)) {
        constexpr int s = at / V, v = at % V;
        const Vec b = marl::load(B + ((k + s) * V + v) * kLanes);
        each<R>([&](auto i) __attribute__((always_inline)) {
          Vec& to = s == 0 ? sum[i * V + v] : more[((s - 1) * R + i) * V + v];
          to += A[i * ai + (k + s) * ak] * b;
        });
      });
    each<(S - 1) * R * V>([&](auto s) __attribute__((always_inline)) { sum[s % (R * V)] += more[s]; });
  }
#pragma GCC unroll 4
  for (; k < K; ++k) {
    Vec b[V];
    each<V>([&](auto v) __attribute__((always_inline)) { b[v] = marl::load(B + (k * V + v) * kLanes); });
    each<R>([&](auto i) __attribute__((always_inline)) {
      const float a = A[i * ai + k * ak];
      each<V>([&](auto v) __attribute__((always_inline)) { sum[i * V + v] += a * b[v]; });
    });
  }
  if (ends.relu)  // written so that NaN stays NaN
    each<R * V>([&](auto s) __attribute__((always_inline)) { sum[s] = sum[s] < Vec{} ? Vec{} : sum[s]; });
  if (part)
    each<R * V>([&](auto s) __attribute__((always_inline)) {
      float* to = C + s / V * ldc + s % V * kLanes;
      if (s % V == V - 1) store_part(to, sum[s], ends.last);
      else marl::store(to, sum[s]);
    });
  else
    each<R * V>([&](auto s) __attribute__((always_inline)) { marl::store(C + s / V * ldc + s % V * kLanes, sum[s]); });
}

typedef void (*Tile)(int64_t, const float*, int64_t, int64_t, const float*, float*, int64_t, const Ends&);

template <int V, int... R>
constexpr Tile pick(int rows, std::integer_sequence<int, R...>) {
  constexpr Tile tiles[] = {tile<R + 1, V>...};
  return tiles[rows - 1];
}

inline Tile tile_of(int vectors, int rows) {
  switch (vectors) {
    case 1: return pick<1>(rows, std::make_integer_sequence<int, most_rows(1)>());
    case 2: return pick<2>(rows, std::make_integer_sequence<int, most_rows(2)>());
#if defined(__AVX512F__) || defined(__aarch64__)
    case 3: return pick<3>(rows, std::make_integer_sequence<int, most_rows(3)>());
    default: return pick<4>(rows, std::make_integer_sequence<int, most_rows(4)>());
#else
    default: return nullptr;
#endif
  }
}

// C (M, width) from A and one panel, in tiles of nearly equal height.
inline void strip(int64_t M, int64_t K, const float* A, int64_t ai, int64_t ak, const float* B, float* C,
                  int64_t ldc, int vectors, Ends ends) {
  const int64_t most = most_rows(vectors), tiles = (M + most - 1) / most;
  const int64_t low = M / tiles, extra = M % tiles;
  const Tile few = tile_of(vectors, static_cast<int>(low));
  const Tile more = extra ? tile_of(vectors, static_cast<int>(low) + 1) : nullptr;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t height = low + (t < extra);
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t k = 0; k < ends.ahead_a; k += 16) __builtin_prefetch(A + i * ai + K + k);
      for (int64_t j = 0; j < ends.ahead_c; j += 16)
        __builtin_prefetch(C + i * ldc + (vectors - 1) * kLanes + ends.last + j, 1);
    }
    (t < extra ? more : few)(K, A, ai, ak, B, C, ldc, ends);
    A += height * ai, C += height * ldc;
    if (ends.by_row) ends.bias += height;
  }
}

struct Range {
  int64_t first, last;
};

// Calls part(j, vectors, last) for every panel of n columns.
template <typename Part>
inline void panels_of(int64_t n, const Part& part) {
  for (int64_t j = 0; j < n; j += kWidth) {
    const int64_t width = std::min(kWidth, n - j);
    part(j, static_cast<int>((width + kLanes - 1) / kLanes),
         static_cast<int>(width - (width - 1) / kLanes * kLanes));
  }
}

// y = x times the blocks, group-major on both sides, for the panels of `units` in the order of groups.
void multiply(const Side& in, const Side& out, const int64_t* panel, int64_t groups, int64_t rows,
              const float* x, int64_t ldx, const float* panels, const float* bias, bool relu, float* y,
              int64_t ldy, Range units) {
  Floats copy;
  for (int64_t r0 = 0; r0 < rows; r0 += kRowsOfBlock) {
    const int64_t count = std::min(kRowsOfBlock, rows - r0);
    int64_t before = 0;  // panels of the groups before
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t m = in.start[g + 1] - in.start[g], n = out.start[g + 1] - out.start[g];
      const int64_t own = (n + kWidth - 1) / kWidth, unit0 = before;
      before += own;
      if (before <= units.first || unit0 >= units.last) continue;
      const bool beyond = g + 1 < groups && count > most_rows(1);
      const int ahead_x = beyond ? static_cast<int>(std::min<int64_t>(in.start[g + 2] - in.start[g + 1], kAhead)) : 0;
      const int ahead_y = beyond ? static_cast<int>(std::min<int64_t>(out.start[g + 2] - out.start[g + 1], kAhead)) : 0;
      for (int64_t k0 = 0; k0 == 0 || k0 < m; k0 += kChunk) {
        const int64_t K = std::min(kChunk, m - k0);
        const float* A = x + r0 * ldx + in.start[g] + k0;
        int64_t lda = ldx;
        const int64_t here = std::min(before, units.last) - std::max(unit0, units.first);
        if (here >= kCopy && count > most_rows(kVectors) && ldx % 256 == 0) {
          // Rows a multiple of a KiB apart would share few lines of the cache.
          if (!copy) copy = floats(kRowsOfBlock * (kChunk + kLanes));
          lda = K + kLanes;
          for (int64_t r = 0; r < count; ++r) std::memcpy(&copy[r * lda], A + r * ldx, K * sizeof(float));
          A = copy.get();
        }
        panels_of(n, [&](int64_t j, int vectors, int last) {
          const int64_t unit = unit0 + j / kWidth;
          if (unit < units.first || unit >= units.last) return;
          const float* B = panels + panel[g] + j * m + k0 * vectors * kLanes;
          const Ends ends{bias ? bias + out.edge[g] + j : nullptr, k0 > 0, relu && k0 + K >= m, last,
                          j == 0 && A != copy.get() ? ahead_x : 0, ahead_y};
          strip(count, K, A, lda, 1, B, y + r0 * ldy + out.start[g] + j, ldy, vectors, ends);
        });
      }
    }
  }
}

// to[r][p] = from[r][index[p]]. Four entries are put together in a register, because stores are what limits it;
// not as gather instructions, which are slower. Rows are taken by fours to share the indices.
typedef float Four __attribute__((vector_size(16)));
typedef float FourAnywhere __attribute__((vector_size(16), aligned(4), may_alias));

template <int R>
inline void permute_rows(int64_t width, const float* from, const int32_t* index, float* to) {
  int64_t p = 0;
  for (; p + 4 <= width; p += 4) {
    const int64_t a = index[p], b = index[p + 1], c = index[p + 2], d = index[p + 3];
    for (int r = 0; r < R; ++r) {
      const float* row = from + r * width;
      *reinterpret_cast<FourAnywhere*>(to + r * width + p) = Four{row[a], row[b], row[c], row[d]};
    }
  }
  for (; p < width; ++p)
    for (int r = 0; r < R; ++r) to[r * width + p] = from[r * width + index[p]];
}

void permute(int64_t rows, int64_t width, const float* from, const int32_t* index, float* to) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) permute_rows<4>(width, from + r * width, index, to + r * width);
  for (; r < rows; ++r) permute_rows<1>(width, from + r * width, index, to + r * width);
}

int64_t panels_in(const Side& out, int64_t groups) {
  int64_t count = 0;
  for (int64_t g = 0; g < groups; ++g) count += (out.start[g + 1] - out.start[g] + kWidth - 1) / kWidth;
  return count;
}

// Rows whose permuted copies stay in the cache.
inline int64_t block_rows(int64_t width) {
  return std::clamp<int64_t>(kBlockFloats / std::max<int64_t>(width, 1) / 12 * 12, 12, kRowsOfBlock);
}

// Blocks of kTurned rows with the features as rows, so that a permutation moves whole vectors: what permuted small
// groups are worth. The panels serve as they are, with the roles of the two factors exchanged.
constexpr int kTurnedVectors = 2;
constexpr int64_t kTurned = kTurnedVectors * kLanes;  // rows of such a block. CHOICE
// Inputs and outputs of a group, on average, up to which such blocks serve, by the number of sides that are
// permuted; groups narrower than a vector waste the panels' lanes otherwise. CHOICE
constexpr int64_t kSmall[] = {10, 24, 48};

// to[place[f]][r] = from[r][f] for kTurned rows; without places in the same order.
void turn_in(int64_t width, const float* from, const int32_t* place, float* to) {
  Vec square[kLanes], turned[kLanes];
  int64_t f = 0;
  for (; f + kLanes <= width; f += kLanes)
    for (int64_t r = 0; r < kTurned; r += kLanes) {
      for (int l = 0; l < kLanes; ++l) square[l] = marl::load(from + (r + l) * width + f);
      marl::transpose(square, turned);
      for (int l = 0; l < kLanes; ++l) marl::store(to + (place ? place[f + l] : f + l) * kTurned + r, turned[l]);
    }
  for (; f < width; ++f)
    for (int64_t r = 0; r < kTurned; ++r) to[(place ? place[f] : f) * kTurned + r] = from[r * width + f];
}

// to[r][f] = from[place[f]][r] for kTurned rows; without places in the same order.
void turn_out(int64_t width, const float* from, const int32_t* place, float* to) {
  Vec square[kLanes], turned[kLanes];
  int64_t f = 0;
  for (; f + kLanes <= width; f += kLanes)
    for (int64_t r = 0; r < kTurned; r += kLanes) {
      for (int l = 0; l < kLanes; ++l) square[l] = marl::load(from + (place ? place[f + l] : f + l) * kTurned + r);
      marl::transpose(square, turned);
      for (int l = 0; l < kLanes; ++l) marl::store(to + (r + l) * width + f, turned[l]);
    }
  for (; f < width; ++f)
    for (int64_t r = 0; r < kTurned; ++r) to[r * width + f] = from[(place ? place[f] : f) * kTurned + r];
}

// y and x with features as rows, kTurned columns. Meanwhile the next rows of x come in, and the lines of y.
void multiply_turned(const Plan& plan, const float* x, const float* panels, const float* bias, bool relu, float* y,
                     const float* next_x, const float* next_y) {
  for (int64_t g = 0; g < plan.groups; ++g) {
    for (int64_t k = plan.in.start[g] * kTurned; next_x && k < plan.in.start[g + 1] * kTurned; k += 16)
      __builtin_prefetch(next_x + k);
    for (int64_t k = plan.out.start[g] * kTurned; k < plan.out.start[g + 1] * kTurned; k += 16)
      __builtin_prefetch(next_y + k, 1);
    const int64_t i0 = plan.in.start[g], m = plan.in.start[g + 1] - i0;
    const int64_t o0 = plan.out.start[g], n = plan.out.start[g + 1] - o0;
    panels_of(n, [&](int64_t j, int vectors, int) {
      const Ends ends{bias + plan.out.edge[g] + j, false, relu, kLanes, 0, 0, true};
      strip(std::min(kWidth, n - j), m, panels + plan.panel[g] + j * m, 1, vectors * kLanes, x + i0 * kTurned,
            y + (o0 + j) * kTurned, kTurned, kTurnedVectors, ends);
    });
  }
}

void forward_rows(const Plan& plan, int64_t rows, const float* x, const float* panels, int flags, float* y,
                  Range units) {
  const bool gather = flags & marl::kGather, scatter = flags & marl::kScatter, relu = flags & marl::kRelu;
  const int64_t I = plan.in.size, O = plan.out.size;
  const float* bias = panels + plan.panel[plan.groups];
  const bool all = units.first == 0 && units.last == panels_in(plan.out, plan.groups);
  const bool small = all && rows >= kTurned && plan.nnz <= kSmall[gather + scatter] * std::min(I, O);
  if (!gather && !scatter && !small)
    return multiply(plan.in, plan.out, plan.panel, plan.groups, rows, x, I, panels, bias, relu, y, O, units);
  const int64_t most = small ? kTurned : std::min(rows, block_rows(std::max(I, O)));
  thread_local Floats scratch;
  thread_local int64_t room = 0;
  if (room < most * (I + O)) scratch = floats(room = most * (I + O));
  float *in = scratch.get(), *out = in + most * I;
  int64_t begin = 0;
  if (small)
    for (; begin + kTurned <= rows; begin += kTurned) {
      turn_in(I, x + begin * I, gather ? plan.in.place : nullptr, in);
      const float* next_x = begin + 2 * kTurned <= rows ? x + (begin + kTurned) * I : nullptr;
      multiply_turned(plan, in, panels, bias, relu, out, next_x, y + begin * O);
      turn_out(O, out, scatter ? plan.out.place : nullptr, y + begin * O);
    }
  for (int64_t r0 = begin; r0 < rows; r0 += most) {
    const int64_t count = std::min(most, rows - r0);
    if (gather) permute(count, I, x + r0 * I, plan.in.order, in);
    float* to = scatter ? out : y + r0 * O;
    multiply(plan.in, plan.out, plan.panel, plan.groups, count, gather ? in : x + r0 * I, I, panels, bias,
             relu, to, O, units);
    if (scatter) permute(count, O, out, plan.out.place, y + r0 * O);
  }
}

// Cycles that one thread takes, roughly; the weights come from the second-level cache or from beyond it.
inline double cycles(const Plan& plan, int64_t rows, int flags) {
  const double weights = static_cast<double>(plan.panel[plan.groups]);
  const double moved = weights / (weights < kLight ? 8.0 : 2.0);
  const double permuted =
      (flags & marl::kGather ? plan.in.size : 0) + (flags & marl::kScatter ? plan.out.size : 0);
  return std::max(rows * weights / kLanes, moved) + 0.6 * rows * permuted;
}

inline void relax() {
#if defined(__SSE2__)
  _mm_pause();
#endif
}

struct Phase {
  int64_t pieces;
  std::function<void(int64_t)> work;
};

// Torch's threads sleep between operations, and waking one takes as long as a small layer. So the caller begins
// at once; every thread takes the pieces of its own share, which lie in its cache from the last call, then those
// that others have left; and the caller spins for the last pieces instead of sleeping too. A phase begins when
// the one before is done. Which thread takes a piece changes no result.
void share(int threads, std::initializer_list<Phase> phases) {
  std::unique_ptr<std::atomic<int64_t>[]> counts(new std::atomic<int64_t>[phases.size() * (threads + 1)]());
#pragma omp parallel num_threads(threads)
  {
    const int self = omp_get_thread_num();
    std::atomic<int64_t>*next = counts.get(), *done = next + threads;
    for (const Phase& phase : phases) {
      for (int t = 0; t < threads; ++t) {
        const int of = (self + t) % threads;
        const int64_t first = phase.pieces * of / threads, count = phase.pieces * (of + 1) / threads - first;
        for (int64_t piece; (piece = next[of].fetch_add(1)) < count;) {
          phase.work(first + piece);
          done->fetch_add(1);
        }
      }
      const bool wait = &phase + 1 != phases.end() || self == 0;
      while (wait && done->load() < phase.pieces) relax();
      next += threads + 1, done += threads + 1;
    }
    if (self == 0)
      for (int i = 0; i < kLastSteps; ++i) relax();  // till the others are at the region's end
  }
}

void forward(const Plan& plan, int64_t rows, const float* x, const float* panels, int flags, float* y,
             int threads) {
  const int64_t units = panels_in(plan.out, plan.groups);
  if (threads > 1 && (cycles(plan, rows, flags) < kWorthAThread || omp_in_parallel())) threads = 1;
  if (threads == 1) return forward_rows(plan, rows, x, panels, flags, y, {0, units});
  const bool gather = flags & marl::kGather, scatter = flags & marl::kScatter;
  const int64_t I = plan.in.size, O = plan.out.size;
  // Every piece of rows reads all weights: small pieces where those stay in the cache. Permuted columns that one
  // thread writes and another reads cost more than that.
  const bool light = plan.panel[plan.groups] < kLight;
  const int64_t least = light ? 24 : gather || scatter ? 48 : 96;
  if (rows >= kManyRows || (rows >= least * threads && (light || gather || scatter))) {
    const int64_t own = std::clamp<int64_t>(rows / ((light ? 8 : 2) * threads) / 12 * 12, least, kRowsOfBlock);
    share(threads, {{(rows + own - 1) / own, [&](int64_t piece) {
                       const int64_t first = piece * own, count = std::min(own, rows - first);
                       forward_rows(plan, count, x + first * I, panels, flags, y + first * O, {0, units});
                     }}});
    return;
  }
  // Few rows: panels are shared, and no two threads scatter into one line.
  Floats in = gather ? floats(rows * I) : nullptr, out = scatter ? floats(rows * O) : nullptr;
  const int64_t fours = (rows + 3) / 4;
  const auto permuted = [&](int64_t width, const float* from, const int32_t* index, float* to) {
    return [=](int64_t piece) {
      permute(std::min<int64_t>(4, rows - 4 * piece), width, from + 4 * piece * width, index, to + 4 * piece * width);
    };
  };
  share(threads, {{gather ? fours : 0, permuted(I, x, plan.in.order, in.get())},
                  {units,
                   [&](int64_t unit) {
                     forward_rows(plan, rows, gather ? in.get() : x, panels, flags & marl::kRelu,
                                  scatter ? out.get() : y, {unit, unit + 1});
                   }},
                  {scatter ? fours : 0, permuted(O, out.get(), plan.out.place, y)}});
}

// Weights of a group, row-major n x m, as panels whose columns are the outputs: a transposition by squares.
void pack_turned(int64_t m, int64_t n, const float* from, float* to) {
  Vec square[kLanes], turned[kLanes];
  panels_of(n, [&](int64_t j, int vectors, int) {
    const int64_t width = vectors * kLanes;
    float* panel = to + j * m;
    for (int64_t o = 0; o < width; o += kLanes) {
      const float* rows = from + (j + o) * m;
      const int64_t used = std::min<int64_t>(kLanes, n - j - o);
      int64_t k = 0;
      for (; k + kLanes <= m; k += kLanes) {
        for (int64_t l = 0; l < kLanes; ++l) square[l] = l < used ? marl::load(rows + l * m + k) : Vec{};
        marl::transpose(square, turned);
        for (int64_t l = 0; l < kLanes; ++l) marl::store(panel + (k + l) * width + o, turned[l]);
      }
      for (; k < m; ++k)
        for (int64_t l = 0; l < kLanes; ++l) panel[k * width + o + l] = l < used ? rows[l * m + k] : 0.0f;
    }
  });
}

// Rows of `from`, ld apart, as panels: row after row of up to kWidth columns, padded with zeros.
template <int V>
void pack_panel(int64_t rows, const float* from, int64_t ld, int last, float* to) {
  for (int64_t r = 0; r < rows; ++r, from += ld, to += V * kLanes) {
    for (int v = 0; v + 1 < V; ++v) marl::store(to + v * kLanes, marl::load(from + v * kLanes));
    const float* end = from + (V - 1) * kLanes;
    marl::store(to + (V - 1) * kLanes, last == kLanes ? marl::load(end) : load_part(end, last));
  }
}

void pack_rows(int64_t rows, const float* from, int64_t ld, int64_t n, float* to) {
  panels_of(n, [&](int64_t j, int vectors, int last) {
    const auto one = vectors == 1   ? pack_panel<1>
                     : vectors == 2 ? pack_panel<2>
                     : vectors == 3 ? pack_panel<3>
                                    : pack_panel<4>;
    one(rows, from + j, ld, last, to + j * rows);
  });
}

void pack(const Plan& plan, const float* packed, const float* bias, float* panels) {
  float* edge = panels + plan.panel[plan.groups];
  for (int64_t g = 0; g < plan.groups; ++g) {
    const int64_t m = plan.in.start[g + 1] - plan.in.start[g], n = plan.out.start[g + 1] - plan.out.start[g];
    pack_turned(m, n, packed + plan.block[g], panels + plan.panel[g]);
    for (int64_t j = 0; j < plan.out.edge[g + 1] - plan.out.edge[g]; ++j)
      edge[plan.out.edge[g] + j] = bias && j < n ? bias[plan.out.order[plan.out.start[g] + j]] : 0.0f;
  }
}

// dW of some rows, added to what is there if `add`; d and s are group-major.
void weight_gradient(const Plan& plan, int64_t rows, const float* d, const float* s, bool add, float* dpacked,
                     float* scratch) {
  const int64_t I = plan.in.size, O = plan.out.size;
  for (int64_t g = 0; g < plan.groups; ++g) {
    const int64_t m = plan.in.start[g + 1] - plan.in.start[g], n = plan.out.start[g + 1] - plan.out.start[g];
    if (m == 0 || n == 0) continue;
    float *of_x = scratch, *of_d = scratch + rows * padded(m);
    pack_rows(rows, s + plan.in.start[g], I, m, of_x);
    pack_rows(rows, d + plan.out.start[g], O, n, of_d);
    panels_of(m, [&](int64_t j, int vectors, int last) {
      const Ends ends{nullptr, add, false, last, 0, 0};
      panels_of(n, [&](int64_t o, int wide, int) {
        strip(std::min<int64_t>(kWidth, n - o), rows, of_d + o * rows, 1, wide * kLanes, of_x + j * rows,
              dpacked + plan.block[g] + o * m + j, m, vectors, ends);
      });
    });
  }
}

// The gradients of some rows. dpacked and dbias begin anew; dbias is in the order of dy.
void backward_rows(const Plan& plan, int64_t rows, const float* x, const float* back, const float* y,
                   const float* dy, int flags, const Gradients& to) {
  const bool gather = flags & marl::kGather, scatter = flags & marl::kScatter, relu = flags & marl::kRelu;
  const int64_t I = plan.in.size, O = plan.out.size, G = plan.groups;
  // Permuted rows lie beyond the second-level cache here: few rows a block would cost dW's sums more.
  const int64_t most = std::max<int64_t>(1, std::min(rows, gather || scatter ? kRowsOfBlock / 2 : kRowsOfBlock));
  const int64_t wide = std::max(plan.in.edge[G], plan.out.edge[G]);
  Floats scratch = floats(most * (2 * O + 2 * I + 2 * wide));
  float *d = scratch.get(), *turned = d + most * O, *s = turned + most * O, *dx = s + most * I;
  float* panels = dx + most * I;
  if (to.dbias) std::fill(to.dbias, to.dbias + O, 0.0f);
  if (to.dpacked && rows == 0) std::fill(to.dpacked, to.dpacked + plan.nnz, 0.0f);
  const int64_t units = panels_in(plan.in, G);
  for (int64_t r0 = 0; r0 < rows; r0 += most) {
    const int64_t count = std::min(most, rows - r0);
    const float* own = dy + r0 * O;
    if (relu) {
      const float* on = y + r0 * O;
      for (int64_t k = 0; k < count * O; ++k) turned[k] = on[k] > 0.0f ? own[k] : 0.0f;
      own = turned;
    }
    if (to.dbias)
      for (int64_t r = 0; r < count; ++r)
        for (int64_t o = 0; o < O; ++o) to.dbias[o] += own[r * O + o];
    if (scatter) permute(count, O, own, plan.out.order, d), own = d;
    if (to.dpacked) {
      const float* from = x + r0 * I;
      if (gather) permute(count, I, from, plan.in.order, s), from = s;
      weight_gradient(plan, count, own, from, r0 > 0, to.dpacked, panels);
    }
    if (!to.dx) continue;
    float* into = gather ? dx : to.dx + r0 * I;
    multiply(plan.out, plan.in, plan.panel_back, G, count, own, O, back, nullptr, false, into, I, {0, units});
    if (gather) permute(count, I, dx, plan.in.place, to.dx + r0 * I);
  }
}

// dbias in the order of dy.
void gradients(const Plan& plan, int64_t rows, const float* x, const float* packed, const float* y,
               const float* dy, int flags, const Gradients& to, int threads) {
  const int64_t I = plan.in.size, O = plan.out.size, G = plan.groups;
  Floats back = to.dx ? floats(plan.panel_back[G]) : nullptr;  // of the weights, dy to dx
  if (to.dx)
    for (int64_t g = 0; g < G; ++g)
      pack_rows(plan.out.start[g + 1] - plan.out.start[g], packed + plan.block[g],
                plan.in.start[g + 1] - plan.in.start[g], plan.in.start[g + 1] - plan.in.start[g],
                back.get() + plan.panel_back[g]);
  if (threads > 1 && (2 * cycles(plan, rows, flags) < kWorthAThread || rows < 2 * threads || omp_in_parallel()))
    threads = 1;
  if (threads == 1) return backward_rows(plan, rows, x, back.get(), y, dy, flags, to);
  // Every thread sums its own rows; the sums are added in the order of the threads.
  const int64_t own = plan.nnz + O;
  Floats sums = floats((threads - 1) * own);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static, 1)
    for (int t = 0; t < threads; ++t) {
      const int64_t first = rows * t / threads, count = rows * (t + 1) / threads - first;
      Gradients mine = to;
      if (t > 0 && to.dpacked) mine.dpacked = &sums[(t - 1) * own];
      if (t > 0 && to.dbias) mine.dbias = &sums[(t - 1) * own + plan.nnz];
      if (to.dx) mine.dx = to.dx + first * I;
      backward_rows(plan, count, x + first * I, back.get(), y ? y + first * O : nullptr, dy + first * O, flags,
                    mine);
    }
    if (to.dpacked) {
#pragma omp for schedule(static)
      for (int64_t k = 0; k < plan.nnz; ++k)
        for (int t = 1; t < threads; ++t) to.dpacked[k] += sums[(t - 1) * own + k];
    }
#pragma omp single
    if (to.dbias)
      for (int t = 1; t < threads; ++t)
        for (int64_t o = 0; o < O; ++o) to.dbias[o] += sums[(t - 1) * own + plan.nnz + o];
  }
}

void backward(const Plan& plan, int64_t rows, const float* x, const float* packed, const float* y,
              const float* dy, int flags, const Gradients& to, int threads) {
  if (!to.dbias || flags & marl::kScatter) return gradients(plan, rows, x, packed, y, dy, flags, to, threads);
  Floats group_major = floats(plan.out.size);
  Gradients inner = to;
  inner.dbias = group_major.get();
  gradients(plan, rows, x, packed, y, dy, flags, inner, threads);
  for (int64_t p = 0; p < plan.out.size; ++p) to.dbias[plan.out.order[p]] = group_major[p];
}

void sums(const Plan& plan, const float* a, const float* b, float* sum_in, float* sum_out) {
  Floats columns = floats(plan.in.size);
  std::fill(columns.get(), columns.get() + plan.in.size, 0.0f);
  for (int64_t g = 0; g < plan.groups; ++g) {
    const int64_t i0 = plan.in.start[g], m = plan.in.start[g + 1] - i0;
    int64_t at = plan.block[g];
    for (int64_t o = plan.out.start[g]; o < plan.out.start[g + 1]; ++o, at += m) {
      Vec total{};
      float *column = &columns[i0], rest = 0.0f;
      int64_t i = 0;
      for (; i + kLanes <= m; i += kLanes) {
        const Vec product = marl::load(a + at + i) * marl::load(b + at + i);
        marl::store(column + i, marl::load(column + i) + product);
        total += product;
      }
      for (; i < m; ++i) column[i] += a[at + i] * b[at + i], rest += a[at + i] * b[at + i];
      for (int l = 0; l < kLanes; ++l) rest += total[l];
      sum_out[plan.out.order[o]] = rest;
    }
  }
  for (int64_t p = 0; p < plan.in.size; ++p) sum_in[plan.in.order[p]] = columns[p];
}

const marl::Kernels kKernels{kLanes, pack, forward, backward, sums};

}  // namespace

extern "C" const marl::Kernels* marl_grouped() { return &kKernels; }
