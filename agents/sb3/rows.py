"""A batch of our worlds as an SB3 VecEnv with one row per agent.

| symbol | name here | meaning |
|---|---|---|
| R = B * N | num_envs of the VecEnv | rows; row b * N + i is agent i of env b |
| I | row_size | features of a row: the observation, then the agent's id |

All rows of an env end together, when its episode does. Its final observation is in the info of each row
("terminal_observation"), with "TimeLimit.truncated" where the step limit cut it off: SB3 bootstraps there.

CHOICE: rows of agents that are dead or absent go on to the end of the episode, with whatever their
availability leaves them, and get the team's reward, or their own: so that what an agent did before it died is
credited with how the episode ended. SB3 has no masks, so that their transitions are learned from too.
CHOICE: an unavailable action is replaced by the available one that the policy scores best; SB3 learns as if
it had taken the action that it chose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from marl.errors import MarlError
from marl.loops.base import Means, results_of
from marl.rng import Rng
from marl.rollout import Tally
from marl.types import Box, Env, EnvSpec, TimeStep

Scores = Callable[[Tensor], Tensor]  # rows' observations (R, I) -> scores of actions (R, A)


def row_spaces(spec: EnvSpec, agent_ids: bool) -> tuple[spaces.Box, spaces.Space[Any]]:
    """Observation and action space of a row.

    CHOICE: Box actions are given to SB3 as [-1, 1] in every dimension, as its documentation asks for, and
    are scaled to each agent's own range; dimensions that an agent does not have are ignored.

    Raises:
        MarlError: a vector reward, a mixture of Discrete and Box agents, or a Box without bounds.
    """
    if spec.reward == "vector":
        raise MarlError(f"env={spec.name} has a vector reward: agent=sb3 needs a scalar one")
    if len({type(space) for space in spec.action_spaces}) > 1:
        raise MarlError(f"env={spec.name} mixes discrete and continuous agents: agent=sb3 needs one kind")
    if not all(np.isfinite(s.low + s.high).all() for s in spec.action_spaces if isinstance(s, Box)):
        raise MarlError(f"env={spec.name} has actions without bounds: agent=sb3 needs finite low and high")
    size = spec.obs_size + spec.n_agents * agent_ids
    obs = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    if spec.discrete:
        return obs, spaces.Discrete(spec.n_actions)
    return obs, spaces.Box(-1.0, 1.0, (spec.n_actions,), np.float32)


def row_inputs(obs_BNO: Tensor, agent_ids: bool) -> Tensor:
    """Observations of all rows (B * N, I)."""
    B, N, _ = obs_BNO.shape
    if agent_ids:
        id_BNN = torch.eye(N, dtype=obs_BNO.dtype, device=obs_BNO.device).expand(B, N, N)
        obs_BNO = torch.cat([obs_BNO, id_BNN], -1)
    return obs_BNO.flatten(0, 1)


class ActionMap:
    """From what a policy chose to what the world is given.

    Args:
        spec: the world.
        device: where its tensors live.
    """

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        self.spec = spec
        A = spec.n_actions
        bounds = [(s.low, s.high) for s in spec.action_spaces if isinstance(s, Box)]
        padded = [[(*side, *[0.0] * (A - len(side))) for side in pair] for pair in bounds]
        self._bounds_N2A = torch.tensor(padded, dtype=torch.float32, device=device)

    def available(self, actions_BN: Tensor, avail_BNA: Tensor, scores: Callable[[], Tensor]) -> Tensor:
        """Discrete actions, the unavailable ones replaced by the best available one.

        Args:
            actions_BN: int64, any action.
            avail_BNA: what may be chosen.
            scores: gives (B, N, A); called only where an action has to be replaced.
        """
        allowed_BN = avail_BNA.gather(-1, actions_BN[..., None]).squeeze(-1)
        if allowed_BN.all():
            return actions_BN
        best_BN = scores().masked_fill(~avail_BNA, -torch.inf).argmax(-1)
        return torch.where(allowed_BN, actions_BN, best_BN)

    def scaled(self, actions_BNA: Tensor) -> Tensor:
        """Box actions in each agent's own range, from [-1, 1]; values outside are clipped."""
        low_NA, high_NA = self._bounds_N2A.unbind(1)
        return low_NA + (actions_BNA.clamp(-1.0, 1.0) + 1.0) / 2.0 * (high_NA - low_NA)


