// The C++ form of the battle worlds: entry points for ctypes (native.py).
#include <cstring>
#include <memory>
#include <thread>

#include "observe.hpp"
#include "spawn.hpp"

namespace battle {
namespace {

// From this many worlds on some episode ends in nearly every step, and final_* is filled while rows are in cache.
constexpr int64_t kManyWorlds = 256;

// `fresh`: the group holds no constants yet; those of fixed teams are the same in all worlds.
void load(const World& w, const State& s, Lanes lanes, Group& g, bool fresh) {
  const int n = w.n_allies, units = n + w.n_enemies;
  for (int u = 0; u < units; ++u) g.hp[u] = vf{};
  for (int l = 0; l < L; ++l) {
    const int64_t b = lanes.first + (l < lanes.count ? l : 0);  // spare lanes repeat the first world
    for (int u = 0; u < units; ++u) {
      const int64_t at = b * units + u;
      g.x[u][l] = s.pos[2 * at];
      g.y[u][l] = s.pos[2 * at + 1];
      g.hp[u][l] = s.hp[at];
      g.shield[u][l] = s.shield[at];
      g.energy[u][l] = s.energy[at];
      g.cooldown[u][l] = s.cooldown[at];
      g.since[u][l] = s.since_hit[at];
      g.target[u][l] = static_cast<int32_t>(s.target[at]);
      g.healing[u][l] = -static_cast<int32_t>(s.healing[at]);
      g.type[u][l] = static_cast<int32_t>(s.type[at]);
      if (w.random_teams || fresh) set_constants(w, g, u, l);
    }
    for (int i = 0; i < n; ++i) {
      g.facing[i][l] = static_cast<int32_t>(s.facing[b * n + i]);
      g.last[i][l] = static_cast<int32_t>(s.last_actions[b * n + i]);
    }
    g.t[l] = static_cast<int32_t>(s.t[b]);
    g.goal_x[l] = s.goal[2 * b];
    g.goal_y[l] = s.goal[2 * b + 1];
  }
}

void store(const World& w, const State& s, Lanes lanes, const Group& g) {
  const int n = w.n_allies, units = n + w.n_enemies;
  for (int l = 0; l < lanes.count; ++l) {
    const int64_t b = lanes.first + l;
    for (int u = 0; u < units; ++u) {
      const int64_t at = b * units + u;
      s.pos[2 * at] = g.x[u][l];
      s.pos[2 * at + 1] = g.y[u][l];
      s.hp[at] = g.hp[u][l];
      s.shield[at] = g.shield[u][l];
      s.energy[at] = g.energy[u][l];
      s.cooldown[at] = g.cooldown[u][l];
      s.since_hit[at] = g.since[u][l];
      s.target[at] = g.target[u][l];
      s.healing[at] = g.healing[u][l] != 0;
      s.type[at] = g.type[u][l];
    }
    for (int i = 0; i < n; ++i) {
      s.facing[b * n + i] = g.facing[i][l];
      s.last_actions[b * n + i] = g.last[i][l];
    }
    s.t[b] = g.t[l];
    s.goal[2 * b] = g.goal_x[l];
    s.goal[2 * b + 1] = g.goal_y[l];
  }
}

// Turn actions into orders; what is not available is carried out as stop.
void give_orders(const World& w, Group& g, const int64_t* actions, Lanes lanes) {
  const int n = w.n_allies;
  constexpr float kNorth[6] = {0, 0, 1, -1, 0, 0}, kEast[6] = {0, 0, 0, 0, 1, -1};
  for (int i = 0; i < n; ++i) {
    g.moving[i] = vi{};
    g.to_x[i] = g.to_y[i] = vf{};
    for (int l = 0; l < lanes.count; ++l) {
      const int64_t action = actions[(lanes.first + l) * n + i];
      g.last[i][l] = static_cast<int32_t>(action);
      g.target[i][l] = -1;
      if (!(g.hp[i][l] > 0.0f)) continue;
      const int layer = static_cast<int>(w.units[g.type[i][l]].layer);
      const float x = g.x[i][l], y = g.y[i][l];
      if (action >= 2 && action < 6) {
        if (!open_at(w, layer, x + kEast[action], y + kNorth[action])) continue;
        g.moving[i][l] = -1;
        g.to_x[i][l] = x + 2.0f * kEast[action];
        g.to_y[i][l] = y + 2.0f * kNorth[action];
      } else if (action >= 6 && action < w.attack_base) {
        g.facing[i][l] = static_cast<int32_t>(action - 6);
      } else if (action >= w.attack_base && action < w.n_actions) {
        const int k = static_cast<int>(action) - w.attack_base, target = g.heals[i][l] ? k : n + k;
        if (g.heals[i][l] && (k >= n || k == i || g.heals[k][l])) continue;
        if (!(g.hp[target][l] > 0.0f) || (!g.heals[i][l] && g.air[target][l] && !g.hits_air[i][l])) continue;
        const float dx = g.x[target][l] - x, dy = g.y[target][l] - y, d2 = dx * dx + dy * dy;
        const float shoot = g.shoot[i][l];
        if (!(d2 <= shoot * shoot)) continue;
        if (w.cone) {
          const float* way = w.directions + 2 * g.facing[i][l];
          if (!(dx * way[0] + dy * way[1] >= __builtin_sqrtf(d2) * w.cone_cosine)) continue;
        }
        g.target[i][l] = target;
      }
    }
  }
}

struct Verdict {
  bool terminated, truncated, success;
  float reward;
  int dead_allies, dead_enemies;
};

Verdict judge(const World& w, const Group& g, const vf* before, int l) {
  const int n = w.n_allies, units = n + w.n_enemies;
  double dealt = 0.0, hurt_sum = 0.0, full_sum = 0.0;  // sums in double: the same in any order
  int kills = 0, deaths = 0, ours = 0, theirs = 0;
  Verdict v{};
  for (int u = 0; u < units; ++u) {
    const float after = g.hp[u][l] + g.shield[u][l];
    const bool was = before[u][l] > 0.0f, is = g.hp[u][l] > 0.0f, fights = is && !g.heals[u][l];
    if (u < n) {
      hurt_sum += was ? before[u][l] - after : 0.0f;
      deaths += was && !is;
      ours += fights;
      v.dead_allies += !is;
    } else {
      dealt += was ? before[u][l] - after : 0.0f;
      kills += was && !is;
      theirs += fights;
      v.dead_enemies += !is;
      full_sum += g.full_hp[u][l] + g.full_shield[u][l];
    }
  }
  v.success = theirs == 0 && ours > 0;
  const bool lost = ours == 0 && theirs > 0, over = ours == 0 || theirs == 0;
  const float delta = static_cast<float>(dealt), hurt = static_cast<float>(hurt_sum), full = static_cast<float>(full_sum);
  float reward = delta + 10.0f * static_cast<float>(kills);
  if (w.reward_mode == 0) reward = reward < 0.0f ? -reward : reward;
  if (w.reward_mode == 1) reward = reward > 0.0f ? reward : 0.0f;
  if (w.reward_mode == 2) reward = reward - 5.0f * static_cast<float>(deaths) - 0.5f * hurt;
  if (v.success) reward += 200.0f;
  reward = reward / ((10.0f * static_cast<float>(w.n_enemies) + 200.0f + full) / 20.0f);
  if (w.reward_mode == 3) reward = v.success ? 1.0f : (lost ? -1.0f : 0.0f);
  v.reward = reward;
  const bool limit = !over && g.t[l] >= w.limit;
  v.terminated = over || (limit && !w.continuing);
  v.truncated = limit && w.continuing;
  return v;
}

// As marl::write_rows, for masks, which become bytes.
void write_masks(const vi* rows, int width, Lanes lanes, uint32_t which, uint8_t* out) {
  vf square[L];
  for (int f = 0; f < width; f += L) {
    const int count = width - f < L ? width - f : L;
    transpose(reinterpret_cast<const vf*>(rows) + f, square);
    for (uint32_t left = which; left; left &= left - 1) {
      const int l = __builtin_ctz(left);
      uint8_t* to = out + (lanes.first + l) * width + f;
      const vi flags = (vi)square[l] & 1;
      for (int k = 0; k < count; ++k) to[k] = static_cast<uint8_t>(flags[k]);
    }
  }
}

void write(const World& w, const Scratch& s, Lanes lanes, uint32_t which, float* obs, float* state, uint8_t* avail) {
  write_rows(s.obs.data(), w.obs_size * w.n_allies, lanes, which, obs);
  write_rows(s.state.data(), w.state_size, lanes, which, state);
  write_masks(s.avail.data(), w.n_actions * w.n_allies, lanes, which, avail);
}

void write_alive(const World& w, const Group& g, Lanes lanes, const Out& o) {
  for (int l = 0; l < lanes.count; ++l) {
    for (int i = 0; i < w.n_allies; ++i) o.alive[(lanes.first + l) * w.n_allies + i] = g.hp[i][l] > 0.0f;
    o.t[lanes.first + l] = g.t[l];
  }
}

void copy_finals(const World& w, const Out& o, int64_t b) {
  const size_t obs = static_cast<size_t>(w.obs_size) * w.n_allies, state = w.state_size,
               avail = static_cast<size_t>(w.n_actions) * w.n_allies;
  std::memcpy(o.final_obs + b * obs, o.obs + b * obs, obs * sizeof(float));
  std::memcpy(o.final_state + b * state, o.state + b * state, state * sizeof(float));
  std::memcpy(o.final_avail + b * avail, o.avail + b * avail, avail);
}

// One step of a group; returns the lanes whose episode ended. `copy_now`: fill final_* of the others at once.
uint32_t step_group(const World& w, const State& state, const Out& o, const int64_t* actions, Lanes lanes, Group& g,
                    Scratch& s, bool fresh, bool copy_now) {
  const int units = w.n_allies + w.n_enemies;
  vf before[kMaxUnits];
  load(w, state, lanes, g, fresh);
  give_orders(w, g, actions, lanes);
  for (int u = 0; u < units; ++u) before[u] = g.hp[u] + g.shield[u];
  for (int k = 0; k < 8; ++k) tick(w, g);
  g.t += 1;
  uint32_t done = 0;
  for (int l = 0; l < lanes.count; ++l) {
    const Verdict v = judge(w, g, before, l);
    const int64_t b = lanes.first + l;
    o.terminated[b] = v.terminated;
    o.truncated[b] = v.truncated;
    o.success[b] = v.success;
    o.reward[b] = v.reward;
    o.dead_allies[b] = v.dead_allies;
    o.dead_enemies[b] = v.dead_enemies;
    done |= static_cast<uint32_t>(v.terminated || v.truncated) << l;
  }
  observe(w, g, s);
  write(w, s, lanes, all_of(lanes) & ~done, o.obs, o.state, o.avail);
  if (copy_now) {
    for (uint32_t left = all_of(lanes) & ~done; left; left &= left - 1)
      copy_finals(w, o, lanes.first + __builtin_ctz(left));
  }
  if (done) {
    write(w, s, lanes, done, o.final_obs, o.final_state, o.final_avail);
    for (uint32_t left = done; left; left &= left - 1) {
      const int l = __builtin_ctz(left);
      spawn(w, g, l, state.key[lanes.first + l], ++state.episode[lanes.first + l]);
    }
    observe(w, g, s);
    write(w, s, lanes, done, o.obs, o.state, o.avail);
  }
  write_alive(w, g, lanes, o);
  store(w, state, lanes, g);
  return done;
}

// Run `work(lanes, group, scratch, first of this thread)` over all groups, on as many threads as are asked for.
template <class Work>
void for_groups(const World& w, int64_t envs, int threads, const Work& work) {
  const int64_t groups = (envs + L - 1) / L;
  const auto run = [&](int64_t from, int64_t to) {
    thread_local std::unique_ptr<Group> g;
    if (!g) g = std::make_unique<Group>();
    Scratch s(w);
    for (int64_t k = from; k < to; ++k) {
      const int64_t left = envs - k * L;
      work(Lanes{k * L, static_cast<int>(left < L ? left : L)}, *g, s, k == from);
    }
  };
  std::vector<std::thread> pool;
  for (int k = 1; k < threads; ++k) pool.emplace_back(run, groups * k / threads, groups * (k + 1) / threads);
  run(0, groups / (threads > 0 ? threads : 1));
  for (auto& thread : pool) thread.join();
}

}  // namespace
}  // namespace battle

