"""`Battle`: the batched env that ties tables, layout and one of the two simulations together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl import tree
from marl.envs.battle import tables as tables_
from marl.envs.battle.config import Config
from marl.envs.battle.layout import spec
from marl.envs.battle.native import Native
from marl.envs.battle.rules import TorchForm
from marl.envs.battle.units import UNITS
from marl.errors import MarlError, require
from marl.native import native_form
from marl.rng import Rng
from marl.types import TimeStep

_WORK_PER_THREAD = 10_000  # unit pairs of a step below which a second thread costs more than it saves


class Battle:
    """B battles of one map on one device; see the package docstring for `state`.

    Args:
        config: map and options.
        num_envs: B.
        device: of all tensors.
        threads: upper limit for the C++ form.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device, threads: int) -> None:
        require(num_envs >= 1, "num_envs", num_envs, "give at least 1")
        require(threads >= 1, "threads", threads, "give at least 1")
        self.config, self.num_envs, self.device = config, num_envs, device
        self.tables = tables_.build(config)
        self.map, self.terrain = self.tables.map, self.tables.terrain
        self.spec = spec(config, self.tables)
        self.units = UNITS
        self.unit_names = tuple(unit.name for unit in UNITS)
        self.unit_radius = torch.tensor([unit.radius for unit in UNITS], device=device)
        self.state = self._empty_state()
        self._native = native_form(
            config.form, device, lambda: Native(config, self.tables, self.spec.obs_size)
        )
        if self._native:
            self._native.bind(self.state)
        self._torch = TorchForm(config, self.tables, device)
        self._shape = (num_envs, self.map.n_allies)
        units = self.map.n_allies + self.map.n_enemies
        self.threads = max(1, min(threads, num_envs // 16, num_envs * units * units // _WORK_PER_THREAD))

    def _empty_state(self) -> dict[str, Tensor]:
        rows, n, units = self.num_envs, self.map.n_allies, self.map.n_allies + self.map.n_enemies

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=self.device)

        whole = torch.int64
        return {
            "pos_BU2": zeros(units, 2),
            "hp_BU": zeros(units),
            "shield_BU": zeros(units),
            "energy_BU": zeros(units),
            "cooldown_BU": zeros(units),
            "since_hit_BU": zeros(units),
            "target_BU": zeros(units, dtype=whole) - 1,
            "healing_BU": zeros(units, dtype=torch.bool),
            "type_BU": zeros(units, dtype=whole),
            "facing_BN": zeros(n, dtype=whole),
            "last_actions_BN": zeros(n, dtype=whole) - 1,
            "t_B": zeros(dtype=whole),
            "episode_B": zeros(dtype=whole),
            "key_B": zeros(dtype=whole),
            "goal_B2": zeros(2),
        }

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere; row b is keyed by ``rng.stream("env", num_envs)`` row b."""
        self.state["key_B"].copy_(rng.stream("env", self.num_envs, self.device).key_B)
        self.state["episode_B"].zero_()
        if self._native:
            self._native.reset(self.num_envs)
        else:
            self._torch.reset(self.state)
        return self.observe()

    def observe(self) -> TimeStep:
        """The TimeStep of the state as it stands, as after a reset."""
        return self._native.observe(self.num_envs) if self._native else self._torch.observe(self.state)

    def step(self, actions_BN: Tensor) -> TimeStep:
        """Eight game loops of every battle; an unavailable action is carried out as stop.

        DEVIATION: SMAC stops the program on an unavailable action; a batch cannot afford to look.

        Args:
            actions_BN: int64 (B, N).
        """
        if actions_BN.shape != self._shape or actions_BN.dtype != torch.int64:
            raise MarlError(
                f"actions of shape {tuple(actions_BN.shape)} and {actions_BN.dtype}: give int64 {self._shape}"
            )
        if self._native:
            return self._native.step(actions_BN.contiguous(), self.threads)
        return self._torch.step(self.state, actions_BN)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the whole state."""
        return {name: value.clone() for name, value in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a copied state, bit for bit."""
        tree.copy_into(self.state, state, "battle")

    def render(self, index: int = 0) -> np.ndarray:
        """RGB picture (H, W, 3), uint8."""
        from marl.envs.battle.render import draw

        return draw(self, index)
