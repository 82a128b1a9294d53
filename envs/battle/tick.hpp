// One tick of a group of battles: targets, movement, collisions, weapons, healing, regeneration.
// torch_form.py does the same operations in the same order; change both or neither.
#pragma once
#include <cmath>

#include "world.hpp"

namespace battle {

// Enemy fighters: keep a target in reach (or one that aims at this unit), else take the first of
// healers before fighters, then the nearest, among allies in scan range or aiming at this unit.
inline void choose_targets(const World& w, Group& g) {
  const int n = w.n_allies, units = n + w.n_enemies;
  for (int e = n; e < units; ++e) {
    const vi current = g.target[e];
    vf best = splat(1e9f);
    vi best_index = splat(-1), best_heals = {}, keep = {}, current_heals = {};
    const vf reach_own = g.range[e] + g.radius[e];
    for (int a = 0; a < n; ++a) {
      const vf dx = g.x[a] - g.x[e], dy = g.y[a] - g.y[e];
      const vf d2 = dx * dx + dy * dy;
      vi valid = g.hp[a] > 0.0f;
      if (w.has_air) valid &= ~g.air[a] | g.hits_air[e];
      const vi aims = g.target[a] == splat(e);
      const vf reach = reach_own + g.radius[a];
      const vi is_current = current == splat(a);
      keep |= is_current & valid & ((d2 <= reach * reach) | aims);
      const vi candidate = valid & ((d2 <= g.scan2[e]) | aims);
      vi better;
      if (w.has_healers) {
        better = candidate & ((g.heals[a] & ~best_heals) | (~(g.heals[a] ^ best_heals) & (d2 < best)));
        current_heals |= is_current & g.heals[a];
        best_heals = pick(better, g.heals[a], best_heals);
      } else {
        better = candidate & (d2 < best);
      }
      best = pick(better, d2, best);
      best_index = pick(better, splat(a), best_index);
    }
    keep &= ~(best_heals & ~current_heals);
    const vi chosen = pick(keep, current, best_index);
    const vi fighter = (g.hp[e] > 0.0f) & ~g.heals[e];
    g.target[e] = pick(fighter, chosen, current);
    g.walk_step[e] = g.step[e];
  }
}

// Enemy healers: the mate with the lowest hp that is damaged or has a target, at the pace of the slowest.
inline void choose_patients(const World& w, Group& g) {
  const int n = w.n_allies, units = n + w.n_enemies;
  vf best = splat(1e9f), pace = splat(1e9f);
  vi best_index = splat(-1);
  for (int u = n; u < units; ++u) {
    const vi candidate =
        (g.hp[u] > 0.0f) & ~g.heals[u] & ((g.hp[u] < g.full_hp[u]) | (g.target[u] >= 0));
    const vi better = candidate & (g.hp[u] < best);
    best = pick(better, g.hp[u], best);
    best_index = pick(better, splat(u), best_index);
    pace = pick(candidate, least(pace, g.step[u]), pace);
  }
  for (int e = n; e < units; ++e) {
    const vi healer = (g.hp[e] > 0.0f) & g.heals[e];
    g.target[e] = pick(healer, best_index, g.target[e]);
    g.walk_step[e] = pick(healer, least(g.step[e], pace), g.walk_step[e]);
  }
}

inline int cell_of(float x, float y) {
  const int cx = x < kSizeF ? static_cast<int>(x) : kSize - 1, cy = y < kSizeF ? static_cast<int>(y) : kSize - 1;
  return (cx > 0 ? cx : 0) * kSize + (cy > 0 ? cy : 0);
}

// Ground units that cannot walk straight head for the centre of the cell that the way table names.
inline void round_obstacles(const World& w, const Group& g, int u, vi want, vf& to_x, vf& to_y) {
  for (uint32_t left = bits_of(want); left; left &= left - 1) {
    const int l = __builtin_ctz(left);
    if (w.units[g.type[u][l]].layer != 1.0f) continue;
    const int goal = cell_of(to_x[l], to_y[l]);
    const int next = w.way[cell_of(g.x[u][l], g.y[u][l]) * kSize * kSize + goal];
    if (next == goal) continue;
    to_x[l] = static_cast<float>(next / kSize) + 0.5f;
    to_y[l] = static_cast<float>(next % kSize) + 0.5f;
  }
}

inline void walk(const World& w, Group& g) {
  const int n = w.n_allies, units = n + w.n_enemies;
  for (int u = 0; u < units; ++u) {
    const vi alive = g.hp[u] > 0.0f, target = g.target[u];
    const vi has = target >= 0;
    vf to_x = u < n ? g.to_x[u] : g.goal_x, to_y = u < n ? g.to_y[u] : g.goal_y;
    vi want = u < n ? g.moving[u] : ~vi{};
    if (any(has)) {
      const vi at = pick(has, target, vi{});
      const vf tx = gather(g.x, at), ty = gather(g.y, at);
      const vf dx = tx - g.x[u], dy = ty - g.y[u];
      const vf reach = (g.range[u] + g.radius[u]) + gather(g.radius, at);
      want = pick(has, dx * dx + dy * dy > reach * reach, want);
      to_x = pick(has, tx, to_x);
      to_y = pick(has, ty, to_y);
    }
    want &= alive;
    vf x = g.x[u], y = g.y[u];
    if (any(want)) {
      if (w.way) round_obstacles(w, g, u, want, to_x, to_y);
      const vf dx = to_x - x, dy = to_y - y;
      const vf distance = root(dx * dx + dy * dy);
      const vf step = least(u < n ? g.step[u] : g.walk_step[u], distance);
      const vf fraction = pick(want & (distance > 0.0f), step / distance, vf{});
      x += dx * fraction;
      y += dy * fraction;
    }
    // the dead stand far off and apart, so that nothing collides with them
    g.new_x[u] = pick(alive, x, splat(1e4f + 100.0f * static_cast<float>(u)));
    g.new_y[u] = y;
    g.push_x[u] = g.push_y[u] = vf{};
  }
}

// Adding and subtracting this rounds to multiples of 2**-18, whose sums are exact in any order: crowds are
// chaotic, and the two forms add up in different orders.
constexpr float kRounder = 48.0f;

// Overlapping pairs on the same layer move apart by half the overlap each.
inline void push_apart(const World& w, Group& g) {
  const int units = w.n_allies + w.n_enemies;
  for (int i = 0; i < units; ++i) {
    const vf xi = g.new_x[i], yi = g.new_y[i], ri = g.radius[i];
    for (int j = i + 1; j < units; ++j) {
      const vf dx = g.new_x[j] - xi, dy = g.new_y[j] - yi, both = ri + g.radius[j];
      const vf d2 = dx * dx + dy * dy;
      vi overlap = d2 < both * both;
      if (w.has_air) overlap &= ~(g.air[i] ^ g.air[j]);
      if (!any(overlap)) continue;
      const vf d = root(d2);
      const vi apart = d > 1e-6f;
      const vf amount = (both - d) * 0.5f;
      const vf ux = pick(overlap, (pick(apart, dx / d, splat(1.0f)) * amount + kRounder) - kRounder, vf{});
      const vf uy = pick(overlap & apart, (dy / d * amount + kRounder) - kRounder, vf{});
      g.push_x[i] -= ux;
      g.push_y[i] -= uy;
      g.push_x[j] += ux;
      g.push_y[j] += uy;
    }
  }
}

// Into the map and off cells that the unit cannot walk: slide along y, else along x, else stay.
inline void settle(const World& w, Group& g) {
  const int units = w.n_allies + w.n_enemies;
  for (int u = 0; u < units; ++u) {
    const vi alive = g.hp[u] > 0.0f;
    vf px = g.push_x[u], py = g.push_y[u];
    const vf length2 = px * px + py * py;
    const vi capped = length2 > w.push_cap * w.push_cap;
    if (any(capped)) {
      const vf scale = pick(capped, w.push_cap / root(length2), splat(1.0f));
      px *= scale;
      py *= scale;
    }
    const vi rooted = g.step[u] <= 0.0f;
    const vf low = g.radius[u], high = kSizeF - g.radius[u];
    vf x = least(most(g.new_x[u] + pick(rooted, vf{}, px), low), high);
    vf y = least(most(g.new_y[u] + pick(rooted, vf{}, py), low), high);
    if (w.way) {
      for (uint32_t left = bits_of(alive); left; left &= left - 1) {
        const int l = __builtin_ctz(left), layer = static_cast<int>(w.units[g.type[u][l]].layer);
        if (layer == 0 || w.walk[cell_of(x[l], y[l])] & layer) continue;
        if (w.walk[cell_of(g.x[u][l], y[l])] & layer) {
          x[l] = g.x[u][l];
        } else if (w.walk[cell_of(x[l], g.y[u][l])] & layer) {
          y[l] = g.y[u][l];
        } else {
          x[l] = g.x[u][l];
          y[l] = g.y[u][l];
        }
      }
    }
    g.x[u] = pick(alive, x, g.x[u]);
    g.y[u] = pick(alive, y, g.y[u]);
  }
}

// One hit: the shield first, without armour; what is left over, less armour, costs hp.
inline void hit(const World& w, Group& g, int victim, int l, float damage) {
  const float shield = g.shield[victim][l] - g.taken[victim][l];
  const float left = shield > 0.0f ? shield : 0.0f;
  const float through = (damage - (damage < left ? damage : left)) - w.units[g.type[victim][l]].armour;
  g.loss[victim][l] += through > 0.0f ? through : 0.0f;
  g.taken[victim][l] += damage;
}

inline bool in_splash(const Group& g, int u, int target, int v, int l, const Unit& unit) {
  const float ax = g.x[target][l] - g.x[u][l], ay = g.y[target][l] - g.y[u][l];
  const float length = std::sqrt(ax * ax + ay * ay);
  const float cx = length > 1e-6f ? ax / length : 1.0f, cy = length > 1e-6f ? ay / length : 0.0f;
  const float vx = g.x[v][l] - g.x[target][l], vy = g.y[v][l] - g.y[target][l];
  const float along = std::fabs(vx * cx + vy * cy), aside = std::fabs(vy * cx - vx * cy);
  return (along <= unit.ahead + g.radius[v][l]) & (aside <= unit.across + g.radius[v][l]);
}

inline bool in_blast(const Group& g, int u, int v, int l, const Unit& unit) {
  const float dx = g.x[v][l] - g.x[u][l], dy = g.y[v][l] - g.y[u][l], reach = unit.blast + g.radius[v][l];
  return dx * dx + dy * dy <= reach * reach;
}

inline void attack(const World& w, Group& g, int u, int l) {
  const int n = w.n_allies, target = g.target[u][l], type = g.type[u][l];
  const Unit& unit = w.units[type];
  const float* damage = w.damage + type * kTypes;
  const bool area = unit.across > 0.0f || unit.blast > 0.0f;
  const int first = area ? (u < n ? n : 0) : target, last = area ? (u < n ? n + w.n_enemies : n) : target + 1;
  for (int v = first; v < last; ++v) {
    if (area && v != target) {
      if (!(g.hp[v][l] > 0.0f) || (g.air[v][l] && !g.hits_air[u][l])) continue;
      if (!(unit.blast > 0.0f ? in_blast(g, u, v, l, unit) : in_splash(g, u, target, v, l, unit))) continue;
    }
    for (int k = 0; k < static_cast<int>(unit.hits); ++k) hit(w, g, v, l, damage[g.type[v][l]]);
  }
  g.cooldown[u][l] = g.full_cooldown[u][l];
}

inline void forget(const World& w, Group& g, int dead, int l) {
  for (int u = 0; u < w.n_allies + w.n_enemies; ++u)
    if (g.target[u][l] == dead) g.target[u][l] = -1;
}

// Every ready weapon in reach fires at once; the order of units only decides whose hits the shield takes.
inline void fire(const World& w, Group& g) {
  const int units = w.n_allies + w.n_enemies;
  uint32_t fired[kMaxUnits], any_fired = 0;
  for (int u = 0; u < units; ++u) {
    fired[u] = 0;
    const vi has = g.target[u] >= 0;
    const vi ready = has & (g.hp[u] > 0.0f) & (g.cooldown[u] <= 0.0f) & ~g.heals[u];
    if (!any(ready)) continue;
    const vi at = pick(has, g.target[u], vi{});
    const vf dx = gather(g.x, at) - g.x[u], dy = gather(g.y, at) - g.y[u];
    const vf reach = (g.range[u] + g.radius[u]) + gather(g.radius, at);
    fired[u] = bits_of(ready & (dx * dx + dy * dy <= reach * reach));
    any_fired |= fired[u];
  }
  if (!any_fired) return;
  for (int u = 0; u < units; ++u) g.taken[u] = g.loss[u] = vf{};
  for (int u = 0; u < units; ++u)
    for (uint32_t left = fired[u]; left; left &= left - 1) attack(w, g, u, __builtin_ctz(left));
  for (int u = 0; u < units; ++u) {
    const vi struck = g.taken[u] > 0.0f;
    uint32_t dead = 0;
    if (any(struck)) {
      g.shield[u] = most(g.shield[u] - g.taken[u], vf{});
      g.hp[u] = most(g.hp[u] - g.loss[u], vf{});
      g.since[u] = pick(struck, vf{}, g.since[u]);
      dead = bits_of(struck & (g.hp[u] <= 0.0f));
    }
    for (uint32_t left = fired[u]; left; left &= left - 1)
      if (w.units[g.type[u][__builtin_ctz(left)]].blast > 0.0f) dead |= left & -left;
    for (; dead; dead &= dead - 1) {
      const int l = __builtin_ctz(dead);
      g.hp[u][l] = g.shield[u][l] = g.energy[u][l] = g.cooldown[u][l] = 0.0f;
      g.target[u][l] = -1;
      g.healing[u][l] = 0;
      forget(w, g, u, l);
    }
  }
}

// Every healer in reach of a damaged patient restores hp for energy, judged before anyone is healed.
inline void heal(const World& w, Group& g) {
  const int units = w.n_allies + w.n_enemies;
  vf amounts[kMaxUnits];
  for (int u = 0; u < units; ++u) {
    amounts[u] = vf{};
    if (!any(g.heals[u])) continue;
    const vi has = (g.target[u] >= 0) & (g.hp[u] > 0.0f) & g.heals[u];
    const vi at = pick(has, g.target[u], vi{});
    const vf dx = gather(g.x, at) - g.x[u], dy = gather(g.y, at) - g.y[u];
    const vf reach = (g.range[u] + g.radius[u]) + gather(g.radius, at);
    const vf missing = gather(g.full_hp, at) - gather(g.hp, at);
    const vi works = has & (dx * dx + dy * dy <= reach * reach) & (missing > 0.0f) & (g.energy[u] > 0.0f) &
                     (g.healing[u] | (g.energy[u] >= w.heal_start));
    amounts[u] = pick(works, least(least(splat(w.heal_step), g.energy[u] * w.heal_per_energy), missing), vf{});
    g.healing[u] = pick(g.heals[u], works, g.healing[u]);
  }
  for (int u = 0; u < units; ++u) {
    for (uint32_t left = bits_of(g.healing[u] & (amounts[u] > 0.0f)); left; left &= left - 1) {
      const int l = __builtin_ctz(left), patient = g.target[u][l];
      const float hp = g.hp[patient][l] + amounts[u][l], full = g.full_hp[patient][l];
      g.hp[patient][l] = hp < full ? hp : full;
    }
    g.energy[u] = most(g.energy[u] - amounts[u] / w.heal_per_energy, vf{});
  }
}

inline void regenerate(const World& w, Group& g) {
  const int units = w.n_allies + w.n_enemies;
  for (int u = 0; u < units; ++u) {
    const vi alive = g.hp[u] > 0.0f;
    g.hp[u] = pick(alive, least(g.hp[u] + g.regeneration[u], g.full_hp[u]), g.hp[u]);
    g.since[u] = least(g.since[u] + w.loops, splat(w.shield_delay));
    if (w.has_shields) {
      const vi grows = alive & (g.since[u] >= w.shield_delay);
      g.shield[u] = pick(grows, least(g.shield[u] + w.shield_step, g.full_shield[u]), g.shield[u]);
    }
    if (w.has_healers) {
      const vi grows = alive & g.heals[u];
      g.energy[u] = pick(grows, least(g.energy[u] + w.energy_step, splat(w.energy_max)), g.energy[u]);
    }
  }
}

inline void tick(const World& w, Group& g) {
  for (int u = 0; u < w.n_allies + w.n_enemies; ++u) g.cooldown[u] = most(g.cooldown[u] - w.loops, vf{});
  choose_targets(w, g);
  if (w.has_healers) choose_patients(w, g);
  walk(w, g);
  push_apart(w, g);
  settle(w, g);
  fire(w, g);
  if (w.has_healers) heal(w, g);
  regenerate(w, g);
}

}  // namespace battle
