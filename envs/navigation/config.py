"""Config of cooperative navigation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from marl.config import QUIET
from marl.errors import require

if TYPE_CHECKING:
    from marl.envs.navigation.env import Navigation


@dataclass(kw_only=True)
class Config:
    """Cooperative navigation; the defaults are those of mpe2.simple_spread_v3 (called MPE2 below)."""

    n_agents: int = 3  # N agents and N landmarks, >= 1; MPE2
    local_ratio: float = (
        0.5  # weight in [0, 1] of an agent's own collisions against the team's distance; MPE2
    )
    # own: instead of MPE2's mixture an agent earns minus its distance to the nearest landmark, minus 1 for
    # every agent that it touches: nothing of its reward is another's. CHOICE, for fairness within a team.
    reward: Literal["own"] | None = field(default=None, metadata=QUIET)
    limit: int = 25  # steps after which an episode is cut off, >= 1; MPE2's max_cycles
    actions: Literal["discrete", "continuous"] = "discrete"  # 5 choices, or Box(0, 1, 5); MPE2
    terminate_on_success: bool = False  # an episode ends once every landmark is covered; MPE2
    form: Literal["auto", "torch", "native"] = "auto"  # auto: C++ on the CPU, torch elsewhere

    def __post_init__(self) -> None:
        require(self.n_agents >= 1, "n_agents", self.n_agents, "give an integer >= 1")
        require(0 <= self.local_ratio <= 1, "local_ratio", self.local_ratio, "give a number in [0, 1]")
        require(self.limit >= 1, "limit", self.limit, "give an integer >= 1")
        kinds = ("discrete", "continuous")
        require(self.actions in kinds, "actions", self.actions, "give discrete or continuous")
        require(self.reward in (None, "own"), "reward", self.reward, "give own, or null for MPE2's")
        require(self.form in ("auto", "torch", "native"), "form", self.form, "give auto, torch or native")

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> Navigation:
        """A batch of worlds.

        Args:
            num_envs: B, at least 1.
            device: where all tensors live; the C++ form needs the CPU.
            threads: upper limit of threads of the C++ form, at least 1.
        """
        from marl.envs.navigation.env import Navigation

        return Navigation(self, num_envs=num_envs, device=torch.device(device), threads=threads)
