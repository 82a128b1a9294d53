"""The finite worlds as tables.

Random process: every (s, a) leads to a few distinct states, drawn uniformly, with probabilities from the flat
Dirichlet distribution. State 0 is the start. K other states are goals.
CHOICE: a goal pays its one-hot reward to whoever arrives there, and the walk goes on; the paper says only
that rewards are one-hot at random goal states.

Four rooms: a move into a wall stays. Arriving at a goal pays its one-hot reward and ends the episode.

Reference: Kim et al., "FairDICE", NeurIPS 2025, section 6; the replication (Adema et al., TMLR 2026) for the
coordinates, the limit and the end at a goal, which the paper does not state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.envs.momdp.config import FOUR_ROOMS, Config
from marl.momdp import Momdp
from marl.rng import Rng

MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A world.

    Args:
        model: transitions and expected rewards.
        arrive_SK: reward of arriving at a state; what an episode really pays.
        goals: the goal state of every objective.
        cells: (row, column) of every state in four rooms; empty in a random process.
    """

    model: Momdp
    arrive_SK: Tensor
    goals: tuple[int, ...]
    cells: tuple[tuple[int, int], ...] = ()


def _tables(
    start: int, next_SAS: Tensor, goals: list[int], *, ends: bool, cells: list[tuple[int, int]]
) -> Tables:
    S = next_SAS.shape[0]
    arrive_SK = torch.zeros(S, len(goals), dtype=torch.float64)
    arrive_SK[goals, range(len(goals))] = 1.0
    start_S, terminal_S = torch.zeros(S, dtype=torch.float64), torch.zeros(S, dtype=torch.bool)
    start_S[start] = 1.0
    terminal_S[goals] = ends
    model = Momdp(start_S=start_S, next_SAS=next_SAS, reward_SAK=next_SAS @ arrive_SK, terminal_S=terminal_S)
    return Tables(model=model, arrive_SK=arrive_SK, goals=tuple(goals), cells=tuple(cells))


def random_process(config: Config) -> Tables:
    """The random process of this number."""
    S, A, M = config.states, config.actions, config.successors
    rng = Rng(config.model, "momdp").torch("tables")
    to_SAM = torch.rand(S, A, S, generator=rng, dtype=torch.float64).topk(M, -1).indices
    exponential_SAM = -torch.rand(S, A, M, generator=rng, dtype=torch.float64).clamp(min=1e-300).log()
    share_SAM = exponential_SAM / exponential_SAM.sum(-1, keepdim=True)  # flat Dirichlet
    next_SAS = torch.zeros(S, A, S, dtype=torch.float64).scatter_(-1, to_SAM, share_SAM)
    goals = (1 + torch.randperm(S - 1, generator=rng)[: config.objectives]).tolist()
    return _tables(0, next_SAS, goals, ends=False, cells=[])


def four_rooms(config: Config) -> Tables:
    """The four rooms of these options."""
    free = [(i, j) for i, row in enumerate(FOUR_ROOMS) for j, mark in enumerate(row) if mark == " "]
    number, moves = {cell: s for s, cell in enumerate(free)}, list(MOVES.values())
    S, A = len(free), len(moves)
    to_SA = torch.tensor(
        [[number.get((i + di, j + dj), s) for di, dj in moves] for s, (i, j) in enumerate(free)]
    )
    move_AA = torch.eye(A, dtype=torch.float64)
    others = 1 - move_AA if config.slip_to == "other" else torch.ones_like(move_AA)
    move_AA = (1 - config.slip) * move_AA + config.slip * others / others.sum(-1, keepdim=True)
    next_SAS = torch.zeros(S, A, S, dtype=torch.float64)
    for done in range(A):  # the move made, whatever was chosen
        next_SAS.scatter_add_(
            -1, to_SA[:, None, done, None].expand(-1, A, 1), move_AA[None, :, done, None].expand(S, -1, 1)
        )
    goals = [number[cell] for cell in config.goals]
    return _tables(number[config.start], next_SAS, goals, ends=True, cells=free)
