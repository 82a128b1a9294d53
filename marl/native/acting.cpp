// Small steps around networks: agents' input rows, epsilon-greedy actions, lambda returns.
#include <cstring>

#include "rng.hpp"

extern "C" {

// Rows (R, N) of [observation | one-hot last action | one-hot agent id]; action -1 is all zeros.
void marl_agent_inputs(int64_t R, int64_t N, int64_t O, int64_t A, int last_action, int agent_ids,
                       const float* obs, const int64_t* last, float* out) {
  const int64_t I = O + (last_action ? A : 0) + (agent_ids ? N : 0);
  for (int64_t row = 0; row < R * N; ++row, out += I) {
    std::memcpy(out, obs + row * O, O * sizeof(float));
    std::memset(out + O, 0, (I - O) * sizeof(float));
    if (last_action && last[row] >= 0 && last[row] < A) out[O + last[row]] = 1.0f;
    if (agent_ids) out[I - N + row % N] = 1.0f;
  }
}

// marl.value.explore.epsilon_greedy, bit for bit: a coin is number n of the row's stream, a choice number N + n.
void marl_epsilon_greedy(int64_t B, int64_t N, int64_t A, const float* q, const uint8_t* avail,
                         const int64_t* key, double epsilon, int64_t* actions) {
  for (int64_t b = 0; b < B; ++b)
    for (int64_t n = 0; n < N; ++n, q += A, avail += A) {
      int64_t best = 0, count = 0;
      bool found = false;
      for (int64_t a = 0; a < A; ++a) {
        if (!avail[a]) continue;
        ++count;
        if (!found || q[a] > q[best]) best = a;
        found = true;
      }
      const uint64_t stream = key ? static_cast<uint64_t>(key[b]) : 0;  // null: greedy
      if (epsilon > 0.0 && marl::uniform(stream, n) < static_cast<float>(epsilon)) {
        int64_t rank = static_cast<int64_t>(marl::uniform(stream, N + n) * static_cast<float>(count));
        for (best = 0; best < A - 1; ++best)
          if (avail[best] && rank-- == 0) break;
      }
      actions[b * N + n] = best;
    }
}

// marl.returns.lambda_returns: base_t + decay_t * return_{t+1}, backwards; the last entry is 0.
void marl_lambda_returns(int64_t B, int64_t T, int64_t M, const float* reward, const float* value,
                         const uint8_t* terminated, const uint8_t* filled, float gamma, float trace, float* out) {
  for (int64_t b = 0; b < B; ++b) {
    std::memset(out + (b * T + T - 1) * M, 0, M * sizeof(float));
    for (int64_t t = T - 2; t >= 0; --t) {
      const int64_t at = (b * T + t) * M, next = at + M;
      const float future = terminated[b * T + t] ? 0.0f : gamma, follow = filled[b * T + t + 1] ? trace : 0.0f;
      for (int64_t m = 0; m < M; ++m) {
        const float base = filled[b * T + t] ? reward[at + m] + future * (1.0f - follow) * value[next + m] : 0.0f;
        const float decay = future * follow;
        out[at + m] = decay == 0.0f ? base : base + decay * out[next + m];
      }
    }
  }
}

}  // extern "C"
