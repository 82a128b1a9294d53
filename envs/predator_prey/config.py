"""Config of the grid and its three levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from marl.errors import require

if TYPE_CHECKING:
    from marl.envs.predator_prey.env import PredatorPrey


@dataclass(frozen=True, kw_only=True)
class Level:
    """One of IC3Net's settings.

    Args:
        n_agents: predators N.
        size: cells per side of the grid D.
        vision: v; a predator sees the (2v+1)^2 cells around itself.
        limit: steps of an episode.
    """

    n_agents: int
    size: int
    vision: int
    limit: int


LEVELS = {  # released commands of IC3Net
    "easy": Level(n_agents=3, size=5, vision=0, limit=20),
    "medium": Level(n_agents=5, size=10, vision=1, limit=40),
    "hard": Level(n_agents=10, size=20, vision=1, limit=80),
}


@dataclass(kw_only=True)
class Config:
    """A hunt with its options; fields that are None take the level's value."""

    level: Literal["easy", "medium", "hard"] = "easy"  # which of LEVELS
    # What a predator on the prey earns per step: mixed 0, cooperative 0.05 n, competitive 0.05 / n, with n of
    # them there. IC3Net's code; mixed is its default and the only mode that ends early.
    mode: Literal["mixed", "cooperative", "competitive"] = "mixed"
    n_agents: int | None = None  # N >= 1, and N + 1 <= size^2; None: 3, 5, 10
    size: int | None = None  # cells per side D >= 2; None: 5, 10, 20
    vision: int | None = None  # v, 0 to D - 1 cells; None: 0, 1, 1
    limit: int | None = None  # steps of an episode, >= 1; None: 20, 40, 80

    def __post_init__(self) -> None:
        require(self.level in LEVELS, "level", self.level, f"give one of {', '.join(LEVELS)}")
        modes = ("mixed", "cooperative", "competitive")
        require(self.mode in modes, "mode", self.mode, f"give one of {', '.join(modes)}")
        require(self.size is None or self.size >= 2, "size", self.size, "give an integer >= 2, or null")
        size, n = self.chosen.size, self.chosen.n_agents
        most = size * size - 1
        fix = f"a grid of size {size} has room for 1 to {most} predators beside the prey"
        require(1 <= n <= most, "n_agents", n, fix)
        vision, limit = self.chosen.vision, self.chosen.limit
        require(0 <= vision < size, "vision", vision, f"give an integer from 0 to {size - 1}, or null")
        require(limit >= 1, "limit", limit, "give an integer >= 1, or null")

    @property
    def label(self) -> str:
        return f"predator_prey_{self.level}"

    @property
    def chosen(self) -> Level:
        """The level's values, but for those that were given."""
        base = LEVELS[self.level]
        return Level(
            n_agents=base.n_agents if self.n_agents is None else self.n_agents,
            size=base.size if self.size is None else self.size,
            vision=base.vision if self.vision is None else self.vision,
            limit=base.limit if self.limit is None else self.limit,
        )

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> PredatorPrey:
        """A batch of hunts. Args: threads: unused, there is no native form."""
        from marl.envs.predator_prey.env import PredatorPrey

        return PredatorPrey(self, num_envs=num_envs, device=torch.device(device))
