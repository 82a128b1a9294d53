"""Predators in a square with a prey that never moves, in continuous space.

LearningGroup trains on a "Predator-Prey-v2": a stationary prey, A cooperative predators that observe relative
positions and velocities, reward per collision, success counted every 50 steps. No more is published, so the
physics, sizes, actions and reward are all CHOICE, in the numbers of MPE (mpe2.simple_spread_v3).

| symbol | name here | meaning |
|---|---|---|
| A | n_agents | predators |
| p | pos_BN2 | centre of a predator (x right, y up), in [-1, 1]^2 |
| v | vel_BN2 | its velocity in lengths per unit of time, each component in [-2, 2] |
| q | prey_B2 | centre of the prey |
| F | force_BN2 | 5 x direction: one of four or none, or the action itself, each component in [-1, 1] |
| n | touching_B | predators with |p - q| < 0.125: touching discs of radius 0.075 and 0.05 |

A step lasts 0.1: v <- 0.75 v + 0.1 F, p <- p + 0.1 v (velocity first). The walls clip p and stop the
component of v that leads into them; predators pass through each other, so that all can be at the prey.
Positions at the start are uniform in [-1, 1)^2, velocities zero. The team earns n / A per step, or with
`reward: own` each predator 1 where it touches the prey. An episode is cut off after `limit` steps (truncated:
nobody sees the clock). Success: at its last step `needed` predators touch the prey.

Observation of a predator: its velocity, prey - self, others - self in index order, their velocities minus its
own. State: position and velocity of each predator, position of the prey. Actions: stay, left, right, down,
up, or a force.

Reference: Yang, Kim, Kim, "LearningGroup", ICFPT 2022 (arXiv 2210.16624).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from marl import tree
from marl.envs.predator_prey.render import draw_continuous
from marl.errors import require
from marl.rng import Rng, Stream
from marl.types import Box, Discrete, EnvSpec, Slice, TimeStep

STEP_LENGTH, DAMPING, FORCE, TOP_SPEED = 0.1, 0.25, 5.0, 2.0  # TOP_SPEED = FORCE * STEP_LENGTH / DAMPING
PREDATOR_RADIUS, PREY_RADIUS = 0.075, 0.05
CONTACT = PREDATOR_RADIUS + PREY_RADIUS
MOVES = {"stay": (0.0, 0.0), "left": (-1.0, 0.0), "right": (1.0, 0.0), "down": (0.0, -1.0), "up": (0.0, 1.0)}
_STATE = ("key_B", "episode_B", "t_B", "pos_BN2", "vel_BN2", "prey_B2")


@dataclass(kw_only=True)
class Config:
    """A hunt in continuous space."""

    n_agents: int = 4  # A >= 1; LearningGroup evaluates 3, 4, 6, 8, 10
    limit: int = 50  # steps of an episode, >= 1; LearningGroup counts success every 50
    # Predators that must touch the prey at the last step for a success, 1 to A; None: all. CHOICE: as on the
    # grid. LearningGroup's accuracy grows with A, which hints that fewer sufficed there.
    needed: int | None = None
    # What a step pays: n / A to the team, or to every predator 1 where it touches the prey. CHOICE: no paper
    # says whose a collision is; IC3Net's agents learn from their own reward.
    reward: Literal["team", "own"] = "team"
    actions: Literal["discrete", "continuous"] = "discrete"  # discrete as IC3Net, which LearningGroup trains

    def __post_init__(self) -> None:
        require(self.n_agents >= 1, "n_agents", self.n_agents, "give an integer >= 1")
        require(self.limit >= 1, "limit", self.limit, "give an integer >= 1")
        few = self.needed is None or 1 <= self.needed <= self.n_agents
        require(few, "needed", self.needed, f"give an integer from 1 to n_agents={self.n_agents}, or null")
        require(self.reward in ("team", "own"), "reward", self.reward, "give team or own")
        kinds = ("discrete", "continuous")
        require(self.actions in kinds, "actions", self.actions, "give discrete or continuous")

    @property
    def label(self) -> str:
        return "predator_prey_continuous"

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> ContinuousPredatorPrey:
        """A batch of hunts. Args: threads: unused, there is no native form."""
        return ContinuousPredatorPrey(self, num_envs=num_envs, device=torch.device(device))


def _slices(A: int) -> tuple[Slice, ...]:
    """An observation's parts by name."""
    parts = [("own velocity", TOP_SPEED), ("prey", 2.0)]
    parts += [(f"other {j} position", 2.0) for j in range(A - 1)]
    parts += [(f"other {j} velocity", 2 * TOP_SPEED) for j in range(A - 1)]
    return tuple(
        Slice(name=name, start=2 * i, stop=2 * i + 2, low=-bound, high=bound, kind="real")
        for i, (name, bound) in enumerate(parts)
    )


