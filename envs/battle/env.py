"""`Battle`: the batched env that ties spawning, simulation and layout together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl.envs.battle.config import Config
from marl.envs.battle.maps import find
from marl.envs.battle.units import UNITS
from marl.rng import Rng
from marl.types import EnvSpec, TimeStep


class Battle:
    """B battles of one map on one device; see the package docstring for `state`."""

    spec: EnvSpec

    def __init__(self, config: Config, *, num_envs: int, device: torch.device, threads: int) -> None:
        self.config, self.num_envs, self.device, self.threads = config, num_envs, device, threads
        self.map = find(config.map)
        self.units = UNITS
        self.unit_names = tuple(unit.name for unit in UNITS)
        self.unit_radius = torch.tensor([unit.radius for unit in UNITS], device=device)
        self.state: dict[str, Tensor] = {}

    def reset(self, rng: Rng) -> TimeStep:
        raise NotImplementedError

    def step(self, actions_BN: Tensor) -> TimeStep:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            self.state[name].copy_(value)

    def render(self, index: int = 0) -> np.ndarray:
        from marl.envs.battle.render import draw

        return draw(self, index)
