"""Foreign environments as one batch of worlds (`marl.types.Env`).

A foreign environment can be started, not stored. `state_dict` holds the streams, the episode counters and
the last observations; after `load_state_dict` the next step cuts the running episodes off where they stood
(truncated, reward zero, the actions given have no effect) and the following episodes begin. A run that was
resumed is therefore not the run that never stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from marl.foreign.plan import AgentPlan, Plan
from marl.foreign.pool import Here, Pool
from marl.rng import Rng, Stream
from marl.types import Box, Discrete, EnvSpec, Slice, TimeStep

Reward = Literal["agent", "sum", "mean", "vector"]
_HIGHEST_SEED = 2**31 - 1  # what every environment takes


class ForeignEnv:
    """B copies of a foreign environment.

    Args:
        hands: who steps them.
        name: of the world.
        reward: one per agent; the team's: their sum, or the mean over agents that acted; or the vector of
            a team of one.
        limit: the longest episode.
        device: where tensors are returned; environments run on the CPU.
    """

    def __init__(
        self, hands: Pool | Here, *, name: str, reward: Reward, limit: int, device: torch.device
    ) -> None:
        self._hands, self._blocks, self._reward, self.device = hands, hands.blocks, reward, device
        self.num_envs = len(self._blocks.t_B)
        self.spec = make_spec(hands.plan, name=name, reward=reward, limit=limit)
        self._key_B = torch.zeros(self.num_envs, dtype=torch.int64)
        self._cut = False  # the next step ends the episodes that a resumed run can't go on with

    def reset(self, rng: Rng) -> TimeStep:
        """Episode e of env b starts with a seed drawn from row b of the stream "foreign", folded with e."""
        self._key_B = rng.stream("foreign", self.num_envs).key_B
        self._cut = False
        self._blocks.episode_B[:] = 0
        return self._begin()

    def step(self, actions_BN: Tensor) -> TimeStep:
        """One step of all copies.

        Raises:
            EnvError: an environment broke its promises, crashed, or gave no answer.
        """
        if self._cut:
            return self._cut_off()
        self._blocks.actions_BN[:] = actions_BN.cpu().numpy()
        self._hands.step()
        ts = self._timestep()
        if ts.done_B.any():
            self._draw_seeds(1)
        return ts

    def _begin(self) -> TimeStep:
        blocks = self._blocks
        blocks.reward_BN[:] = blocks.objective_BK[:] = 0.0
        blocks.terminated_B[:] = blocks.truncated_B[:] = False
        self._draw_seeds(0)
        self._hands.reset()
        self._draw_seeds(1)
        ts = self._timestep()
        ts.final_obs_BNO = ts.final_state_BS = ts.final_avail_BNA = None
        return ts

    def _draw_seeds(self, ahead: int) -> None:
        """Seeds of the episodes that start next: the present ones (0) or those after them (1)."""
        episode_B = torch.from_numpy(self._blocks.episode_B) + ahead
        self._blocks.seed_B[:] = Stream(self._key_B).fold(episode_B).integers(_HIGHEST_SEED).numpy()

    def _cut_off(self) -> TimeStep:
        """End all running episodes as truncated at their last observation."""
        last = {
            name: self._tensor(getattr(self._blocks, name)) for name in ("obs_BNO", "state_BS", "avail_BNA")
        }
        self._cut = False
        self._blocks.episode_B += 1
        ts = self._begin()
        ts.truncated_B = torch.ones_like(ts.truncated_B)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = last.values()
        return ts

    def _tensor(self, array: np.ndarray) -> Tensor:
        """A copy: the blocks change with the next step."""
        return torch.from_numpy(array).to(self.device, copy=True)

    def _timestep(self) -> TimeStep:
        b = self._blocks
        reward_BN = self._tensor(b.reward_BN)
        ts = TimeStep(
            obs_BNO=self._tensor(b.obs_BNO),
            state_BS=self._tensor(b.state_BS),
            avail_BNA=self._tensor(b.avail_BNA),
            terminated_B=self._tensor(b.terminated_B),
            truncated_B=self._tensor(b.truncated_B),
            present_BN=self._tensor(b.present_BN),
            alive_BN=self._tensor(b.alive_BN),
            t_B=self._tensor(b.t_B),
            final_obs_BNO=self._tensor(b.final_obs_BNO),
            final_state_BS=self._tensor(b.final_state_BS),
            final_avail_BNA=self._tensor(b.final_avail_BNA),
        )
        if self._reward == "agent":
            ts.agent_reward_BN = reward_BN
        elif self._reward == "vector":
            ts.reward_BK = self._tensor(b.objective_BK)
        else:
            ts.reward_B = reward_BN.sum(1)
            if self._reward == "mean":
                ts.reward_B /= self._tensor(b.acted_BN).sum(1).clamp(min=1)
        return ts

    _STATE = ("episode_B", "t_B", "obs_BNO", "state_BS", "avail_BNA", "alive_BN", "present_BN")

    def state_dict(self) -> dict[str, Tensor]:
        """What there is to keep: not the environments themselves (see the module's text)."""
        kept = {name: torch.from_numpy(getattr(self._blocks, name)).clone() for name in self._STATE}
        return kept | {"key_B": self._key_B.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in self._STATE:
            getattr(self._blocks, name)[:] = state[name].cpu().numpy()
        self._key_B = state["key_B"].cpu().clone()
        self._cut = True

    def render(self, index: int = 0) -> np.ndarray:
        """The environment's own picture.

        Raises:
            NotImplementedError: it was not made with render_mode=rgb_array, or cannot draw.
        """
        if not self._hands.plan.renders:
            raise NotImplementedError("no pictures: give env.kwargs.render_mode=rgb_array if it has them")
        return self._hands.render(index)

    def close(self) -> None:
        """End the workers; without this it happens when nobody holds the env any more, or at exit."""
        self._hands.close()


def make_spec(plan: Plan, *, name: str, reward: Reward, limit: int) -> EnvSpec:
    """The plan in the suite's terms."""
    types = _types(plan.agents)
    slices = {
        type_: tuple(Slice(**vars(part)) for part in agent.parts)
        for type_, agent in zip(types, plan.agents, strict=True)
    }
    return EnvSpec(
        name=name,
        agents=tuple(agent.name for agent in plan.agents),
        agent_types=types,
        obs_size=plan.obs_size,
        state_size=plan.state_size,
        action_spaces=tuple(
            Discrete(n=agent.actions) if agent.actions else Box(low=agent.low, high=agent.high)
            for agent in plan.agents
        ),
        obs_slices=slices,
        reward=reward if reward in ("agent", "vector") else "team",
        objectives=tuple(f"objective_{k}" for k in range(plan.objectives)),
        episode_limit=limit,
    )


def _types(agents: tuple[AgentPlan, ...]) -> tuple[str, ...]:
    """A name for each agent's kind: "wolf" for wolf_0 and wolf_1 if their spaces are equal, else its own."""
    kinds: dict[str, set[tuple[Any, ...]]] = {}
    stems = [re.sub(r"_\d+$", "", agent.name) for agent in agents]
    for stem, a in zip(stems, agents, strict=True):
        kinds.setdefault(stem, set()).add((a.parts, a.actions, a.low, a.high))
    return tuple(s if len(kinds[s]) == 1 else a.name for s, a in zip(stems, agents, strict=True))
