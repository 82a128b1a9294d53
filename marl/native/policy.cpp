// Steps of PPO around its networks: sampling, its two losses with their gradients, moments of returns.
//
// Formulas and symbols: marl/policy/losses.py. Sums are taken per thread in double precision and added in the
// threads' order.
#include <algorithm>
#include <cmath>

#include "rng.hpp"
#include "threads.hpp"

namespace {

constexpr float kNever = -1e10f;         // logit of an unavailable action
constexpr double kTranscendental = 100;  // operations that exp and log of one action are worth

struct Sums {
  double policy = 0, entropy = 0, kl = 0;
  char apart[64];  // threads write to different cache lines
};

}  // namespace

extern "C" {

// The largest of logit - log(-log(u)), u number n * A + a of the row's stream; without keys the largest logit.
void marl_sample(int64_t B, int64_t N, int64_t A, const float* logits, const uint8_t* avail, const int64_t* key,
                 int64_t* actions) {
  for (int64_t b = 0; b < B; ++b)
    for (int64_t n = 0; n < N; ++n, logits += A, avail += A) {
      int64_t chosen = 0;
      float best = 0.0f;
      bool found = false;
      for (int64_t a = 0; a < A; ++a) {
        if (!avail[a]) continue;
        float score = logits[a];
        if (key) {  // a zero would make an available action impossible: half a step above it instead
          const float u = std::max(marl::uniform(static_cast<uint64_t>(key[b]), n * A + a), 1.0f / 33554432.0f);
          score -= std::log(-std::log(u));
        }
        if (!found || score > best) best = score, chosen = a;
        found = true;
      }
      actions[b * N + n] = chosen;
    }
}

// policy_loss - weight * entropy over rows where mask; `out`: policy loss, entropy, mean of old - new log-probability.
// dlogits (R, A), if not null, is the gradient.
void marl_policy_loss(int64_t R, int64_t A, const float* logits, const uint8_t* avail, const int64_t* actions,
                      const float* old, const float* advantage, const uint8_t* mask, float clip, float weight,
                      float* dlogits, float* out, int threads) {
  int64_t count = 0;
  for (int64_t r = 0; r < R; ++r) count += mask[r] != 0;
  const double each = 1.0 / std::max<int64_t>(count, 1);
  threads = marl::worthwhile(kTranscendental * R * A, threads);
  std::vector<Sums> sums(threads);
  marl::split(R, threads, [&](int thread, int64_t first, int64_t end) {
    Sums sum;
    std::vector<float> p(A), log_p(A);
    for (int64_t r = first; r < end; ++r) {
      float* d = dlogits ? dlogits + r * A : nullptr;
      if (!mask[r]) {
        for (int64_t a = 0; d && a < A; ++a) d[a] = 0.0f;
        continue;
      }
      float top = kNever, all = 0.0f, entropy = 0.0f;
      for (int64_t a = 0; a < A; ++a) {
        log_p[a] = avail[r * A + a] ? logits[r * A + a] : kNever;
        top = log_p[a] > top ? log_p[a] : top;
      }
      for (int64_t a = 0; a < A; ++a) all += p[a] = std::exp(log_p[a] - top);
      const float offset = top + std::log(all);
      for (int64_t a = 0; a < A; ++a) {
        log_p[a] -= offset;
        p[a] /= all;
        entropy -= p[a] * log_p[a];
      }
      const int64_t taken = actions[r];
      const float change = log_p[taken] - old[r], ratio = std::exp(change), A_r = advantage[r];
      const float plain = ratio * A_r, clipped = std::min(std::max(ratio, 1.0f - clip), 1.0f + clip) * A_r;
      sum.policy -= plain > clipped ? clipped : plain;  // a NaN stays
      sum.entropy += entropy;
      sum.kl -= change;
      if (!d) continue;
      const bool open = (ratio >= 1.0f - clip && ratio <= 1.0f + clip) || plain < clipped;
      const float step = open ? -plain * each : 0.0f, spread = weight * each;
      for (int64_t a = 0; a < A; ++a) {
        const float pull = step * ((a == taken) - p[a]) + spread * p[a] * (log_p[a] + entropy);
        d[a] = avail[r * A + a] ? pull : 0.0f;
      }
    }
    sums[thread] = sum;
  });
  double policy = 0, entropy = 0, kl = 0;
  for (const auto& s : sums) policy += s.policy, entropy += s.entropy, kl += s.kl;
  out[0] = policy * each, out[1] = entropy * each, out[2] = kl * each;
}

// value_loss over entries where mask, targets (returned - mean) / deviation; dvalue, if not null, is the gradient.
void marl_value_loss(int64_t R, const float* value, const float* old, const float* returned, const uint8_t* mask,
                     float mean, float deviation, float clip, float huber, float* dvalue, float* out) {
  int64_t count = 0;
  for (int64_t r = 0; r < R; ++r) count += mask[r] != 0;
  const double each = 1.0 / std::max<int64_t>(count, 1);
  const auto loss = [&](float error) {
    const float size = std::fabs(error);
    return size <= huber ? 0.5f * error * error : huber * (size - 0.5f * huber);
  };
  double sum = 0;
  for (int64_t r = 0; r < R; ++r) {
    if (!mask[r]) {
      if (dvalue) dvalue[r] = 0.0f;
      continue;
    }
    const float target = (returned[r] - mean) / deviation, moved = value[r] - old[r];
    const float near = old[r] + std::min(std::max(moved, -clip), clip);
    const float far_loss = loss(value[r] - target), near_loss = loss(near - target);
    sum += far_loss < near_loss ? near_loss : far_loss;
    if (!dvalue) continue;
    const bool open = std::fabs(moved) <= clip || far_loss > near_loss;
    const float slope = std::min(std::max(value[r] - target, -huber), huber);
    dvalue[r] = open ? slope * static_cast<float>(each) : 0.0f;
  }
  out[0] = sum * each;
}

// Mean, mean square and number of the x where mask.
void marl_moments(int64_t R, const float* x, const uint8_t* mask, double* out) {
  double sum = 0, square = 0, count = 0;
  for (int64_t r = 0; r < R; ++r)
    if (mask[r]) sum += x[r], square += static_cast<double>(x[r]) * x[r], count += 1;
  out[0] = sum / std::max(count, 1.0), out[1] = square / std::max(count, 1.0), out[2] = count;
}

}  // extern "C"
