"""One copy of a foreign environment, and its rows of the shared blocks.

| symbol | name here | meaning |
|---|---|---|
| N | plan.agents | possible agents, in the order of `possible_agents` |
| | alive | in `env.agents` now, and told neither termination nor truncation |
| | acted | alive before the step |

Agents are handled as lists of their numbers: teams are small, and an array operation costs more than a loop.

Episodes: one ends when nobody is alive. It terminated if every end of an agent was a termination; one that
was truncated, or that our limit cut off, makes it truncated. (An agent told both counts as terminated.)
The final observation holds what the learner may still value: of a truncated episode, the agents that go on
or were truncated in its last step; of a terminated one all that acted. The rest is zero, as for every
absent agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.errors import EnvError
from marl.foreign import plan as plans
from marl.foreign.blocks import Blocks
from marl.foreign.plan import Plan
from marl.foreign.spaces import MASK, features, number, split, without_mask, yes_or_no

_STEP = ("observations", "rewards", "terminations", "truncations", "infos")


class Copy:
    """Resets and steps one environment and writes what it says into row `index`.

    Args:
        env: the environment.
        plan: what it must be.
        blocks: the shared rows.
        index: its row.
        limit: steps after which an episode is cut off.
    """

    def __init__(self, env: Any, plan: Plan, blocks: Blocks, index: int, limit: int) -> None:
        self.env, self.plan, self.blocks, self.index, self.limit = env, plan, blocks, index, limit
        self.ids = list(env.possible_agents)  # as the environment names them; they need not be text
        self.number = {agent: i for i, agent in enumerate(self.ids)}
        self.whole = [plans.space_of(env, "observation", a) for a in self.ids]  # with the mask
        self.seen = [without_mask(space) for space in self.whole]
        self.action_spaces = [plans.space_of(env, "action", a) for a in self.ids]
        self.alive: list[int] = []
        starts_N = np.arange(len(self.ids)) * plan.obs_size
        own = [start + np.arange(a.features) for start, a in zip(starts_N, plan.agents, strict=True)]
        self._own = np.concatenate(own)  # the agents' own features among all of a row
        self.cut_short = False  # an agent of this episode was truncated

    # Episodes

    def reset(self) -> None:
        """Start the next episode from its seed."""
        b, blocks = self.index, self.blocks
        blocks.t_B[b] = 0
        said = self.env.reset(seed=int(blocks.seed_B[b]))
        if not (isinstance(said, tuple) and len(said) == 2 and all(isinstance(x, Mapping) for x in said)):
            raise EnvError("reset() must return two dicts, observations and infos")
        self._same_spaces()
        self.cut_short = False
        self.alive = self._in_play()
        if not self.alive:
            raise EnvError("reset() left env.agents empty")
        blocks.present_BN[b] = False
        self._mark_alive()
        rows = blocks.obs_BNO[b], blocks.state_BS[b], blocks.avail_BNA[b]
        self._look(said[0], said[1], self.alive, rows)

    def step(self) -> None:
        """One step with the actions of row `index`; where the episode ends, reset at once."""
        b, blocks, acted = self.index, self.blocks, self.alive
        actions = {self.ids[i]: self._action(i) for i in acted}
        blocks.t_B[b] += 1
        observations, rewards, *ends, infos = self._checked_step(self.env.step(actions))
        blocks.acted_BN[b] = blocks.alive_BN[b]
        if self.plan.objectives:
            self._pay_vector(rewards)
        else:
            self._pay(rewards, acted)
        over, truncated = self._ended(ends[0], ends[1], acted)
        self.alive = [i for i in self._in_play() if i not in over]
        left = [i for i in acted if i not in over and i not in self.alive]
        if left:
            raise EnvError(
                f"agent {str(self.ids[left[0]])!r} left env.agents with neither termination nor truncation"
            )
        self.cut_short |= bool(truncated)
        finished = not self.alive
        cut = not finished and bool(blocks.t_B[b] >= self.limit)
        blocks.truncated_B[b] = cut or (finished and self.cut_short)
        blocks.terminated_B[b] = finished and not self.cut_short
        self._mark_alive()
        if not (finished or cut):
            rows = blocks.obs_BNO[b], blocks.state_BS[b], blocks.avail_BNA[b]
            self._look(observations, infos, self.alive, rows)
            return
        shown = acted if blocks.terminated_B[b] else self.alive + truncated
        rows = blocks.final_obs_BNO[b], blocks.final_state_BS[b], blocks.final_avail_BNA[b]
        self._look(observations, infos, shown, rows)
        blocks.episode_B[b] += 1
        self.reset()

    def _mark_alive(self) -> None:
        alive_N, present_N = self.blocks.alive_BN[self.index], self.blocks.present_BN[self.index]
        alive_N[:] = False
        alive_N[self.alive] = True
        present_N |= alive_N

    # What goes in

    def _action(self, i: int) -> Any:
        """The action of agent i as its space wants it; a Box's is cut to its limits."""
        space, given = self.action_spaces[i], self.blocks.actions_BN[self.index, i]
        if isinstance(space, spaces.Discrete):
            return space.dtype.type(space.start + given)  # type: ignore[union-attr]
        value = given[: space.low.size].reshape(space.shape)  # type: ignore[attr-defined]
        return np.clip(value, space.low, space.high).astype(space.dtype)  # type: ignore[attr-defined]

    # What comes out

    def _checked_step(self, said: Any) -> tuple[Mapping[Any, Any], ...]:
        if not isinstance(said, tuple) or len(said) != len(_STEP):
            raise EnvError(f"step() must return a tuple of five dicts: {', '.join(_STEP)}")
        for name, value in zip(_STEP, said, strict=True):
            if not isinstance(value, Mapping):
                raise EnvError(
                    f"step() returned {name} as {type(value).__name__}: it must be a dict by agent"
                )
        return said

    def _pay(self, rewards: Mapping[Any, Any], acted: list[int]) -> None:
        """Rewards of all that are named; agents that acted must be."""
        row_N = self.blocks.reward_BN[self.index]
        row_N[:] = 0.0
        for i in acted:
            if self.ids[i] not in rewards:
                raise EnvError(f"agent {str(self.ids[i])!r} acted and got no reward")
        for agent, reward in rewards.items():
            if agent not in self.number:
                raise EnvError(f"a reward is for {str(agent)!r}, who is not in possible_agents")
            row_N[self.number[agent]] = number(reward, f"the reward of agent {str(agent)!r}")

    def _pay_vector(self, rewards: Mapping[Any, Any]) -> None:
        """The vector of a team of one."""
        row_K, given = self.blocks.objective_BK[self.index], np.asarray(rewards[self.ids[0]])
        if given.shape != row_K.shape:
            raise EnvError(f"the reward has shape {given.shape}, its space says {row_K.shape}")
        row_K[:] = [number(value, f"objective {k} of the reward") for k, value in enumerate(given)]

    def _ended(
        self, terminations: Mapping[Any, Any], truncations: Mapping[Any, Any], acted: list[int]
    ) -> tuple[list[int], list[int]]:
        """Agents that ended in this step, and those of them that were truncated alone."""
        over: list[int] = []
        truncated: list[int] = []
        for i in acted:
            agent = self.ids[i]
            if agent not in terminations or agent not in truncations:
                raise EnvError(f"agent {str(agent)!r} acted and got no termination or no truncation")
            terminated = yes_or_no(terminations[agent], f"the termination of agent {str(agent)!r}")
            cut = yes_or_no(truncations[agent], f"the truncation of agent {str(agent)!r}")
            if terminated or cut:
                over.append(i)
            if cut and not terminated:
                truncated.append(i)
        return over, truncated

    def _in_play(self) -> list[int]:
        agents = self.env.agents
        if not isinstance(agents, Iterable):
            raise EnvError(f"env.agents is {agents!r}: it must be the list of agents in play")
        for agent in agents:
            if agent not in self.number:
                raise EnvError(f"env.agents has {str(agent)!r}, who is not in possible_agents")
        numbers = [self.number[agent] for agent in agents]
        if len(set(numbers)) < len(numbers):
            twice = next(i for i in numbers if numbers.count(i) > 1)
            raise EnvError(f"env.agents has {str(self.ids[twice])!r} more than once")
        return numbers

    def _look(
        self,
        observations: Mapping[Any, Any],
        infos: Mapping[Any, Any],
        shown: list[int],
        rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> None:
        """Write observation, state and availability of the agents shown; zeros and action 0 for others."""
        obs_NO, state_S, avail_NA = rows
        obs_NO[:] = 0.0
        avail_NA[:] = False
        avail_NA[:, 0] = True
        if not observations.keys() <= self.number.keys():
            stranger = next(agent for agent in observations if agent not in self.number)
            raise EnvError(f"an observation is for {str(stranger)!r}, who is not in possible_agents")
        for i in shown:
            agent, own = self.ids[i], self.plan.agents[i]
            if agent not in observations:
                raise EnvError(f"agent {str(agent)!r} is in play and got no observation")
            value, mask = split(observations[agent], self.whole[i])
            obs_NO[i, : own.features] = features(
                value, self.seen[i], f"the observation of agent {own.name!r}"
            )
            if mask is None:
                info = infos.get(agent)
                mask = info.get(MASK) if isinstance(info, Mapping) else None
            avail_NA[i, : own.width] = True if mask is None or not own.actions else self._mask(mask, i)
        self._state(state_S, obs_NO)

    def _mask(self, mask: Any, i: int) -> np.ndarray:
        """The agent's own mask; an agent that has just ended may have no action left, and keeps all then."""
        own, mask_A = self.plan.agents[i], np.asarray(mask)
        if mask_A.shape != (own.actions,):
            what = f"the action_mask of agent {own.name!r}"
            raise EnvError(f"{what} has shape {mask_A.shape}: it has {own.actions} actions")
        allowed_A = mask_A == 1
        if not (allowed_A | (mask_A == 0)).all():
            raise EnvError(f"the action_mask of agent {own.name!r} is {mask_A.tolist()}: give 0 and 1")
        if not allowed_A.any() and i in self.alive:
            raise EnvError(f"the action_mask of agent {own.name!r} allows no action")
        return allowed_A if allowed_A.any() else ~allowed_A

    def _state(self, state_S: np.ndarray, obs_NO: np.ndarray) -> None:
        if not self.plan.state:
            state_S[:] = obs_NO.reshape(-1)[self._own]
            return
        value = plans.state_of(self.env)
        if value.shape != state_S.shape:
            raise EnvError(f"state() has {value.size} numbers, at first it had {state_S.size}")
        state_S[:] = value
        if not np.isfinite(state_S).all():
            raise EnvError("state() holds NaN or infinite numbers")

    def _same_spaces(self) -> None:
        for i, agent in enumerate(self.ids):
            for kind, old in (("observation", self.whole[i]), ("action", self.action_spaces[i])):
                new = plans.space_of(self.env, kind, agent)
                if new is not old and new != old:
                    raise EnvError(
                        f"the {kind}_space of agent {str(agent)!r} has changed from {old} to {new}: "
                        "it must stay the same in all episodes"
                    )
