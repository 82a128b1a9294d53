// What crosses from Python (native.py mirrors these structs field by field) and the scratch of a group.
#pragma once
#include <cstdint>

#include "lanes.hpp"

namespace battle {

using marl::all_of, marl::any, marl::bits_of, marl::gather, marl::L, marl::Lanes, marl::least, marl::most, marl::pick,
    marl::root, marl::splat, marl::transpose, marl::vf, marl::vi, marl::write_rows;

constexpr int kMaxUnits = 72;  // 2c_vs_64zg has 66
constexpr int kTypes = 13;     // rows of units.UNITS
constexpr uint64_t kSites = 12;  // rows of tables.sites
constexpr int kSize = 32;      // maps.SIZE
constexpr float kSizeF = 32.0f;

// Columns of the unit table; native.py and torch_form.py read the same table (tables.py).
struct Unit {
  float radius, step, range, scan2, cooldown, hp, shield, armour, regeneration, air, hits_air, heals, blast,
      ahead, across, hits, max_cooldown, sight, shoot, layer, energy;
};

struct World {  // constant
  int32_t n_allies, n_enemies, n_actions, attack_base, type_bits, ally_shields, enemy_shields, limit, reward_mode,
      random_teams, cone, continuing, obs_last_action, obs_pathing, obs_height, obs_timestep, obs_own_position,
      state_last_action, state_timestep, obs_size, state_size, has_healers, has_air, has_shields, n_draws, scouts;
  float loops, shield_step, shield_delay, heal_step, heal_per_energy, heal_start, energy_step, energy_max,
      spawn_jitter, cooldown_jitter, push_cap, goal_x, goal_y;
  const Unit* units;           // (kTypes)
  const float* damage;         // (kTypes attacker, kTypes victim): points per hit, bonus included
  const int32_t* ally_bit;     // (kTypes) position in the type one-hot
  const int32_t* enemy_bit;    // (kTypes)
  const uint8_t* walk;         // (kSize, kSize)
  const float* height;         // (kSize, kSize)
  const int16_t* way;          // (cells, cells), null on flat ground
  const float* places;         // (U, 2) starting places of fixed teams, or offsets of formations
  const int32_t* teams;        // (U) types of fixed teams; the first 3 are the drawn types of random ones
  const float* cumulative;     // (2) cumulative weights of random teams
  const float* directions;     // (12, 2) of the view cone
  const float* sites;          // (kSites, 2) where scouts and enemies may start
  float cone_cosine;
};

struct State {  // tensors of the package docstring
  float *pos, *hp, *shield, *energy, *cooldown, *since_hit;
  int64_t* target;
  uint8_t* healing;
  int64_t *type, *facing, *last_actions, *t, *episode, *key;
  float* goal;
};

struct Out {  // tensors of a TimeStep
  float *obs, *state;
  uint8_t *avail, *terminated, *truncated, *alive;
  int64_t* t;
  float *reward, *final_obs, *final_state;
  uint8_t* final_avail;
  uint8_t* success;
  int64_t *dead_allies, *dead_enemies;
};

struct Group {  // worlds in flight
  vf x[kMaxUnits], y[kMaxUnits], hp[kMaxUnits], shield[kMaxUnits], energy[kMaxUnits], cooldown[kMaxUnits],
      since[kMaxUnits];
  vi target[kMaxUnits], healing[kMaxUnits], type[kMaxUnits];
  vi facing[kMaxUnits], last[kMaxUnits];  // allies only
  vi t;
  vf goal_x, goal_y;
  // constants of each unit's type
  vf radius[kMaxUnits], step[kMaxUnits], range[kMaxUnits], scan2[kMaxUnits], full_cooldown[kMaxUnits],
      full_hp[kMaxUnits], full_shield[kMaxUnits], regeneration[kMaxUnits], max_cooldown[kMaxUnits],
      sight[kMaxUnits], shoot[kMaxUnits];
  vi air[kMaxUnits], hits_air[kMaxUnits], heals[kMaxUnits];
  // orders of the allies in this step
  vi moving[kMaxUnits];
  vf to_x[kMaxUnits], to_y[kMaxUnits];
  // within a tick
  vf new_x[kMaxUnits], new_y[kMaxUnits], push_x[kMaxUnits], push_y[kMaxUnits], walk_step[kMaxUnits],
      taken[kMaxUnits], loss[kMaxUnits];
};

}  // namespace battle
