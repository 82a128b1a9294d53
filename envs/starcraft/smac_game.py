"""SMAC's own `StarCraft2Env` as one game, where that package is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.envs.starcraft.config import Config
from marl.envs.starcraft.frame import Dot, Frame
from marl.envs.starcraft.orders import legal
from marl.errors import MarlError, require

_RADIUS = 0.5  # map units, in pictures; SMAC does not say. CHOICE


def options(config: Config, seed: int) -> dict[str, Any]:
    """Arguments of StarCraft2Env that mean the same as a Config.

    Raises:
        FieldError: SMAC has no clamped reward.
    """
    require(config.reward != "clamp", "reward", config.reward, "SMAC has none; give abs or engine=pysc2")
    return {
        "map_name": config.map,
        "step_mul": config.step_mul,
        "difficulty": str(config.difficulty),
        "game_version": config.game_version or None,
        "seed": seed,
        "continuing_episode": config.continuing_episode,
        "obs_last_action": config.obs_last_action,
        "obs_pathing_grid": config.obs_pathing,
        "obs_terrain_height": config.obs_height,
        "obs_timestep_number": config.obs_timestep,
        "state_last_action": config.state_last_action,
        "state_timestep_number": config.state_timestep,
        "reward_sparse": config.reward == "sparse",
        "reward_only_positive": config.reward != "signed",
        "reward_scale": config.reward != "sparse",  # sparse: +-1 as it is, as battle has it
    }


class SmacGame:
    """One StarCraft2Env; a `frame.Player`.

    Args:
        config: map and options.
        make: the class.
        name: for messages ("env 3").
    """

    def __init__(self, config: Config, make: Callable[..., Any], *, name: str) -> None:
        options(config, 0)
        self.config, self.name, self._make = config, name, make
        self._env: Any = None
        self.size = (0.0, 0.0)

    def begin(self, seed: int) -> Frame:
        self.close()
        self._env = self._make(**options(self.config, seed))
        self._check_sizes()
        return self.again()

    def _check_sizes(self) -> None:
        spec, info = self.config.spec, self._env.get_env_info()
        ours = {
            "n_agents": spec.n_agents,
            "n_actions": spec.n_actions,
            "obs_shape": spec.obs_size,
            "state_shape": spec.state_size,
            "episode_limit": spec.episode_limit,
        }
        for field, size in ours.items():
            if info[field] != size:
                raise MarlError(
                    f"{self.name}: SMAC's {self.config.map} has {field} {info[field]}, ours {size}: "
                    "install SMAC 1.0.0 (pip install --no-deps git+https://github.com/oxwhirl/smac) "
                    "or set engine=pysc2"
                )

    def again(self) -> Frame:
        self._env.reset()
        self.size = (float(self._env.map_x), float(self._env.map_y))
        return self._look()

    def _look(self) -> Frame:
        self._shown = Frame(
            obs_NO=_float(self._env.get_obs()),
            state_S=_float(self._env.get_state()),
            avail_NA=_float(self._env.get_avail_actions()) > 0,
        )
        return self._shown

    def step(self, actions: list[int]) -> Frame:
        reward, ended, info = self._env.step(legal(actions, self._shown.avail_NA.tolist()))
        if "battle_won" not in info:  # SMAC's sign that the process died and was started anew
            return replace(self._shown, truncated=True)
        truncated = bool(info.get("episode_limit", False))
        return replace(
            self._look(),
            reward=float(reward),
            terminated=bool(ended) and not truncated,
            truncated=truncated,
            success=bool(info["battle_won"]),
            dead_allies=int(info["dead_allies"]),
            dead_enemies=int(info["dead_enemies"]),
        )

    def dots(self) -> list[Dot]:
        sides = (self._env.agents, self._env.enemies)
        return [
            Dot(unit.pos.x, unit.pos.y, _RADIUS, side, unit.health / unit.health_max)
            for side, team in enumerate(sides)
            for unit in team.values()
            if unit.health > 0
        ]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


def _float(rows: Any) -> Tensor:
    return torch.from_numpy(np.array(rows, np.float32))
