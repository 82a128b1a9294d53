"""Any PettingZoo ParallelEnv as a world: `env=pettingzoo env.target=package.module:factory`.

Agents may have unequal observations and actions, and may die or join in an episode: how each is passed on
stands in docs/foreign_environments.md.

Reference: Terry et al., "PettingZoo: Gym for Multi-Agent Reinforcement Learning", NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from marl.errors import require
from marl.foreign import ForeignConfig, ForeignEnv
from marl.foreign.env import Reward
from marl.foreign.load import Kind


@dataclass(kw_only=True)
class Config(ForeignConfig):
    """`target` is package.module:factory, where factory(**kwargs) returns a ParallelEnv, or an id."""

    kind: ClassVar[Kind] = "pettingzoo"

    reward: Reward = (
        "agent"  # agent: one each; sum or mean (over agents that acted): one for the team; CHOICE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("agent", "sum", "mean")
        require(self.reward in known, "reward", self.reward, f"give {', '.join(known)}")

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> ForeignEnv:
        """A batch of copies. Args: threads: unused; `workers` says how many processes step them."""
        return self.open(num_envs=num_envs, device=device, reward=self.reward)
