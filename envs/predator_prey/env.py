"""Predators who see little look for a prey that never moves.

| symbol | name here | meaning |
|---|---|---|
| N | n_agents | predators |
| D | size | cells per side of the grid |
| n | on_prey_B | predators on the prey after a step |
| r_i | agent_reward_BN | -0.05 off the prey; on it 0 (mixed), 0.05 n (cooperative), 0.05 / n (competitive) |

An episode starts with predators and prey in distinct cells, drawn uniformly. A step: every predator moves one
cell or stays; the grid's edge stops it, other predators do not. Who has reached the prey stays there whatever
it does. Then come rewards and observations (observe.py).

What a learner must know:
* A predator on the prey is still alive and may take any action; none has an effect. As in IC3Net's code,
  whose predators stay in the loss and, in the mode cooperative, go on earning.
* In the mode mixed the episode terminates once all are on the prey. CHOICE: the limit truncates, since no
  predator sees the clock; IC3Net's returns end there.
* Success: all predators are on the prey at the last step. IC3Net's code counts none in the mode
  competitive; here it means the same in every mode.

Reference: Singh, Jain, Sukhbaatar, "Learning when to Communicate at Scale in Multiagent Cooperative and
Competitive Tasks" (IC3Net), ICLR 2019, and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl import tree
from marl.envs.predator_prey.config import Config
from marl.envs.predator_prey.observe import MOVES, PER_PREDATOR, Tables
from marl.envs.predator_prey.render import draw
from marl.rng import Rng, Stream
from marl.types import Discrete, EnvSpec, TimeStep

_STEP = -0.05  # reward per step off the prey; IC3Net's code
_PREY = 0.05  # reward on it, times or divided by n; IC3Net's code
_STATE = ("key_B", "episode_B", "t_B", "cell_BN", "prey_B")


class _View(NamedTuple):
    """What can be seen of some envs."""

    obs_BNO: Tensor
    state_BS: Tensor


def _pay(config: Config) -> list[float]:
    """Reward of a predator on the prey, by how many are there: 0 .. N."""
    counts = range(config.chosen.n_agents + 1)
    if config.mode == "cooperative":
        return [_PREY * n for n in counts]
    if config.mode == "competitive":
        return [_PREY / max(n, 1) for n in counts]
    return [0.0 for _ in counts]


class PredatorPrey:
    """B hunts; see the package's text for what others may read.

    Args:
        config: which.
        num_envs: B.
        device: of all tensors.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        self.level = config.chosen
        self.tables = Tables(self.level, device)
        N = self.level.n_agents
        self.spec = EnvSpec(
            name=config.label,
            agents=tuple(f"predator_{i}" for i in range(N)),
            agent_types=("predator",) * N,
            obs_size=self.tables.obs_CO.shape[1],
            state_size=N * PER_PREDATOR + 2,
            action_spaces=(Discrete(n=len(MOVES)),) * N,
            action_names=tuple(MOVES),
            obs_slices={"predator": self.tables.slices()},
            reward="agent",
            episode_limit=self.level.limit,
        )
        self._pay_n = torch.tensor(_pay(config), device=device)
        zeros_B = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.key_B, self.episode_B, self.t_B, self.prey_B = zeros_B, zeros_B, zeros_B, zeros_B
        self.cell_BN = torch.zeros(num_envs, N, dtype=torch.int64, device=device)
        # The same in every step, so made once.
        self._yes_BN = torch.ones(num_envs, N, dtype=torch.bool, device=device)
        self._yes_BNA = self._yes_BN[..., None].expand(-1, -1, len(MOVES))

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere."""
        self.key_B = rng.stream("predator_prey", self.num_envs, self.device).key_B
        self.episode_B, self.t_B = torch.zeros_like(self.key_B), torch.zeros_like(self.key_B)
        self.cell_BN, self.prey_B = self._places(self.key_B, self.episode_B)
        no_B = torch.zeros_like(self.key_B, dtype=torch.bool)
        reward_BN = torch.zeros_like(self._yes_BN, dtype=torch.float32)
        return self._timestep(self._look(self.cell_BN, self.prey_B), no_B, no_B, reward_BN)

    def _places(self, key_B: Tensor, episode_B: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct random cells: of the predators (B, N), and of the prey (B,)."""
        N = self.level.n_agents
        keys_BC = Stream(key_B).fold(episode_B).bits(self.tables.cells)
        cells_BM = keys_BC.topk(N + 1, 1).indices  # the first N + 1 of a random order
        return cells_BM[:, :N].contiguous(), cells_BM[:, N].contiguous()

    def step(self, actions_BN: Tensor) -> TimeStep:
        """One step of every env. Args: actions_BN: int64 in 0 .. 4 (up, right, down, left, stay)."""
        on_BN, reward_BN = self._move(actions_BN)
        on_prey_B = on_BN.sum(1)
        success_B = on_prey_B == self.level.n_agents
        over_B = self.t_B >= self.level.limit
        terminated_B = success_B if self.config.mode == "mixed" else torch.zeros_like(success_B)
        truncated_B = over_B & ~terminated_B
        final = now = self._look(self.cell_BN, self.prey_B)
        done_B = terminated_B | truncated_B
        if done_B.any():
            now = self._begin(done_B, final)
        ts = self._timestep(now, terminated_B, truncated_B, reward_BN)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = (*final, self._yes_BNA)
        ts.info = {"success": success_B, "on_prey": on_prey_B}
        return ts

    def _move(self, actions_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Move all; returns who is on the prey now, bool (B, N), and rewards (B, N)."""
        prey_B1 = self.prey_B[:, None]
        to_BN = self.tables.move_CA[self.cell_BN, actions_BN]
        self.cell_BN = torch.where(self.cell_BN == prey_B1, self.cell_BN, to_BN)
        self.t_B = self.t_B + 1
        on_BN = self.cell_BN == prey_B1
        return on_BN, torch.where(on_BN, self._pay_n[on_BN.sum(1, keepdim=True)], _STEP)

    def _begin(self, done_B: Tensor, view: _View) -> _View:
        """Start the next episode where one ended; returns the view with those rows replaced."""
        rows_F = done_B.nonzero()[:, 0]
        self.episode_B, self.t_B = self.episode_B + done_B, self.t_B.masked_fill(done_B, 0)
        cell_FN, prey_F = self._places(self.key_B[rows_F], self.episode_B[rows_F])
        self.cell_BN = self.cell_BN.index_copy(0, rows_F, cell_FN)
        self.prey_B = self.prey_B.index_copy(0, rows_F, prey_F)
        fresh = self._look(cell_FN, prey_F)
        return _View(*(old.index_copy(0, rows_F, new) for old, new in zip(view, fresh, strict=True)))

    def _look(self, cell_BN: Tensor, prey_B: Tensor) -> _View:
        """What is seen of predators and prey in these cells."""
        on_BN = cell_BN == prey_B[:, None]
        return _View(self.tables.observe(cell_BN, prey_B), self.tables.state(cell_BN, prey_B, on_BN))

    def _timestep(
        self, view: _View, terminated_B: Tensor, truncated_B: Tensor, reward_BN: Tensor
    ) -> TimeStep:
        return TimeStep(
            obs_BNO=view.obs_BNO,
            state_BS=view.state_BS,
            avail_BNA=self._yes_BNA,
            terminated_B=terminated_B,
            truncated_B=truncated_B,
            present_BN=self._yes_BN,
            alive_BN=self._yes_BN,
            t_B=self.t_B,
            agent_reward_BN=reward_BN,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return tree.copy_of(self, _STATE)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tree.put_back(self, _STATE, state, self.device)

    def render(self, index: int = 0) -> np.ndarray:
        """The grid from above; see render.py."""
        return draw(self, index)
