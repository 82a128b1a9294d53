"""Games of two agents and one or two decisions, whose joint values are known exactly.

| symbol | name here | meaning |
|---|---|---|
| r(u1, u2) | payoff | reward of the joint action; rows are agent 0's action |
| Q*(s, u) | joint_values | value of a joint action when all is best afterwards |

One-step games give one payoff and end. The two-step game's first decision (agent 0's action alone, no
reward) chooses between the payoffs 2A and 2B.

Reference: Son et al., "QTRAN", ICML 2019, table 1a (`qtran`); Rashid et al., "QMIX", ICML 2018, table 1
(`two_step`); Wang et al., "QPLEX", ICLR 2021, and its released code, matrix_game_3 (`qplex`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from marl.canvas import Canvas
from marl.errors import require
from marl.rng import Rng
from marl.types import Discrete, EnvSpec, Slice, TimeStep

Payoff = tuple[tuple[float, ...], ...]

QTRAN: Payoff = ((8, -12, -12), (-12, 0, 0), (-12, 0, 0))  # best action hides beside the worst ones
QPLEX: Payoff = ((8, -12, -12), (-12, 6, 0), (-12, 0, 6))  # and three equilibria lie apart
MONOTONE: Payoff = ((0, 1, 2), (1, 2, 4), (2, 4, 8))  # CHOICE: every mixer of the QMIX family can hold it
TWO_STEP: tuple[Payoff, Payoff] = (((7, 7), (7, 7)), ((0, 1), (1, 8)))  # 2A and 2B

_CELL, _GROUND, _INK = 44, (245, 243, 238), (40, 40, 48)  # pixels; colours. CHOICE
_GOOD, _BAD, _MARK = (120, 180, 130), (205, 120, 110), (40, 70, 160)


@dataclass(kw_only=True)
class Config:
    """Which game."""

    game: Literal["qtran", "qplex", "monotone", "two_step", "custom"] = "qtran"
    payoff: tuple[tuple[float, ...], ...] = ()  # of game=custom: a square table, 2 actions or more

    def __post_init__(self) -> None:
        custom, n = self.game == "custom", len(self.payoff)
        square = n >= 2 and all(len(row) == n for row in self.payoff)
        require(square or not custom, "payoff", self.payoff, "give a square table of 2 rows or more")
        require(custom or n == 0, "payoff", self.payoff, "it needs game=custom")

    @property
    def label(self) -> str:
        return f"matrix_game_{self.game}"

    @property
    def payoffs(self) -> tuple[Payoff, ...]:
        """One payoff, or those of states 2A and 2B."""
        if self.game == "two_step":
            return TWO_STEP
        named = {"qtran": QTRAN, "qplex": QPLEX, "monotone": MONOTONE, "custom": self.payoff}
        return (named[self.game],)

    def joint_values(self, gamma: float = 1.0) -> Tensor:
        """Q*(s, u1, u2) of every state (S, A, A); states of the two-step game are 1, 2A, 2B."""
        payoffs_PAA = torch.tensor(self.payoffs, dtype=torch.float32)
        if len(payoffs_PAA) == 1:
            return payoffs_PAA
        best_2 = payoffs_PAA.amax((1, 2))  # agent 0's action chooses the row: 2A or 2B
        return torch.cat([gamma * best_2[:, None].expand(2, 2)[None], payoffs_PAA])

    @property
    def best_return(self) -> float:
        """Undiscounted return of the best team."""
        return float(self.joint_values()[0].max())

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> MatrixGame:
        """A batch of games. Args: threads: unused, the game has no native form."""
        return MatrixGame(self, num_envs=num_envs, device=torch.device(device))


def additive_fit(payoff_AA: Tensor) -> Tensor:
    """The sum q1(u1) + q2(u2) nearest to a payoff in mean square over all joint actions.

    What VDN converges to under uniform exploration: row mean + column mean - mean.
    """
    return payoff_AA.mean(1, keepdim=True) + payoff_AA.mean(0, keepdim=True) - payoff_AA.mean()


class MatrixGame:
    """B games. Observation and state are the one-hot game state (1, or 1, 2A and 2B)."""

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        self.payoff_PAA = torch.tensor(config.payoffs, dtype=torch.float32, device=device)
        P, A = self.payoff_PAA.shape[:2]
        self.two_step = P == 2
        S = 3 if self.two_step else 1
        part = Slice(name="state", start=0, stop=S, low=0.0, high=1.0, kind="onehot")
        self.spec = EnvSpec(
            name=config.label,
            agents=("row", "column"),
            agent_types=("player", "player"),
            obs_size=S,
            state_size=S,
            action_spaces=(Discrete(n=A), Discrete(n=A)),
            action_names=tuple(str(a) for a in range(A)),
            obs_slices={"player": (part,)},
            episode_limit=2 if self.two_step else 1,
        )
        self.state_B = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.last_actions_B2 = torch.zeros(num_envs, 2, dtype=torch.int64, device=device)

    def reset(self, rng: Rng) -> TimeStep:
        """Start; the game draws no random numbers."""
        self.state_B.zero_()
        self.last_actions_B2.zero_()
        no_B = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return self._timestep(self.state_B, no_B, torch.zeros(self.num_envs, device=self.device))

    def step(self, actions_BN: Tensor) -> TimeStep:
        first_B = (self.state_B == 0) & self.two_step
        table_B = (self.state_B - 1).clamp(min=0)
        payoff_B = self.payoff_PAA[table_B, actions_BN[:, 0], actions_BN[:, 1]]
        after_B = torch.where(first_B, 1 + actions_BN[:, 0], self.state_B)
        done_B = ~first_B
        self.last_actions_B2 = actions_BN.clone()
        self.state_B = torch.where(done_B, 0, after_B)
        ts = self._timestep(self.state_B, done_B, torch.where(first_B, 0.0, payoff_B))
        final_BS = self._one_hot(after_B)
        ts.final_obs_BNO, ts.final_state_BS = final_BS[:, None].expand(-1, 2, -1), final_BS
        ts.final_avail_BNA = ts.avail_BNA
        ts.info["success"] = payoff_B >= self.config.best_return
        return ts

    def _one_hot(self, state_B: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(state_B, self.spec.state_size).to(torch.float32)

    def _timestep(self, state_B: Tensor, done_B: Tensor, reward_B: Tensor) -> TimeStep:
        B, A = self.num_envs, self.spec.n_actions
        state_BS = self._one_hot(state_B)
        yes_BN = torch.ones(B, 2, dtype=torch.bool, device=self.device)
        return TimeStep(
            obs_BNO=state_BS[:, None].expand(-1, 2, -1),
            state_BS=state_BS,
            avail_BNA=yes_BN[..., None].expand(-1, -1, A),
            terminated_B=done_B,
            truncated_B=torch.zeros_like(done_B),
            present_BN=yes_BN,
            alive_BN=yes_BN,
            t_B=(state_B > 0).to(torch.int64),
            reward_B=reward_B,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {"state": self.state_B.clone(), "last_actions": self.last_actions_B2.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.state_B = state["state"].to(self.device).clone()
        self.last_actions_B2 = state["last_actions"].to(self.device).clone()

    def render(self, index: int = 0) -> np.ndarray:
        """The payoff tables; the current one is framed, the last joint action is marked in it."""
        state, (row, column) = int(self.state_B[index]), self.last_actions_B2[index].tolist()
        tables, A = self.payoff_PAA.tolist(), self.spec.n_actions
        margin = _CELL // 2
        canvas = Canvas(A * _CELL + 2 * margin, len(tables) * (A * _CELL + margin) + margin, _GROUND)
        scale = max(abs(v) for table in tables for line in table for v in line) or 1.0
        for k, table in enumerate(tables):
            left = margin + k * (A * _CELL + margin)
            if not self.two_step or state == k + 1:
                canvas.box(left - 4, margin - 4, left + A * _CELL + 4, margin + A * _CELL + 4, _MARK)
            for i, line in enumerate(table):
                for j, value in enumerate(line):
                    x, y = left + j * _CELL, margin + i * _CELL
                    canvas.box(x, y, x + _CELL, y + _CELL, _GROUND)
                    tint = _GOOD if value > 0 else _BAD
                    canvas.box(x + 1, y + 1, x + _CELL - 1, y + _CELL - 1, tint, alpha=abs(value) / scale)
                    canvas.text(x + _CELL / 2, y + _CELL / 2 - 4, f"{value:g}", _INK, anchor=0.5)
                    if (i, j) == (row, column) and not self.two_step:
                        canvas.ring(x + _CELL / 2, y + _CELL / 2, _CELL * 0.42, 2, _MARK)
        return canvas.image()
