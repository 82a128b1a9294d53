// The C++ form of cooperative navigation: entry point for ctypes (native.py). Symbols as in torch_form.py.
#include <atomic>
#include <cstring>
#include <vector>

#include "lanes.hpp"
#include "rng.hpp"
#include "threads.hpp"

namespace {

using marl::L, marl::Lanes, marl::least, marl::pick, marl::root, marl::splat, marl::vf, marl::vi;

// torch_form.py has the sources. Squares of thresholds are rounded once, as torch rounds them.
constexpr float kDt = 0.1f, kKeep = 0.75f, kPush = 5.0f, kReach = 0.3f, kStiffness = 100.0f, kMargin = 1e-3f,
                kTiny = 1e-12f, kReach2 = static_cast<float>(0.3 * 0.3), kCover2 = static_cast<float>(0.1 * 0.1);

struct World {
  int32_t agents, limit, continuous, terminate;
  float team, own;  // 1 - local_ratio, local_ratio
};

struct State {  // tensors of the package docstring
  float *pos, *vel, *landmark;
  int64_t *collisions, *t, *episode, *key;
};

struct Out {  // tensors of a TimeStep; final_obs is filled only if an episode ended
  float *obs, *reward, *final_obs;
  uint8_t *terminated, *truncated, *success;
  int64_t *t, *covered, *collisions;
};

struct Group {  // worlds in flight; one vector per agent or landmark
  explicit Group(int n) : n(n), all(9 * n + 6 * n * n + L) {
    vf* at = all.data();
    for (vf** field : {&x, &y, &vx, &vy, &mx, &my, &fx, &fy, &reward}) {
      *field = at;
      at += n;
    }
    rows = at;
  }
  int n;
  std::vector<vf> all;
  vf *x, *y, *vx, *vy, *mx, *my, *fx, *fy, *reward;
  vf* rows;  // observations: (N, 6N), padded to a whole square of lanes
};

void load(const State& s, Lanes lanes, Group& g) {
  for (int l = 0; l < L; ++l) {
    const int64_t b = lanes.first + (l < lanes.count ? l : 0);  // spare lanes repeat the first world
    const float *pos = s.pos + b * 2 * g.n, *vel = s.vel + b * 2 * g.n, *mark = s.landmark + b * 2 * g.n;
    for (int i = 0; i < g.n; ++i) {
      g.x[i][l] = pos[2 * i];
      g.y[i][l] = pos[2 * i + 1];
      g.vx[i][l] = vel[2 * i];
      g.vy[i][l] = vel[2 * i + 1];
      g.mx[i][l] = mark[2 * i];
      g.my[i][l] = mark[2 * i + 1];
    }
  }
}

void store(const State& s, Lanes lanes, const Group& g, uint32_t done) {
  for (int l = 0; l < lanes.count; ++l) {
    const int64_t b = lanes.first + l;
    float *pos = s.pos + b * 2 * g.n, *vel = s.vel + b * 2 * g.n, *mark = s.landmark + b * 2 * g.n;
    for (int i = 0; i < g.n; ++i) {
      pos[2 * i] = g.x[i][l];
      pos[2 * i + 1] = g.y[i][l];
      vel[2 * i] = g.vx[i][l];
      vel[2 * i + 1] = g.vy[i][l];
    }
    if (!(done >> l & 1u)) continue;
    for (int i = 0; i < g.n; ++i) {
      mark[2 * i] = g.mx[i][l];
      mark[2 * i + 1] = g.my[i][l];
    }
  }
}

// What the agents choose: 0 none, 1 left, 2 right, 3 down, 4 up.
void choose(const int64_t* actions, Lanes lanes, Group& g) {
  constexpr float kEast[5] = {0, -kPush, kPush, 0, 0}, kNorth[5] = {0, 0, 0, -kPush, kPush};
  for (int l = 0; l < lanes.count; ++l) {
    const int64_t* chosen = actions + (lanes.first + l) * g.n;
    for (int i = 0; i < g.n; ++i) {
      const int64_t action = chosen[i] >= 0 && chosen[i] < 5 ? chosen[i] : 0;
      g.fx[i][l] = kEast[action];
      g.fy[i][l] = kNorth[action];
    }
  }
}

inline float clip(float a) { return a < 0.0f ? 0.0f : (a > 1.0f ? 1.0f : a); }  // a NaN passes, as in torch

// The same with a strength for each of the five.
void choose(const float* actions, Lanes lanes, Group& g) {
  for (int l = 0; l < lanes.count; ++l) {
    const float* a = actions + (lanes.first + l) * g.n * 5;
    for (int i = 0; i < g.n; ++i, a += 5) {
      g.fx[i][l] = kPush * (clip(a[2]) - clip(a[1]));
      g.fy[i][l] = kPush * (clip(a[4]) - clip(a[3]));
    }
  }
}

// log(1 + exp(x)) = max(x, 0) + log(1 + u), u = exp(-|x|), and log(1 + u) = 2 artanh(s), s = u / (2 + u) <= 1/3:
// the series up to s^13 is right to 1e-8.
vf softplus(vf x) {
  const vf u = marl::exp(pick(x < 0.0f, x, -x)), s = u / (2.0f + u), z = s * s;
  vf sum = splat(1.0f / 13.0f);
  for (const float term : {1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f}) sum = sum * z + term;
  return pick(x > 0.0f, x, vf{}) + 2.0f * s * sum;
}

void move(Group& g) {
  for (int i = 0; i < g.n; ++i) {
    for (int j = i + 1; j < g.n; ++j) {
      const vf dx = g.x[i] - g.x[j], dy = g.y[i] - g.y[j], d = root(dx * dx + dy * dy);
      const vf depth = kMargin * softplus((kReach - d) / kMargin);
      const vf force = kStiffness * depth / pick(d < kTiny, splat(kTiny), d);
      g.fx[i] += dx * force;
      g.fy[i] += dy * force;
      g.fx[j] -= dx * force;
      g.fy[j] -= dy * force;
    }
  }
  for (int i = 0; i < g.n; ++i) {
    g.x[i] += g.vx[i] * kDt;
    g.y[i] += g.vy[i] * kDt;
    g.vx[i] = g.vx[i] * kKeep + g.fx[i] * kDt;
    g.vy[i] = g.vy[i] * kKeep + g.fy[i] * kDt;
  }
}

// Rewards into `g.reward`; how many landmarks are covered, and how many pairs touch.
void judge(const World& w, Group& g, vi& covered, vi& touching) {
  vf distance = {};
  covered = touching = vi{};
  for (int i = 0; i < g.n; ++i) g.reward[i] = vf{};
  for (int j = 0; j < g.n; ++j) {
    vf nearest2;
    for (int i = 0; i < g.n; ++i) {
      const vf dx = g.x[i] - g.mx[j], dy = g.y[i] - g.my[j], d2 = dx * dx + dy * dy;
      nearest2 = i == 0 ? d2 : least(d2, nearest2);
    }
    distance += root(nearest2);
    covered -= nearest2 < kCover2;
    for (int i = 0; i < j; ++i) {
      const vf dx = g.x[i] - g.x[j], dy = g.y[i] - g.y[j];
      const vi near = dx * dx + dy * dy < kReach2;
      const vf one = pick(near, splat(1.0f), vf{});
      touching -= near;
      g.reward[i] += one;
      g.reward[j] += one;
    }
  }
  for (int i = 0; i < g.n; ++i) g.reward[i] = -w.team * distance - w.own * g.reward[i];
}

void observe(Group& g) {
  vf* row = g.rows;
  for (int i = 0; i < g.n; ++i) {
    *row++ = g.vx[i];
    *row++ = g.vy[i];
    *row++ = g.x[i];
    *row++ = g.y[i];
    for (int j = 0; j < g.n; ++j) {
      *row++ = g.mx[j] - g.x[i];
      *row++ = g.my[j] - g.y[i];
    }
    for (int j = 0; j < g.n; ++j) {
      if (j == i) continue;
      *row++ = g.x[j] - g.x[i];
      *row++ = g.y[j] - g.y[i];
    }
    for (int k = 0; k < 2 * (g.n - 1); ++k) *row++ = vf{};
  }
}

void spawn(Group& g, int l, uint64_t key, int64_t episode) {
  const uint64_t stream = marl::fold(key, static_cast<uint64_t>(episode));
  const auto draw = [stream](int k) { return marl::uniform(stream, static_cast<uint64_t>(k)) * 2.0f - 1.0f; };
  for (int i = 0; i < g.n; ++i) {
    g.x[i][l] = draw(2 * i);
    g.y[i][l] = draw(2 * i + 1);
    g.vx[i][l] = g.vy[i][l] = 0.0f;
    g.mx[i][l] = draw(2 * (g.n + i));
    g.my[i][l] = draw(2 * (g.n + i) + 1);
  }
}

// Scalars of a step; returns the lanes whose episode ended.
uint32_t conclude(const World& w, const State& s, const Out& o, Lanes lanes, const Group& g, vi covered, vi touching) {
  uint32_t done = 0;
  for (int l = 0; l < lanes.count; ++l) {
    const int64_t b = lanes.first + l, t = s.t[b] + 1, collisions = s.collisions[b] + touching[l];
    const bool success = covered[l] == g.n, limit = t >= w.limit, won = success && !limit && w.terminate;
    o.success[b] = success;
    o.truncated[b] = limit;
    o.terminated[b] = won;
    o.covered[b] = covered[l];
    o.collisions[b] = collisions;
    const bool over = limit || won;
    s.collisions[b] = over ? 0 : collisions;
    o.t[b] = s.t[b] = over ? 0 : t;
    s.episode[b] += over;
    for (int i = 0; i < g.n; ++i) o.reward[b * g.n + i] = g.reward[i][l];
    done |= static_cast<uint32_t>(over) << l;
  }
  return done;
}

template <class Actions>
uint32_t step_group(const World& w, const State& s, const Out& o, const Actions* actions, Lanes lanes, Group& g) {
  const int width = 6 * g.n * g.n;
  vi covered, touching;
  load(s, lanes, g);
  choose(actions, lanes, g);
  move(g);
  judge(w, g, covered, touching);
  const uint32_t done = conclude(w, s, o, lanes, g, covered, touching);
  observe(g);
  marl::write_rows(g.rows, width, lanes, marl::all_of(lanes), done ? o.final_obs : o.obs);
  if (done) {
    for (uint32_t left = done; left; left &= left - 1) {
      const int l = __builtin_ctz(left);
      spawn(g, l, static_cast<uint64_t>(s.key[lanes.first + l]), s.episode[lanes.first + l]);
    }
    observe(g);
    marl::write_rows(g.rows, width, lanes, marl::all_of(lanes), o.obs);
  }
  store(s, lanes, g, done);
  return done;
}

// final_obs of the groups in which no episode ended.
void copy_finals(const World& w, const Out& o, int64_t envs) {
  const int64_t width = 6 * w.agents * w.agents;
  for (int64_t first = 0; first < envs; first += L) {
    const int64_t end = first + L < envs ? first + L : envs;
    bool done = false;
    for (int64_t b = first; b < end; ++b) done |= o.terminated[b] || o.truncated[b];
    if (!done)
      std::memcpy(o.final_obs + first * width, o.obs + first * width, sizeof(float) * width * (end - first));
  }
}

template <class Actions>
int64_t step(const World& w, const State& s, const Out& o, const Actions* actions, int64_t envs, int threads) {
  std::atomic<bool> ended{false};
  marl::split((envs + L - 1) / L, threads, [&](int, int64_t from, int64_t to) {
    Group g(w.agents);
    uint32_t any = 0;
    for (int64_t k = from; k < to; ++k) {
      const int64_t left = envs - k * L;
      any |= step_group(w, s, o, actions, Lanes{k * L, static_cast<int>(left < L ? left : L)}, g);
    }
    if (any) ended = true;
  });
  if (ended) copy_finals(w, o, envs);
  return ended;
}

}  // namespace

// One step of all worlds. Returns 1 if an episode ended, else 0 (and final_obs is not filled).
// actions: int64 (B, N), or float32 (B, N, 5) when w->continuous.
extern "C" int64_t navigation_step(const World* w, const State* s, const Out* o, const void* actions, int64_t envs,
                                   int threads) {
  if (w->continuous) return step(*w, *s, *o, static_cast<const float*>(actions), envs, threads);
  return step(*w, *s, *o, static_cast<const int64_t*>(actions), envs, threads);
}
