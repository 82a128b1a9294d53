"""Any single-agent Gymnasium environment as a team of one: `env=gymnasium env.target=CartPole-v1`.

Reference: Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from marl.foreign import ForeignConfig, ForeignEnv
from marl.foreign.load import Kind


@dataclass(kw_only=True)
class Config(ForeignConfig):
    """`target` is a registered id (CartPole-v1), module:id, or package.module:factory."""

    kind: ClassVar[Kind] = "gymnasium"

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> ForeignEnv:
        """A batch of copies. Args: threads: unused; `workers` says how many processes step them."""
        return self.open(num_envs=num_envs, device=device, reward="sum")
