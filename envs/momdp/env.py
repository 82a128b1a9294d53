"""Walkers in a finite world: one agent, a one-hot state, a vector of rewards.

| symbol | name here | meaning |
|---|---|---|
| s | state_B | number of the state; observation and state are its one-hot code |
| P(s'|s,a) | next_cdf | transitions as running sums, made once |
| r_i | reward_BK | of the state arrived at; with `weights` the team's reward is their sum |

`info`: success (bool, valid where done): the walker stands in a goal state.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from marl import tree
from marl.envs.momdp.config import Config
from marl.envs.momdp.render import draw
from marl.envs.momdp.tables import MOVES
from marl.objectives import reward_fields, reward_spec
from marl.rng import Rng, Stream
from marl.types import Discrete, EnvSpec, Slice, TimeStep

_STATE = ("key_B", "episode_B", "t_B", "state_B")


class FiniteWorld:
    """B walkers.

    Args:
        config: which world.
        num_envs: B.
        device: of all tensors.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        self.tables = config.tables()
        S, A, _ = self.tables.model.sizes
        rooms = config.world == "four_rooms"
        self.spec = EnvSpec(
            name=config.label,
            agents=("walker",),
            agent_types=("walker",),
            obs_size=S,
            state_size=S,
            action_spaces=(Discrete(n=A),),
            action_names=tuple(MOVES) if rooms else tuple(str(a) for a in range(A)),
            obs_slices={"walker": (Slice(name="state", start=0, stop=S, low=0.0, high=1.0, kind="onehot"),)},
            episode_limit=config.limit,
            **reward_spec(config.weights, config.objective_names),
        )
        self._weights = config.weights
        model = self.tables.model
        # Summed in float64 on the CPU: every device compares the same numbers.
        self._next_cdf = model.next_SAS.cumsum(-1).to(device)
        self._start_cdf = model.start_S.cumsum(-1).to(device)
        self._arrive_SK = self.tables.arrive_SK.to(device, torch.float32)
        self._terminal_S = model.terminal_S.to(device)
        self._goal_S = (self.tables.arrive_SK.sum(-1) > 0).to(device)
        zeros_B = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.key_B, self.episode_B, self.t_B, self.state_B = zeros_B, zeros_B, zeros_B, zeros_B
        self._yes_BN = torch.ones(num_envs, 1, dtype=torch.bool, device=device)
        self._yes_BNA = self._yes_BN[..., None].expand(-1, -1, A)

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere."""
        self.key_B = rng.stream("momdp", self.num_envs, self.device).key_B
        self.episode_B, self.t_B = torch.zeros_like(self.key_B), torch.zeros_like(self.key_B)
        self.state_B = self._first()
        no_B = torch.zeros_like(self.key_B, dtype=torch.bool)
        nothing_BK = torch.zeros(self.num_envs, len(self.tables.goals), device=self.device)
        return self._timestep(no_B, no_B, nothing_BK)

    def _first(self) -> Tensor:
        stream = Stream(self.key_B).fold(self.episode_B, "start")
        return _draw(self._start_cdf.expand(self.num_envs, -1), stream)

    def step(self, actions_BN: Tensor) -> TimeStep:
        """One step of every env. Args: actions_BN: int64 (B, 1)."""
        stream = Stream(self.key_B).fold(self.episode_B, self.t_B)
        to_B = _draw(self._next_cdf[self.state_B, actions_BN[:, 0]], stream)
        self.t_B = self.t_B + 1
        terminated_B = self._terminal_S[to_B]
        truncated_B = (self.t_B >= self.config.limit) & ~terminated_B
        done_B = terminated_B | truncated_B
        self.episode_B, self.t_B = self.episode_B + done_B, self.t_B.masked_fill(done_B, 0)
        self.state_B = torch.where(done_B, self._first(), to_B)
        ts = self._timestep(terminated_B, truncated_B, self._arrive_SK[to_B])
        final_BS = self._one_hot(to_B)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = final_BS[:, None], final_BS, self._yes_BNA
        ts.info = {"success": self._goal_S[to_B]}
        return ts

    def _one_hot(self, state_B: Tensor) -> Tensor:
        return F.one_hot(state_B, self.spec.state_size).to(torch.float32)

    def _timestep(self, terminated_B: Tensor, truncated_B: Tensor, reward_BK: Tensor) -> TimeStep:
        state_BS = self._one_hot(self.state_B)
        return TimeStep(
            obs_BNO=state_BS[:, None],
            state_BS=state_BS,
            avail_BNA=self._yes_BNA,
            terminated_B=terminated_B,
            truncated_B=truncated_B,
            present_BN=self._yes_BN,
            alive_BN=self._yes_BN,
            t_B=self.t_B,
            **reward_fields(reward_BK, self._weights, self.device),
        )

    def state_dict(self) -> dict[str, Tensor]:
        return tree.copy_of(self, _STATE)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tree.put_back(self, _STATE, state, self.device)

    def render(self, index: int = 0) -> np.ndarray:
        """The rooms from above, or the states around a circle; see render.py."""
        return draw(self, index)


def _draw(cdf_BS: Tensor, stream: Stream) -> Tensor:
    """One index per row, by inversion of a running sum whose last entry is 1 but for rounding."""
    u_B1 = stream.uniform(1).to(cdf_BS.dtype)
    return (u_B1 * cdf_BS[:, -1:] >= cdf_BS).sum(-1)