class ContinuousPredatorPrey:
    """B hunts. `pos_BN2`, `vel_BN2`, `prey_B2`, `t_B` may be read.

    `info`: success (bool, valid where done), touching (int64: predators at the prey after this step).

    Args:
        config: which.
        num_envs: B.
        device: of all tensors.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        A, discrete = config.n_agents, config.actions == "discrete"
        action_space = Discrete(n=len(MOVES)) if discrete else Box(low=(-1.0, -1.0), high=(1.0, 1.0))
        self.spec = EnvSpec(
            name=config.label,
            agents=tuple(f"predator_{i}" for i in range(A)),
            agent_types=("predator",) * A,
            obs_size=4 * A,
            state_size=4 * A + 2,
            action_spaces=(action_space,) * A,
            action_names=tuple(MOVES) if discrete else ("force x", "force y"),
            obs_slices={"predator": _slices(A)},
            reward="team" if config.reward == "team" else "agent",
            episode_limit=config.limit,
        )
        self._force_A2 = FORCE * torch.tensor(list(MOVES.values()), device=device)
        index_N = torch.arange(A, device=device)
        grid_NM = (index_N + (index_N >= index_N[:, None]))[:, : A - 1]  # row i: all but i, in index order
        self._others_K = grid_NM.reshape(-1)
        zeros_B = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.key_B, self.episode_B, self.t_B = zeros_B, zeros_B, zeros_B
        self.pos_BN2 = torch.zeros(num_envs, A, 2, device=device)
        self.vel_BN2, self.prey_B2 = torch.zeros_like(self.pos_BN2), torch.zeros(num_envs, 2, device=device)
        self._yes_BN = torch.ones(num_envs, A, dtype=torch.bool, device=device)
        self._yes_BNA = self._yes_BN[..., None].expand(-1, -1, self.spec.n_actions)

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere."""
        self.key_B = rng.stream("predator_prey", self.num_envs, self.device).key_B
        self.episode_B = torch.zeros_like(self.key_B)
        yes_B = torch.ones_like(self.key_B, dtype=torch.bool)
        self._begin(yes_B)
        return self._timestep(self._look(), ~yes_B, torch.zeros_like(self._yes_BN))

    def _begin(self, where_B: Tensor) -> None:
        """Draw where predators and prey start."""
        A = self.config.n_agents
        stream = Stream(self.key_B).fold(self.episode_B)
        place_BM2 = 2 * stream.fold("places").uniform(A + 1, 2) - 1
        where_B11 = where_B[:, None, None]
        self.pos_BN2 = torch.where(where_B11, place_BM2[:, :A], self.pos_BN2)
        self.vel_BN2 = self.vel_BN2.masked_fill(where_B11, 0.0)
        self.prey_B2 = torch.where(where_B11[..., 0], place_BM2[:, A], self.prey_B2)
        self.t_B = self.t_B.masked_fill(where_B, 0)

    def step(self, actions_BN: Tensor) -> TimeStep:
        """One step of every env.

        Args:
            actions_BN: int64 (B, A) in 0 .. 4, or float32 (B, A, 2), clipped to [-1, 1].
        """
        touching_BN = self._move(actions_BN)
        touching_B = touching_BN.sum(1)
        done_B = self.t_B >= self.config.limit
        final = now = self._look()
        if done_B.any():
            self.episode_B = self.episode_B + done_B
            self._begin(done_B)
            now = self._look()
        ts = self._timestep(now, done_B, touching_BN)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = (*final, self._yes_BNA)
        needed = self.config.n_agents if self.config.needed is None else self.config.needed
        ts.info = {"success": touching_B >= needed, "touching": touching_B}
        return ts

    def _move(self, actions_BN: Tensor) -> Tensor:
        """Move all; returns who touches the prey, bool (B, A)."""
        direct = not self.spec.discrete
        force_BN2 = FORCE * actions_BN.clamp(-1.0, 1.0) if direct else self._force_A2[actions_BN]
        vel_BN2 = (1 - DAMPING) * self.vel_BN2 + STEP_LENGTH * force_BN2
        pos_BN2 = self.pos_BN2 + STEP_LENGTH * vel_BN2
        self.pos_BN2 = pos_BN2.clamp(-1.0, 1.0)
        self.vel_BN2 = vel_BN2 * (self.pos_BN2 == pos_BN2)
        self.t_B = self.t_B + 1
        away_BN2 = self.pos_BN2 - self.prey_B2[:, None]
        return away_BN2.square().sum(-1) < CONTACT**2

    def _look(self) -> tuple[Tensor, Tensor]:
        """Observations (B, A, 4 A) and states (B, 4 A + 2)."""
        B, N = self._yes_BN.shape
        both_BN4 = torch.cat([self.pos_BN2, self.vel_BN2], -1)
        others_BNM4 = both_BN4.index_select(1, self._others_K).view(B, N, N - 1, 4)
        relative_BNM4 = others_BNM4 - both_BN4[:, :, None]
        parts = [self.vel_BN2, self.prey_B2[:, None] - self.pos_BN2]
        parts += [part.flatten(2) for part in relative_BNM4.split(2, -1)]
        return torch.cat(parts, -1), torch.cat([both_BN4.flatten(1), self.prey_B2], -1)

    def _timestep(self, view: tuple[Tensor, Tensor], truncated_B: Tensor, touching_BN: Tensor) -> TimeStep:
        own = self.config.reward == "own"
        return TimeStep(
            obs_BNO=view[0],
            state_BS=view[1],
            avail_BNA=self._yes_BNA,
            terminated_B=torch.zeros_like(truncated_B),
            truncated_B=truncated_B,
            present_BN=self._yes_BN,
            alive_BN=self._yes_BN,
            t_B=self.t_B,
            reward_B=None if own else touching_BN.sum(1) / self.config.n_agents,
            agent_reward_BN=touching_BN.float() if own else None,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return tree.copy_of(self, _STATE)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tree.put_back(self, _STATE, state, self.device)

    def render(self, index: int = 0) -> np.ndarray:
        """The square from above; see render.py."""
        return draw_continuous(self, index)