using namespace battle;

extern "C" {

// One step of all worlds. Returns how many episodes ended; final_* are filled only if any did.
int64_t battle_step(const World* w, const State* state, const Out* out, const int64_t* actions, int64_t envs,
                    int threads) {
  const bool copy_now = envs >= kManyWorlds;
  std::vector<uint32_t> done((envs + L - 1) / L);
  for_groups(*w, envs, threads, [&](Lanes lanes, Group& g, Scratch& s, bool fresh) {
    done[lanes.first / L] = step_group(*w, *state, *out, actions, lanes, g, s, fresh, copy_now);
  });
  int64_t ended = 0;
  for (uint32_t d : done) ended += __builtin_popcount(d);
  if (ended && !copy_now) {
    for (int64_t b = 0; b < envs; ++b)
      if (!(done[b / L] >> (b % L) & 1u)) copy_finals(*w, *out, b);
  }
  return ended;
}

// Start the episode numbers that the state holds.
void battle_reset(const World* w, const State* state, int64_t envs) {
  for_groups(*w, envs, 1, [&](Lanes lanes, Group& g, Scratch&, bool) {
    for (int l = 0; l < lanes.count; ++l)
      spawn(*w, g, l, state->key[lanes.first + l], state->episode[lanes.first + l]);
    store(*w, *state, lanes, g);
  });
}

// Observations, state, availability, alive and t of the worlds as they stand.
void battle_observe(const World* w, const State* state, const Out* out, int64_t envs) {
  for_groups(*w, envs, 1, [&](Lanes lanes, Group& g, Scratch& s, bool fresh) {
    load(*w, *state, lanes, g, fresh);
    observe(*w, g, s);
    write(*w, s, lanes, all_of(lanes), out->obs, out->state, out->avail);
    write_alive(*w, g, lanes, *out);
  });
}

}  // extern "C"
