// Start of an episode in one lane: teams, places, cooldowns. spawn.py is the torch form.
#pragma once
#include <algorithm>

#include "rng.hpp"
#include "tick.hpp"

namespace battle {

// Words that key the streams of an episode: fold(fold(key, episode), word). The same in spawn.py.
enum Purpose : uint64_t { kJitter = 1, kCooldown, kTeam, kExtra, kStart, kReflect, kGroups, kOrder, kDistance, kMember, kSite };

struct Recruit {
  int type;
  float x, y;
};

// n types from the weights; of n_draws draws the first that is not made of the exception (type 2) alone.
inline void draw_team(const World& w, uint64_t key, int n, Recruit* out) {
  for (int attempt = 0; attempt < w.n_draws; ++attempt) {
    bool fine = false;
    for (int k = 0; k < n; ++k) {
      const float u = marl::uniform(key, static_cast<uint64_t>(attempt) * n + k);
      const int which = (u >= w.cumulative[0]) + (u >= w.cumulative[1]);
      out[k].type = w.teams[which];
      fine |= which != 2;
    }
    if (fine) return;
  }
  out[0].type = w.teams[0];  // all draws were rejected: probability 0.1 ** n_draws at most
}

inline void draw_surrounded(const World& w, uint64_t episode, Recruit* r) {
  const int n = w.n_allies, units = n + w.n_enemies;
  const float middle = kSizeF * 0.5f;
  for (int u = 0; u < n; ++u) {
    r[u].x = middle + w.places[2 * u];
    r[u].y = middle + w.places[2 * u + 1];
  }
  const int groups = 1 + static_cast<int>(((marl::bits(marl::fold(episode, kGroups), 0) >> 33) * 4) >> 31);
  float order[4];
  int corner[4] = {0, 1, 2, 3};
  for (int k = 0; k < 4; ++k) order[k] = marl::uniform(marl::fold(episode, kOrder), k);
  std::stable_sort(corner, corner + 4, [&](int a, int b) { return order[a] < order[b]; });
  int members[4] = {0, 0, 0, 0};
  for (int u = n; u < units; ++u) {
    const uint64_t word = marl::bits(marl::fold(episode, kMember), u - n) >> 33;
    const int k = static_cast<int>((word * static_cast<uint64_t>(groups)) >> 31), rank = members[k]++;
    const float east = corner[k] >= 2 ? 1.0f : 0.0f, north = corner[k] == 1 || corner[k] == 2 ? 1.0f : 0.0f;
    const float share = marl::uniform(marl::fold(episode, kDistance), k);
    const float from_x = middle + 2.0f * (2.0f * east - 1.0f), from_y = middle + 2.0f * (2.0f * north - 1.0f);
    r[u].x = from_x * share + kSizeF * east * (1.0f - share) + w.places[2 * rank];
    r[u].y = from_y * share + kSizeF * north * (1.0f - share) + w.places[2 * rank + 1];
  }
}

inline void draw_reflected(const World& w, uint64_t episode, Recruit* r) {
  const int n = w.n_allies, units = n + w.n_enemies;
  const uint64_t key = marl::fold(episode, kReflect);
  for (int u = 0; u < units; ++u) {
    if (u >= n && u < 2 * n) {
      r[u].x = kSizeF - r[u - n].x;
      r[u].y = r[u - n].y;
    } else {
      const float a = marl::uniform(key, 2 * u), half = kSizeF * 0.5f;
      r[u].x = u < n ? a * (half - 1.0f) : half + a * half;
      r[u].y = marl::uniform(key, 2 * u + 1) * kSizeF;
    }
  }
}

inline void set_constants(const World& w, Group& g, int u, int l) {
  const Unit& k = w.units[g.type[u][l]];
  g.radius[u][l] = k.radius;
  g.step[u][l] = k.step;
  g.walk_step[u][l] = k.step;
  g.range[u][l] = k.range;
  g.scan2[u][l] = k.scan2;
  g.full_cooldown[u][l] = k.cooldown;
  g.full_hp[u][l] = k.hp;
  g.full_shield[u][l] = k.shield;
  g.regeneration[u][l] = k.regeneration;
  g.max_cooldown[u][l] = k.max_cooldown;
  g.sight[u][l] = k.sight;
  g.shoot[u][l] = k.shoot;
  g.air[u][l] = -static_cast<int32_t>(k.air);
  g.hits_air[u][l] = -static_cast<int32_t>(k.hits_air);
  g.heals[u][l] = -static_cast<int32_t>(k.heals);
}

inline void spawn(const World& w, Group& g, int l, int64_t key, int64_t episode_number) {
  const int n = w.n_allies, units = n + w.n_enemies;
  const uint64_t episode = marl::fold(static_cast<uint64_t>(key), static_cast<uint64_t>(episode_number));
  Recruit r[kMaxUnits];
  float goal[2] = {w.goal_x, w.goal_y};
  if (w.random_teams) {
    draw_team(w, marl::fold(episode, kTeam), n, r);
    const int copied = std::min(n, w.n_enemies);
    for (int k = 0; k < copied; ++k) r[n + k].type = r[k].type;
    if (w.n_enemies > n) draw_team(w, marl::fold(episode, kExtra), w.n_enemies - n, r + 2 * n);
    if (marl::uniform(marl::fold(episode, kStart), 0) > 0.5f) {
      draw_surrounded(w, episode, r);
    } else {
      draw_reflected(w, episode, r);
    }
  } else {
    for (int u = 0; u < units; ++u) r[u] = {w.teams[u], w.places[2 * u], w.places[2 * u + 1]};
  }
  if (w.scouts > 0) {  // they and the enemies start at a site, which the enemies guard
    const uint64_t word = marl::bits(marl::fold(episode, kSite), 0) >> 33;
    const float* site = w.sites + 2 * ((word * kSites) >> 31);
    for (int u = 0; u < units; ++u) {
      if (u >= w.scouts && u < n) continue;
      r[u].x = site[0] + r[u].x;
      r[u].y = site[1] + r[u].y;
    }
    goal[0] = site[0];
    goal[1] = site[1];
  }
  for (int u = 0; u < units; ++u) {
    const uint64_t jitter = marl::fold(episode, kJitter);
    const float radius = w.units[r[u].type].radius;
    const float x = r[u].x + w.spawn_jitter * (2.0f * marl::uniform(jitter, 2 * u) - 1.0f);
    const float y = r[u].y + w.spawn_jitter * (2.0f * marl::uniform(jitter, 2 * u + 1) - 1.0f);
    r[u].x = std::min(std::max(x, radius), kSizeF - radius);
    r[u].y = std::min(std::max(y, radius), kSizeF - radius);
  }
  const auto rank = [&](int type) { return w.ally_bit[type]; };
  std::stable_sort(r, r + n, [&](const Recruit& a, const Recruit& b) {
    if (a.type != b.type) return rank(a.type) < rank(b.type);
    return a.x != b.x ? a.x < b.x : a.y < b.y;
  });
  double goal_x = 0.0, goal_y = 0.0;  // sums in double: the same in any order
  for (int u = 0; u < units; ++u) {
    const Unit& k = w.units[r[u].type];
    g.type[u][l] = r[u].type;
    set_constants(w, g, u, l);
    g.x[u][l] = r[u].x;
    g.y[u][l] = r[u].y;
    g.hp[u][l] = k.hp;
    g.shield[u][l] = k.shield;
    g.energy[u][l] = k.energy;
    g.since[u][l] = w.shield_delay;
    const float wait = k.cooldown * w.cooldown_jitter * marl::uniform(marl::fold(episode, kCooldown), u);
    g.cooldown[u][l] = k.heals > 0.0f ? 0.0f : wait;
    g.target[u][l] = -1;
    g.healing[u][l] = 0;
    if (u < n) {
      g.facing[u][l] = 0;
      g.last[u][l] = -1;
      goal_x += r[u].x;
      goal_y += r[u].y;
    }
  }
  g.goal_x[l] = w.random_teams ? static_cast<float>(goal_x) / static_cast<float>(n) : goal[0];
  g.goal_y[l] = w.random_teams ? static_cast<float>(goal_y) / static_cast<float>(n) : goal[1];
  g.t[l] = 0;
}

}  // namespace battle
