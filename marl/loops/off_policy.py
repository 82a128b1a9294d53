"""Learning from a memory of past episodes while acting with decaying exploration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from marl.channel import PerfectLink
from marl.errors import require
from marl.loops.base import (
    Learner,
    Means,
    ReadSegment,
    Segments,
    acting_state,
    load_acting_state,
    results_of,
)
from marl.nets import kernels
from marl.replay import MemoryConfig
from marl.rng import Rng
from marl.robust.rollout import training_rollout
from marl.tape import Tape
from marl.types import Agent, Env

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class BatchConfig:
    """What one update learns from."""

    sequences: int = 32  # >= 1; PyMARL
    # Entries; 0: whole episodes, padded to the longest (PyMARL); L >= 2: windows that start with an episode
    # and run on through the next ones; null: such windows of the world's episode limit + 1.
    length: int | None = 0
    starts: Literal["episode", "any"] = "episode"  # of windows; any: for agents without recurrent state

    def __post_init__(self) -> None:
        require(self.sequences >= 1, "sequences", self.sequences, "give an integer >= 1")
        fits = self.length is None or self.length == 0 or self.length >= 2
        require(fits, "length", self.length, "give null, 0 or an integer >= 2")
        require(self.starts in ("episode", "any"), "starts", self.starts, "give episode or any")
        require(
            self.starts == "episode" or self.length != 0,
            "starts",
            self.starts,
            "whole episodes (length=0) start at their start; give a length of 2 or more",
        )

    def entries(self, episode_limit: int, agent: Agent) -> int:
        """The length in a world; says so where not all is learned from, or from what acting never meets."""
        length = episode_limit + 1 if self.length is None else self.length
        if self.starts == "any" and any(v.is_floating_point() for v in agent.initial_carry(1).values()):
            _log.warning(
                "batch.starts=any: windows from within an episode begin without the state that this "
                "recurrent team had there; give batch.starts=episode"
            )
        if self.starts == "episode" and 0 < length <= episode_limit:
            _log.warning(
                "batch.length=%d is less than a whole episode (%d entries): later steps are rarely learned",
                *(length, episode_limit + 1),
            )
        return length


@dataclass(kw_only=True)
class UpdatesConfig:
    """How often the agent learns."""

    ratio: float = 1.0  # updates per unit, > 0; kept exactly over the whole run; PyMARL: 1 per episode
    per: Literal["step", "episode"] = "episode"  # unit: a team step, or a finished episode (PyMARL)
    learning_starts: int = 0  # team steps before the first update, >= 0; CHOICE

    def __post_init__(self) -> None:
        require(self.ratio > 0, "ratio", self.ratio, "give a number above 0")
        require(self.per in ("step", "episode"), "per", self.per, "give step or episode")
        require(self.learning_starts >= 0, "learning_starts", self.learning_starts, "give an integer >= 0")


@dataclass(kw_only=True)
class ExploreConfig:
    """Linear decay of `explore` (epsilon of value-based teams) over team steps."""

    start: float = 1.0  # [0, 1]; PyMARL
    end: float = 0.05  # [0, 1]; PyMARL
    steps: int = 50_000  # team steps from start to end, >= 0; PyMARL

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a number in [0, 1]")
        require(self.steps >= 0, "steps", self.steps, "give an integer >= 0")

    def at(self, step: int) -> float:
        """The value after this many team steps."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)


@dataclass(kw_only=True)
class OffPolicyConfig:
    """The off-policy loop."""

    rollout_steps: int = 1  # steps of every env between two looks at the updates that are due, >= 1; CHOICE
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    updates: UpdatesConfig = field(default_factory=UpdatesConfig)
    explore: ExploreConfig = field(default_factory=ExploreConfig)

    def __post_init__(self) -> None:
        require(self.rollout_steps >= 1, "rollout_steps", self.rollout_steps, "give an integer >= 1")

    def build(self, *, env: Env, agent: Agent, rng: Rng, link: PerfectLink | None = None) -> OffPolicy:
        return OffPolicy(self, env=env, agent=agent, rng=rng, link=link)


class OffPolicy:
    """Acts `rollout_steps` in every env, then makes the updates that are due.

    Args:
        config: the settings.
        env: reset here.
        agent: acts and learns.
        rng: of the loop.
        link: between the agents; None loses nothing.
    """

    def __init__(
        self,
        config: OffPolicyConfig,
        *,
        env: Env,
        agent: Agent,
        rng: Rng,
        link: PerfectLink | None = None,
    ) -> None:
        limit = env.spec.episode_limit
        self._length = config.batch.entries(limit, agent)
        self.config, self.env, self.agent, self.rng = config, env, agent, rng
        self.rollout = training_rollout(env, agent, rng, link=link)
        layout = config.memory.layout(env.spec, agent.extras_spec)
        self.memory = config.memory.build(layout, env.device)
        self.tape = Tape(layout, env.num_envs, limit + 1, env.device, on_finish=self.memory.append)
        self.tape.start(self.rollout.ts)
        self.steps = self.episodes = 0
        self._learner = Learner(agent, rng, env.device)
        self._sample_stream = rng.stream("sample", 1)
        ratio = Fraction(config.updates.ratio).limit_denominator(10**9)  # 1/3, not its nearest binary number
        self._credit_per_unit, self._credit_per_update = ratio.numerator, ratio.denominator
        self._credit = 0  # towards the next update

    @property
    def updates(self) -> int:
        return self._learner.updates

    def iterate(self) -> dict[str, float]:
        with kernels.alone():  # many small operations: torch's own threads only stand in each other's way
            return self._iterate()

    def _iterate(self) -> dict[str, float]:
        means, episodes_before = Means(), self.episodes
        for _ in range(self.config.rollout_steps):
            epsilon = self.config.explore.at(self.steps)
            act, finished = self.rollout.step(epsilon)
            self.tape.put(act, self.rollout.ts, finished is not None)
            self.steps += self.env.num_envs
            if finished is not None:
                self.episodes += len(finished["env"])
                means.add(results_of(finished))
        self._earn(self.config.rollout_steps * self.env.num_envs, self.episodes - episodes_before)
        while self._credit >= self._credit_per_update:
            means.add(self._update())
            self._credit -= self._credit_per_update
        return {**means.take(), "train/epsilon": epsilon, "memory/entries": self.memory.entries}

    def _earn(self, steps: int, episodes: int) -> None:
        """Updates become due only where there is something to learn from."""
        if self.steps >= self.config.updates.learning_starts and self.memory.episodes:
            units = steps if self.config.updates.per == "step" else episodes
            self._credit += units * self._credit_per_unit

    def _update(self) -> dict[str, Any]:
        b = self.config.batch
        stream = self._sample_stream.fold(self.updates)
        return self._learner.update(self.memory.sample(stream, b.sequences, self._length, b.starts))

    def segments(self) -> Segments:
        return self.memory.segments()

    def state_dict(self) -> dict[str, Any]:
        return {
            **acting_state(self.env, self.agent, self.rollout, self.rng),
            "tape": self.tape.state_dict(),
            "memory": self.memory.state_dict(),
            "counters": {
                "steps": self.steps,
                "episodes": self.episodes,
                "updates": self.updates,
                "credit": self._credit,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any], read_segment: ReadSegment) -> None:
        self.memory.load_state_dict(state["memory"], read_segment)
        self.tape.load_state_dict(state["tape"])
        load_acting_state(state, self.env, self.agent, self.rollout, self.rng)
        counters = state["counters"]
        self.steps, self.episodes = int(counters["steps"]), int(counters["episodes"])
        self._learner.updates, self._credit = int(counters["updates"]), int(counters["credit"])
