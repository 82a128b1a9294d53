"""Any environment of MO-Gymnasium, with its vector of rewards: `env=mo_gymnasium env.target=minecart-v0`.

Its objectives have no names there; here they are objective_0, objective_1, ... in its order.

Reference: Felten et al., "A Toolkit for Reliable Benchmarking and Research in Multi-Objective Reinforcement
Learning", NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from marl.foreign import ForeignConfig, ForeignEnv
from marl.foreign.load import Kind


@dataclass(kw_only=True)
class Config(ForeignConfig):
    """`target` is an id of MO-Gymnasium (minecart-v0), module:id, or package.module:factory."""

    kind: ClassVar[Kind] = "mo_gymnasium"

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> ForeignEnv:
        """A batch of copies. Args: threads: unused; `workers` says how many processes step them."""
        return self.open(num_envs=num_envs, device=device, reward="vector")
