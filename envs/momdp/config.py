"""Config of the finite worlds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

import torch

from marl.config import QUIET
from marl.errors import require
from marl.objectives import check_weights, weighted_label

if TYPE_CHECKING:
    from marl.envs.momdp.env import FiniteWorld
    from marl.envs.momdp.tables import Tables

# Classic four rooms, 13 x 13 with its outer wall; '#' is wall. Sutton, Precup, Singh 1999.
FOUR_ROOMS = (
    "#############",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#     #     #",
    "## ####     #",
    "#     ### ###",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#############",
)


_FIELDS = {  # that are read in one world alone
    "random": ("model", "states", "actions", "successors", "objectives"),
    "four_rooms": ("start", "goals", "slip", "slip_to"),
}


@dataclass(kw_only=True)
class Config:
    """A finite world with its options; those of the other world are refused."""

    world: Literal["random", "four_rooms"] = "random"
    limit: int = 50  # steps after which an episode is cut off, >= 1; the replication
    # Of the objectives, >= 0, for learners that want one reward: weights . r is then the team's. Empty: the
    # vector.
    weights: tuple[float, ...] = field(default=(), metadata=QUIET)

    # random; sizes of the paper
    model: int = 0  # which of the random processes, >= 0: its own seed, whatever the run's
    states: int = 50  # S > objectives
    actions: int = 4  # A >= 1
    successors: int = 4  # of every (s, a), 1 to S; probabilities ~ Dirichlet(1, ..., 1)
    objectives: int = 3  # K >= 1: as many goal states, none of them the start

    # four_rooms; (row, column) with the outer wall at 0 and 12
    start: tuple[int, int] = (2, 2)  # the replication
    goals: tuple[tuple[int, int], ...] = ((10, 2), (2, 10), (10, 10))  # one objective each; the replication
    slip: float = 0.1  # probability of another move than the one chosen, [0, 1]; paper
    # other: a slip takes one of the three other directions (paper); any: one of all four (the replication).
    slip_to: Literal["other", "any"] = "other"

    def __post_init__(self) -> None:
        worlds = ("random", "four_rooms")
        require(self.world in worlds, "world", self.world, f"give one of {', '.join(worlds)}")
        for f in fields(self):
            if f.name in _FIELDS["random" if self.world == "four_rooms" else "four_rooms"]:
                value = getattr(self, f.name)
                require(value == f.default, f.name, value, f"leave it out: world={self.world} has none")
        require(self.limit >= 1, "limit", self.limit, "give an integer >= 1")
        require(self.model >= 0, "model", self.model, "give an integer >= 0")
        require(self.objectives >= 1, "objectives", self.objectives, "give an integer >= 1")
        require(self.states > self.objectives, "states", self.states, "give more states than objectives")
        require(self.actions >= 1, "actions", self.actions, "give an integer >= 1")
        fits = 1 <= self.successors <= self.states
        require(fits, "successors", self.successors, f"give an integer from 1 to states={self.states}")
        require(0 <= self.slip <= 1, "slip", self.slip, "give a number in [0, 1]")
        require(self.slip_to in ("other", "any"), "slip_to", self.slip_to, "give other or any")
        for name, cells in (("start", (self.start,)), ("goals", self.goals)):
            for row, column in cells:
                inside = 0 <= row < len(FOUR_ROOMS) and 0 <= column < len(FOUR_ROOMS[0])
                free = inside and FOUR_ROOMS[row][column] == " "
                require(free, name, (row, column), "give the row and column of a free cell")
        distinct = len({self.start, *self.goals}) == 1 + len(self.goals) and len(self.goals) >= 1
        require(distinct, "goals", self.goals, "give one distinct cell per objective, none the start")
        check_weights(self.weights, self.objective_names)

    @property
    def objective_names(self) -> tuple[str, ...]:
        count = len(self.goals) if self.world == "four_rooms" else self.objectives
        return tuple(f"goal_{k}" for k in range(count))

    @property
    def label(self) -> str:
        return weighted_label(f"momdp_{self.world}", self.weights)

    def tables(self) -> Tables:
        """The process as tables."""
        from marl.envs.momdp.tables import four_rooms, random_process

        return random_process(self) if self.world == "random" else four_rooms(self)

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> FiniteWorld:
        """A batch of walkers. Args: threads: unused, there is no native form."""
        from marl.envs.momdp.env import FiniteWorld

        return FiniteWorld(self, num_envs=num_envs, device=torch.device(device))
