"""Config of the junctions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from marl.envs.traffic_junction.geometry import LEVELS
from marl.errors import require

if TYPE_CHECKING:
    from marl.envs.traffic_junction.env import TrafficJunction


@dataclass(kw_only=True)
class Config:
    """A junction with its options; fields that are None take the level's value (geometry.py)."""

    level: Literal["easy", "medium", "hard"] = "easy"  # roads, routes, cars; as IC3Net's code
    vision: int = 0  # v >= 0: a car sees (2v+1)^2 cells around itself; 0 in IC3Net's published commands
    rules: Literal["ic3net", "commnet"] = "ic3net"  # commnet: a crash costs 5, cars vanish on their last cell
    limit: int | None = None  # steps of an episode, >= 1; None: 20, 40, 80
    p_start: float | None = None  # arrivals per point and step before the curriculum; None: 0.1, 0.05, 0.02
    p_end: float | None = None  # the same after it, and in evaluation; None: 0.3, 0.2, 0.05
    # Team steps of the training run between which the rate grows; 0 and 0: it is p_end at once. CHOICE:
    # epochs 250 and 1250 of IC3Net's 2000, at 1000 steps each (80,000 there): for runs of two million steps.
    curriculum_start: int = 250_000
    curriculum_end: int = 1_250_000

    def __post_init__(self) -> None:
        require(self.level in LEVELS, "level", self.level, f"give one of {', '.join(LEVELS)}")
        most = LEVELS[self.level].size - 1
        require(0 <= self.vision <= most, "vision", self.vision, f"give an integer from 0 to {most}")
        require(self.rules in ("ic3net", "commnet"), "rules", self.rules, "give ic3net or commnet")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "give an integer >= 1, or null")
        for name in ("p_start", "p_end"):
            p = getattr(self, name)
            require(p is None or 0 <= p <= 1, name, p, "give a number in [0, 1], or null")
        start, end = self.curriculum_start, self.curriculum_end
        require(start >= 0, "curriculum_start", start, "give an integer >= 0")
        none = start == end == 0
        fix = f"give more than curriculum_start={start}, or 0 for both"
        require(none or end > start, "curriculum_end", end, fix)

    @property
    def label(self) -> str:
        return f"traffic_junction_{self.level}"

    @property
    def steps(self) -> int:
        """Steps of an episode."""
        return LEVELS[self.level].limit if self.limit is None else self.limit

    @property
    def rates(self) -> tuple[float, float]:
        """Arrivals per point and step before and after the curriculum."""
        level = LEVELS[self.level]
        return (
            level.p_start if self.p_start is None else self.p_start,
            level.p_end if self.p_end is None else self.p_end,
        )

    def rate(self, team_steps_B: Tensor) -> Tensor:
        """Rate of arrival after so many team steps of training, float64 of the same shape.

        Exactly p_start up to `curriculum_start` and exactly p_end from `curriculum_end` on.
        """
        start, end = self.curriculum_start, self.curriculum_end
        p_start, p_end = self.rates
        final_B = torch.full_like(team_steps_B, p_end, dtype=torch.float64)
        if not end:
            return final_B
        done_B = ((team_steps_B.to(torch.float64) - start) / (end - start)).clamp(0, 1)
        return torch.lerp(torch.full_like(final_B, p_start), final_B, done_B)

    def for_evaluation(self) -> Config:
        """The world that evaluation and videos use: at the final rate from the first step."""
        return replace(self, curriculum_start=0, curriculum_end=0)

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> TrafficJunction:
        """A batch of junctions. Args: threads: unused, there is no native form."""
        from marl.envs.traffic_junction.env import TrafficJunction

        return TrafficJunction(self, num_envs=num_envs, device=torch.device(device))
