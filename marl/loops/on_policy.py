"""Learning from what was just done: a rollout of T steps in every env, then one update on it.

The batch is what `marl.types.Batch` says: entry t of env b holds an observation and, where filled, the
action taken there; the successor of a filled entry is the next one. An episode that ends within the
rollout puts its final observation in as an entry of its own, not filled, and the next episode follows.
So a truncated episode's value is bootstrapped from the entry after its last action, a terminated one's
is not, and the rollout's end is cut off in the same way: its last entry is the newest observation.
An env in which k episodes ended has T + 1 + k entries; the batch is as long as the longest, and shorter
ones are padded with unfilled entries. `extras["carry.<name>"]` is the carry before entry 0, from which
recurrent agents recompute their states; entries that start an episode reset it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from marl.records import Layout, to_batch
from marl.rng import Rng
from marl.robust.rollout import training_rollout
from marl.tape import Tape
from marl.types import Agent, Batch, Env


@dataclass(kw_only=True)
class OnPolicyConfig:
    """The on-policy loop."""

    rollout_steps: int = 128  # steps T of every env per update, >= 1; PPO's code for Atari (Schulman 2017)
    # Passed to `act`, [0, 1]: above 0 a policy samples itself, whatever the number; a team of action values
    # takes random actions at this rate. 0 is greedy.
    explore: float = 1.0

    def __post_init__(self) -> None:
        require(self.rollout_steps >= 1, "rollout_steps", self.rollout_steps, "give an integer >= 1")
        require(0 <= self.explore <= 1, "explore", self.explore, "give a number in [0, 1]")

    def build(self, *, env: Env, agent: Agent, rng: Rng, link: PerfectLink | None = None) -> OnPolicy:
        return OnPolicy(self, env=env, agent=agent, rng=rng, link=link)


class OnPolicy:
    """Acts T steps in every env, then makes one `agent.update`.

    Args:
        config: the settings.
        env: reset here.
        agent: acts and learns.
        rng: of the loop.
        link: between the agents; None loses nothing.
    """

    def __init__(
        self,
        config: OnPolicyConfig,
        *,
        env: Env,
        agent: Agent,
        rng: Rng,
        link: PerfectLink | None = None,
    ) -> None:
        self.config, self.env, self.agent, self.rng = config, env, agent, rng
        self.rollout = training_rollout(env, agent, rng, link=link)
        layout = Layout.of(env.spec, agent.extras_spec)
        width = 2 * config.rollout_steps + 1  # an episode might end at every step
        self.tape = Tape(layout, env.num_envs, width, env.device)
        self.tape.start(self.rollout.ts)
        self.steps = self.episodes = 0
        self._learner = Learner(agent, rng, env.device)

    @property
    def updates(self) -> int:
        return self._learner.updates

    def collect(self, means: Means) -> Batch:
        """One rollout; results of finished episodes go into `means`."""
        carry = {f"carry.{name}": value.clone() for name, value in self.rollout.carry.items()}
        for _ in range(self.config.rollout_steps):
            act, finished = self.rollout.step(self.config.explore)
            self.tape.put(act, self.rollout.ts, finished is not None)
            self.steps += self.env.num_envs
            if finished is not None:
                self.episodes += len(finished["env"])
                means.add(results_of(finished))
        batch = to_batch(self.tape.layout, *self.tape.take())
        batch.extras |= carry
        self.tape.rewind()
        return batch

    def iterate(self) -> dict[str, float]:
        means = Means()
        with kernels.alone():  # many small operations: torch's own threads only stand in each other's way
            batch = self.collect(means)
        means.add(self._learner.update(batch))
        return means.take()

    def segments(self) -> Segments:
        """None: nothing is remembered from one rollout to the next."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            **acting_state(self.env, self.agent, self.rollout, self.rng),
            "tape": self.tape.state_dict(),
            "counters": {"steps": self.steps, "episodes": self.episodes, "updates": self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any], read_segment: ReadSegment) -> None:
        self.tape.load_state_dict(state["tape"])
        load_acting_state(state, self.env, self.agent, self.rollout, self.rng)
        counters = state["counters"]
        self.steps, self.episodes = int(counters["steps"]), int(counters["episodes"])
        self._learner.updates = int(counters["updates"])
