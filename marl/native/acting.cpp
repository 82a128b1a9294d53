// The small steps around a network of acting agents: its input rows, and epsilon-greedy actions.
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
      const uint64_t stream = static_cast<uint64_t>(key[b]);
      if (epsilon > 0.0 && marl::uniform(stream, n) < static_cast<float>(epsilon)) {
        int64_t rank = static_cast<int64_t>(marl::uniform(stream, N + n) * static_cast<float>(count));
        for (best = 0; best < A - 1; ++best)
          if (avail[best] && rank-- == 0) break;
      }
      actions[b * N + n] = best;
    }
}

}  // extern "C"
