"""The C++ form: battle.cpp through ctypes. Structs mirror world.hpp field by field."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marl.envs.battle.config import Config
from marl.envs.battle.layout import own_position, state_size
from marl.envs.battle.tables import DRAWS, REWARDS, Tables
from marl.native import STRICT, load
from marl.types import TimeStep

# Neither flag changes a number: sqrt may not set errno, comparisons may not trap, so that both vectorise.
FLAGS = (*STRICT, "-fno-math-errno", "-fno-trapping-math")

_INTS = (
    "n_allies", "n_enemies", "n_actions", "attack_base", "type_bits", "ally_shields", "enemy_shields",
    "limit", "reward_mode", "random_teams", "cone", "continuing", "obs_last_action", "obs_pathing",
    "obs_height", "obs_timestep", "obs_own_position", "state_last_action", "state_timestep", "obs_size",
    "state_size", "has_healers", "has_air", "has_shields", "n_draws", "scouts",
)  # fmt: skip
_FLOATS = (
    "loops", "shield_step", "shield_delay", "heal_step", "heal_per_energy", "heal_start", "energy_step",
    "energy_max", "spawn_jitter", "cooldown_jitter", "push_cap", "goal_x", "goal_y",
)  # fmt: skip
_POINTERS = (
    "units", "damage", "ally_bit", "enemy_bit", "walk", "height", "way", "places", "teams", "cumulative",
    "directions", "sites",
)  # fmt: skip
STATE = (
    "pos_BU2", "hp_BU", "shield_BU", "energy_BU", "cooldown_BU", "since_hit_BU", "target_BU", "healing_BU",
    "type_BU", "facing_BN", "last_actions_BN", "t_B", "episode_B", "key_B", "goal_B2",
)  # fmt: skip
_OUT = 14  # pointers in struct Out


class _World(ctypes.Structure):
    _fields_ = (
        [(name, c_int32) for name in _INTS]
        + [(name, c_float) for name in _FLOATS]
        + [(name, c_void_p) for name in _POINTERS]
        + [("cone_cosine", c_float)]
    )


class Native:
    """The compiled simulation of one map.

    Raises:
        marl.native.NoCompiler: the library cannot be built here.
    """

    def __init__(self, config: Config, tables: Tables, obs_size: int) -> None:
        self.library = load(Path(__file__).with_name("battle.cpp"), FLAGS)
        self._step = self.library.battle_step
        self._step.restype = c_int64
        self._step.argtypes = (c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int32)
        scenario = tables.map
        arrays = {
            "units": tables.units, "damage": tables.damage, "ally_bit": tables.ally_bit,
            "enemy_bit": tables.enemy_bit, "walk": tables.terrain.walk_XY, "height": tables.terrain.height_XY,
            "way": tables.terrain.way, "places": tables.places, "teams": tables.teams,
            "cumulative": tables.cumulative, "directions": tables.directions,
            "sites": tables.sites,
        }  # fmt: skip
        self._keep = {k: np.ascontiguousarray(v) for k, v in arrays.items() if v is not None}
        ints = {
            "n_allies": scenario.n_allies, "n_enemies": scenario.n_enemies, "n_actions": tables.n_actions,
            "attack_base": tables.attack_base, "type_bits": scenario.type_bits,
            "ally_shields": scenario.ally_shields, "enemy_shields": scenario.enemy_shields,
            "limit": scenario.limit, "reward_mode": REWARDS.index(tables.reward),
            "random_teams": scenario.random_teams, "cone": tables.cone,
            "continuing": config.continuing_episode,
            "obs_last_action": config.obs_last_action, "obs_pathing": config.obs_pathing,
            "obs_height": config.obs_height, "obs_timestep": config.obs_timestep,
            "obs_own_position": own_position(config, tables), "state_last_action": config.state_last_action,
            "state_timestep": config.state_timestep, "obs_size": obs_size,
            "state_size": state_size(config, tables), "has_healers": tables.has_healers,
            "has_air": tables.has_air, "has_shields": tables.has_shields, "n_draws": DRAWS,
            "scouts": scenario.scouts,
        }  # fmt: skip
        pointers = {k: self._keep[k].ctypes.data if k in self._keep else None for k in _POINTERS}
        floats = {name: tables.scalars[name] for name in (*_FLOATS, "cone_cosine")}
        self.world = _World(**{k: int(v) for k, v in ints.items()}, **floats, **pointers)
        self._world = ctypes.addressof(self.world)
        self._out = (c_void_p * _OUT)()
        self._sizes = scenario.n_allies, tables.n_actions, obs_size, state_size(config, tables)

    def bind(self, state: dict[str, Tensor]) -> None:
        """Remember the addresses of the state's tensors, which are changed in place from now on."""
        self._state = (c_void_p * len(STATE))(*(state[name].data_ptr() for name in STATE))

    def step(self, actions_BN: Tensor, threads: int) -> TimeStep:
        """One step of all worlds.

        Args:
            actions_BN: int64 (B, N), contiguous, on the CPU.
            threads: at least 1.
        """
        out = self._outputs(actions_BN.shape[0])
        done = self._step(
            self._world, self._state, self._out, actions_BN.data_ptr(), actions_BN.shape[0], threads
        )
        obs, state, avail, terminated, truncated, alive, t, reward, *final, success, allies, enemies = out
        final_obs, final_state, final_avail = final if done else (obs, state, avail)
        return TimeStep(
            obs_BNO=obs, state_BS=state, avail_BNA=avail, terminated_B=terminated, truncated_B=truncated,
            present_BN=torch.ones_like(alive), alive_BN=alive, t_B=t, reward_B=reward,
            final_obs_BNO=final_obs, final_state_BS=final_state, final_avail_BNA=final_avail,
            info={"success": success, "dead_allies": allies, "dead_enemies": enemies},
        )  # fmt: skip

    def reset(self, envs: int) -> None:
        """Start the episodes whose numbers the state holds."""
        self.library.battle_reset(c_void_p(self._world), self._state, c_int64(envs))

    def observe(self, envs: int) -> TimeStep:
        """The TimeStep of the state as it stands, as after a reset."""
        out = self._outputs(envs)
        for tensor in (out[3], out[4], out[7], *out[11:]):
            tensor.zero_()
        self.library.battle_observe(c_void_p(self._world), self._state, self._out, c_int64(envs))
        return TimeStep(
            obs_BNO=out[0], state_BS=out[1], avail_BNA=out[2], terminated_B=out[3], truncated_B=out[4],
            present_BN=torch.ones_like(out[5]), alive_BN=out[5], t_B=out[6], reward_B=out[7],
            info={"success": out[11], "dead_allies": out[12], "dead_enemies": out[13]},
        )  # fmt: skip

    def _outputs(self, b: int) -> list[Tensor]:
        """Fresh tensors in the order of struct Out, their addresses in `_out`."""
        n, a, o, s = self._sizes
        empty, boolean, whole = torch.empty, torch.bool, torch.int64
        out = [
            empty(b, n, o), empty(b, s), empty(b, n, a, dtype=boolean), empty(b, dtype=boolean),
            empty(b, dtype=boolean), empty(b, n, dtype=boolean), empty(b, dtype=whole), empty(b),
            empty(b, n, o), empty(b, s), empty(b, n, a, dtype=boolean), empty(b, dtype=boolean),
            empty(b, dtype=whole), empty(b, dtype=whole),
        ]  # fmt: skip
        self._out[:] = [tensor.data_ptr() for tensor in out]
        return out