class Rows(VecEnv):
    """The VecEnv that SB3 trains on.

    Args:
        env: the worlds; reset by `reset`.
        agent_ids: whether rows carry their agent's id.
        scores: of the policy that acts, for replacing unavailable actions.
        rng: gives the worlds their streams; may be replaced before a reset.
    """

    def __init__(self, env: Env, *, agent_ids: bool, scores: Scores, rng: Rng) -> None:
        self.env, self.rng, self._scores, self._agent_ids = env, rng, scores, agent_ids
        self._map = ActionMap(env.spec, env.device)
        self.episodes = self.team_steps = 0
        self.means = Means()  # of episodes that ended since it was last taken
        obs_space, action_space = row_spaces(env.spec, agent_ids)
        super().__init__(env.num_envs * env.spec.n_agents, obs_space, action_space)

    def reset(self) -> np.ndarray:
        self.ts = self.env.reset(self.rng)
        self._tally = Tally(self.env.spec, self.env.num_envs, self.env.device)
        return self._rows(self.ts.obs_BNO)

    def _rows(self, obs_BNO: Tensor) -> np.ndarray:
        return row_inputs(obs_BNO, self._agent_ids).cpu().numpy().copy()  # SB3 keeps it

    def _per_row(self, value_B: Tensor) -> np.ndarray:
        return np.repeat(value_B.cpu().numpy(), self.env.spec.n_agents)

    def step_async(self, actions: np.ndarray) -> None:
        """Args: actions: int (R,), or float (R, A) within [-1, 1]."""
        B, N, A = self.env.num_envs, self.env.spec.n_agents, self.env.spec.n_actions
        given = torch.from_numpy(np.asarray(actions)).to(self.env.device)
        if self.env.spec.discrete:
            rows_RI = row_inputs(self.ts.obs_BNO, self._agent_ids)
            self._actions = self._map.available(
                given.long().view(B, N), self.ts.avail_BNA, lambda: self._scores(rows_RI).view(B, N, A)
            )
        else:
            self._actions = self._map.scaled(given.float().view(B, N, A))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        self.ts = ts = self.env.step(self._actions)
        self.team_steps += self.env.num_envs
        finished = self._tally.add(ts)
        if finished is not None:
            self.episodes += len(finished["env"])
            self.means.add(results_of(finished))
        if ts.agent_reward_BN is not None:
            reward_R = ts.agent_reward_BN.flatten().cpu().numpy().astype(np.float32)
        else:
            assert ts.reward_B is not None
            reward_R = self._per_row(ts.reward_B).astype(np.float32)
        return self._rows(ts.obs_BNO), reward_R, self._per_row(ts.done_B), self._infos(ts)

    def _infos(self, ts: TimeStep) -> list[dict[str, Any]]:
        """One dict per row, empty but where an episode ended."""
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended_R = self._per_row(ts.done_B).nonzero()[0]
        if len(ended_R):
            assert ts.final_obs_BNO is not None
            final_RI = self._rows(ts.final_obs_BNO)
            cut_R = self._per_row(ts.truncated_B & ~ts.terminated_B)
            for row in ended_R:
                infos[row] = {
                    "terminal_observation": final_RI[row],
                    "TimeLimit.truncated": bool(cut_R[row]),
                }
        return infos

    # What SB3 may ask of a VecEnv beside stepping it

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(f"rows of a batched world have no attribute {attr_name!r} of their own")
        return [None] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"rows of a batched world have no attribute {attr_name!r} of their own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"rows of a batched world have no method {method_name!r} of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self._count(indices)

    def _count(self, indices: Any) -> int:
        return len(list(self._get_indices(indices)))
