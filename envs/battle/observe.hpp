// Observations, state and availability of a group of worlds, feature by feature. observe.py is the torch form.
#pragma once
#include <vector>

#include "tick.hpp"

namespace battle {

struct Scratch {  // feature-major pictures of a group: row f holds feature f of every world
  std::vector<vf> obs, state;
  std::vector<vi> avail;
  vf hp[kMaxUnits], shield[kMaxUnits], one_hot[kMaxUnits][3];  // fractions and type bits
  explicit Scratch(const World& w)
      : obs(w.obs_size * w.n_allies + L), state(w.state_size + L), avail(w.n_actions * w.n_allies + L) {}  // + a square
};

inline vi mask_of(vi m) { return m != 0; }

// Cells ahead: may unit u of lane l stand at (x, y)?
inline bool open_at(const World& w, int layer, float x, float y) {
  if (!(x >= 0.0f && x < kSizeF && y >= 0.0f && y < kSizeF)) return false;
  return layer == 0 || (w.walk[cell_of(x, y)] & layer);
}

inline vi can_move(const World& w, const Group& g, int u, float dx, float dy) {
  const vf x = g.x[u] + dx, y = g.y[u] + dy;
  vi open = (x >= 0.0f) & (x < kSizeF) & (y >= 0.0f) & (y < kSizeF);
  if (w.way) {
    for (uint32_t left = bits_of(open); left; left &= left - 1) {
      const int l = __builtin_ctz(left);
      open[l] = -open_at(w, static_cast<int>(w.units[g.type[u][l]].layer), x[l], y[l]);
    }
  }
  return open;
}

// May unit `from` see (or reach) the offset: within the view cone, where there is one.
inline vi in_cone(const World& w, const Group& g, int from, vf dx, vf dy, vf d2) {
  if (!w.cone) return ~vi{};
  vf cx, cy;
  for (int l = 0; l < L; ++l) {
    cx[l] = w.directions[2 * g.facing[from][l]];
    cy[l] = w.directions[2 * g.facing[from][l] + 1];
  }
  return dx * cx + dy * cy >= root(d2) * w.cone_cosine;
}

// Which actions each ally may take; dead: only no-op.
inline void availability(const World& w, const Group& g, std::vector<vi>& avail) {
  const int n = w.n_allies;
  for (int i = 0; i < n; ++i) {
    vi* row = avail.data() + static_cast<size_t>(i) * w.n_actions;
    const vi alive = g.hp[i] > 0.0f;
    row[0] = ~alive;
    row[1] = alive;
    row[2] = alive & can_move(w, g, i, 0.0f, 1.0f);
    row[3] = alive & can_move(w, g, i, 0.0f, -1.0f);
    row[4] = alive & can_move(w, g, i, 1.0f, 0.0f);
    row[5] = alive & can_move(w, g, i, -1.0f, 0.0f);
    for (int k = 6; k < w.attack_base; ++k) row[k] = alive;  // look actions
    for (int k = 0; k < w.n_enemies; ++k) {
      vi allowed = {};
      const vf shoot2 = g.shoot[i] * g.shoot[i];
      const int e = n + k;
      if (!w.has_healers || any(~g.heals[i])) {
        const vf dx = g.x[e] - g.x[i], dy = g.y[e] - g.y[i], d2 = dx * dx + dy * dy;
        allowed = (g.hp[e] > 0.0f) & (d2 <= shoot2) & in_cone(w, g, i, dx, dy, d2);
      }
      if (w.has_healers && any(g.heals[i])) {
        vi heals = {};
        if (k < n && k != i) {
          const vf dx = g.x[k] - g.x[i], dy = g.y[k] - g.y[i], d2 = dx * dx + dy * dy;
          heals = (g.hp[k] > 0.0f) & ~g.heals[k] & (d2 <= shoot2) & in_cone(w, g, i, dx, dy, d2);
        }
        allowed = pick(g.heals[i], heals, allowed);
      }
      row[w.attack_base + k] = alive & allowed;
    }
  }
}

inline vf sample_ground(const World& w, const Group& g, int u, float dx, float dy, bool height) {
  vf out;
  for (int l = 0; l < L; ++l) {
    const float x = static_cast<float>(static_cast<int>(g.x[u][l])) + dx;
    const float y = static_cast<float>(static_cast<int>(g.y[u][l])) + dy;
    const bool inside = x >= 0.0f && x < kSizeF && y >= 0.0f && y < kSizeF;
    if (!inside) {
      out[l] = 1.0f;
    } else {
      out[l] = height ? w.height[cell_of(x, y)] : static_cast<float>(w.walk[cell_of(x, y)] & 1);
    }
  }
  return out;
}

// SMAC's nine sample points, its move amount being 2: axes at 4, diagonals at 2, itself last.
constexpr float kSamples[9][2] = {{0, 4}, {0, -4}, {4, 0}, {-4, 0}, {2, 2}, {-2, -2}, {2, -2}, {-2, 2}, {0, 0}};

inline vf one_if(vi mask) { return pick(mask, splat(1.0f), vf{}); }

inline vf* put_unit(const World& w, const Scratch& s, int u, bool shields, vi seen, vf* out) {
  *out++ = pick(seen, s.hp[u], vf{});
  if (shields) *out++ = pick(seen, s.shield[u], vf{});
  for (int b = 0; b < w.type_bits; ++b) *out++ = pick(seen, s.one_hot[u][b], vf{});
  return out;
}

inline vf* put_relative(const World& w, const Group& g, const Scratch& s, int i, int u, bool shields, vi shown,
                        vf* out) {
  const vf dx = g.x[u] - g.x[i], dy = g.y[u] - g.y[i], d2 = dx * dx + dy * dy, sight = g.sight[i];
  const vi seen = (g.hp[i] > 0.0f) & (g.hp[u] > 0.0f) & (d2 < sight * sight) & in_cone(w, g, i, dx, dy, d2);
  *out++ = one_if(seen & shown);
  *out++ = pick(seen, root(d2) / sight, vf{});
  *out++ = pick(seen, dx / sight, vf{});
  *out++ = pick(seen, dy / sight, vf{});
  return put_unit(w, s, u, shields, seen, out);
}

inline vi seen_by(const World& w, const Group& g, int i, int u) {
  const vf dx = g.x[u] - g.x[i], dy = g.y[u] - g.y[i], d2 = dx * dx + dy * dy;
  return (g.hp[i] > 0.0f) & (g.hp[u] > 0.0f) & (d2 < g.sight[i] * g.sight[i]) & in_cone(w, g, i, dx, dy, d2);
}

inline void observe_agent(const World& w, const Group& g, Scratch& s, int i) {
  const int n = w.n_allies;
  const vi* avail = s.avail.data() + static_cast<size_t>(i) * w.n_actions;
  const vi alive = g.hp[i] > 0.0f;
  vf* out = s.obs.data() + static_cast<size_t>(i) * w.obs_size;
  for (int k = 2; k < 6; ++k) *out++ = one_if(avail[k]);
  if (w.obs_pathing)
    for (int k = 0; k < 8; ++k)
      *out++ = pick(alive, sample_ground(w, g, i, kSamples[k][0], kSamples[k][1], false), vf{});
  if (w.obs_height)
    for (const auto& at : kSamples) *out++ = pick(alive, sample_ground(w, g, i, at[0], at[1], true), vf{});
  for (int k = 0; k < w.n_enemies; ++k)
    out = put_relative(w, g, s, i, n + k, w.enemy_shields, avail[w.attack_base + k], out);
  for (int a = 0; a < n; ++a) {
    if (a == i) continue;
    out = put_relative(w, g, s, i, a, w.ally_shields, ~vi{}, out);
    if (w.obs_last_action) {
      const vi seen = seen_by(w, g, i, a);
      for (int k = 0; k < w.n_actions; ++k) *out++ = one_if(seen & (g.last[a] == splat(k)));
    }
  }
  *out++ = pick(alive, s.hp[i], vf{});
  if (w.ally_shields) *out++ = pick(alive, s.shield[i], vf{});
  if (w.obs_own_position) {
    *out++ = pick(alive, g.x[i] / kSizeF, vf{});
    *out++ = pick(alive, g.y[i] / kSizeF, vf{});
  }
  if (w.cone) {
    vf cx, cy;
    for (int l = 0; l < L; ++l) {
      cx[l] = w.directions[2 * g.facing[i][l]];
      cy[l] = w.directions[2 * g.facing[i][l] + 1];
    }
    *out++ = pick(alive, cx, vf{});
    *out++ = pick(alive, cy, vf{});
  }
  for (int b = 0; b < w.type_bits; ++b) *out++ = pick(alive, s.one_hot[i][b], vf{});
  if (w.obs_timestep) *out++ = __builtin_convertvector(g.t, vf) / static_cast<float>(w.limit);
}

inline void observe_state(const World& w, const Group& g, Scratch& s) {
  const int n = w.n_allies, units = n + w.n_enemies;
  const float middle = kSizeF * 0.5f;
  vf* out = s.state.data();
  for (int u = 0; u < units; ++u) {
    const vi alive = g.hp[u] > 0.0f;
    *out++ = pick(alive, s.hp[u], vf{});
    if (u < n) *out++ = pick(alive, pick(g.heals[u], g.energy[u], g.cooldown[u]) / g.max_cooldown[u], vf{});
    *out++ = pick(alive, (g.x[u] - middle) / kSizeF, vf{});
    *out++ = pick(alive, (g.y[u] - middle) / kSizeF, vf{});
    if (u < n ? w.ally_shields : w.enemy_shields) *out++ = pick(alive, s.shield[u], vf{});
    if (w.cone && u < n) {
      vf cx, cy;
      for (int l = 0; l < L; ++l) {
        cx[l] = w.directions[2 * g.facing[u][l]];
        cy[l] = w.directions[2 * g.facing[u][l] + 1];
      }
      *out++ = pick(alive, cx, vf{});
      *out++ = pick(alive, cy, vf{});
    }
    for (int b = 0; b < w.type_bits; ++b) *out++ = pick(alive, s.one_hot[u][b], vf{});
  }
  if (w.state_last_action)
    for (int i = 0; i < n; ++i)
      for (int k = 0; k < w.n_actions; ++k) *out++ = one_if(g.last[i] == splat(k));
  if (w.state_timestep) *out++ = __builtin_convertvector(g.t, vf) / static_cast<float>(w.limit);
}

// Fill the scratch for a group as it stands.
inline void observe(const World& w, const Group& g, Scratch& s) {
  const int n = w.n_allies, units = n + w.n_enemies;
  for (int u = 0; u < units; ++u) {
    s.hp[u] = g.hp[u] / g.full_hp[u];
    s.shield[u] = pick(g.full_shield[u] > 0.0f, g.shield[u] / g.full_shield[u], vf{});
    for (int b = 0; b < w.type_bits; ++b)
      for (int l = 0; l < L; ++l)
        s.one_hot[u][b][l] = (u < n ? w.ally_bit : w.enemy_bit)[g.type[u][l]] == b ? 1.0f : 0.0f;
  }
  availability(w, g, s.avail);
  for (int i = 0; i < n; ++i) observe_agent(w, g, s, i);
  observe_state(w, g, s);
}

}  // namespace battle
