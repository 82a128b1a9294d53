"""Learning from a data set, or from the memory that another run left; nothing is acted.

The data are the memory segments of a run's checkpoint, read as they are (any off-policy run is a data set),
or the episodes of a file (marl/datasets). They become this run's own memory, so that its checkpoints need the
other run no more.

An agent may have a method ``examine(batches)``: it is called with all the data, oldest first, before the
first update and after every `load_state_dict` of the loop, and must come to the same result each time. It
returns the data's summary, which is then said.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch

from marl import checkpoint
from marl.config import unmake
from marl.datasets import d4morl, memory_of, minari
from marl.errors import FieldError, require
from marl.evaluate import EnvConfig, for_evaluation
from marl.loops.base import Learner, Means, ReadSegment, Segments
from marl.loops.off_policy import BatchConfig
from marl.offline import describe, objectives_of
from marl.records import Layout
from marl.replay import Replay
from marl.rng import Rng
from marl.robust.rollout import refuse_in_rollout
from marl.types import Agent, Batch, Env

# What a memory stores of each kind of reward (marl/records.py).
_REWARDS = {"reward": "team", "agent_reward": "agent", "reward_vector": "vector"}

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class OfflineConfig:
    """The offline loop. One update counts as one step: `total_steps` is the number of updates."""

    data: Path  # run folder with a memory in its newest checkpoint, Minari data set, or D4MORL's npz
    updates: int = 10  # updates per iterate, >= 1; CHOICE
    full: bool = False  # every update learns from all the data at once, instead of from a sample (`batch`)
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        require(self.updates >= 1, "updates", self.updates, "give an integer >= 1")

    @property
    def unit(self) -> str:
        """What `steps` of the loop count."""
        return "updates"

    def build(self, *, env: Env, agent: Agent, rng: Rng) -> Offline:
        refuse_in_rollout(agent)
        return Offline(self, env=env, agent=agent, rng=rng)


def load_memory(folder: Path, env: Env, agent: Agent) -> Replay:
    """The data as a memory.

    Args:
        folder: a run's folder, whose newest checkpoint is read; a Minari data set; or a converted D4MORL
            file.
        env, agent: those that will learn from it; their sizes must be those of the data.

    Raises:
        FieldError: there is no such path or no checkpoint, it holds no memory, or the agent needs what data
            sets do not store.
        MarlError: the data are of another world or store other extras.
    """
    if not folder.exists():
        fix = "there is no such path; give a run's folder, a data set's, or a converted D4MORL file"
        raise FieldError("loop.data", str(folder), fix)
    if folder.is_file() or minari.is_dataset(folder):
        if agent.extras_spec:
            names = ", ".join(agent.extras_spec)
            fix = f"this agent needs {names}, which data sets do not store"
            raise FieldError("loop.data", str(folder), fix)
        if folder.is_dir():
            _say_other_world(minari.about(folder), env)
        found = d4morl.read(folder, env.spec) if folder.is_file() else minari.read(folder, env.spec)
        return memory_of(env.spec, found, env.device)
    saved, _ = checkpoint.latest(folder)
    if saved is None or not saved.segments:
        what = "there is no checkpoint in it" if saved is None else "its run keeps no memory"
        fix = f"{what}; give the folder of an off-policy run, or a data set"
        raise FieldError("loop.data", str(folder), fix)
    stored = next((kind for name, kind in _REWARDS.items() if name in saved.state["memory"]["fields"]), None)
    if stored is not None and stored != env.spec.reward:
        what = f"its rewards are of kind {stored}, those of env={env.spec.name} of kind {env.spec.reward}"
        raise FieldError(
            "loop.data", str(folder), f"{what}: set env.weights or env.reward as its run had them"
        )
    return read_memory(saved.state["memory"], saved.read_segment, env, agent)


def _say_other_world(about: Mapping[str, Any], env: Env) -> None:
    """Warn where a data set of ours was made in a world of the same sizes and other settings."""
    config, ours = getattr(env, "config", None), about.get("marl")
    there = ours.get("world") if isinstance(ours, dict) else None
    if not isinstance(there, dict) or not is_dataclass(config):
        return
    here = unmake(for_evaluation(cast(EnvConfig, config)))
    other = [name for name in here | there if here.get(name) != there.get(name)]
    if other:
        said = ", ".join(f"{name}={there.get(name, 'its default')}" for name in other)
        _log.warning("the data were made in another world than env=%s: with %s", env.spec.name, said)


def read_memory(state: Mapping[str, Any], read_segment: ReadSegment, env: Env, agent: Agent) -> Replay:
    """A memory as large as its stored content, from `Replay.state_dict` and its segments."""
    half = {name for name, f in state["fields"].items() if f["dtype"] == "torch.float16"}
    dtypes = {f"{name}_dtype": torch.float16 if name in half else torch.float32 for name in ("obs", "state")}
    layout = Layout.of(env.spec, agent.extras_spec, **dtypes)
    entries = int(state["first"][-1] - state["first"][0])
    memory = Replay(layout, max(entries, 1), env.device)
    memory.load_state_dict(state, read_segment)
    return memory


class Offline:
    """Makes updates from a fixed memory.

    Args:
        config: the settings.
        env: says what the world is like; never stepped.
        agent: learns.
        rng: of the loop.
    """

    def __init__(self, config: OfflineConfig, *, env: Env, agent: Agent, rng: Rng) -> None:
        self.config, self.env, self.agent, self.rng = config, env, agent, rng
        self._memory: Replay | None = None
        self._length = config.batch.entries(env.spec.episode_limit, agent)
        self._learner = Learner(agent, rng, env.device)
        self._sample_stream = rng.stream("sample", 1)
        self._all: Batch | None = None  # of full=true, made at first use

    @property
    def memory(self) -> Replay:
        """The data; read from the folder at first use, unless a checkpoint brought them."""
        if self._memory is None:
            self.use(load_memory(self.config.data, self.env, self.agent))
        assert self._memory is not None
        return self._memory

    def use(self, memory: Replay) -> None:
        """Use these data; an agent that wants to see them whole before it learns does."""
        self._memory, self._all = memory, None
        examine = getattr(self.agent, "examine", None)
        if examine is not None:
            for line in describe(examine(memory.scan()), objectives_of(self.env.spec)):
                print(line, file=sys.stderr)

    def _batch(self) -> Batch:
        b = self.config.batch
        if not self.config.full:
            stream = self._sample_stream.fold(self.updates)
            return self.memory.sample(stream, b.sequences, self._length, b.starts)
        if self._all is None:
            self._all = next(self.memory.scan(self.memory.entries))
        return self._all

    @property
    def updates(self) -> int:
        return self._learner.updates

    @property
    def steps(self) -> int:
        """Updates: there are no team steps."""
        return self.updates

    @property
    def episodes(self) -> int:
        """Finished while learning: none."""
        return 0

    def iterate(self) -> dict[str, float]:
        means = Means()
        for _ in range(self.config.updates):
            means.add(self._learner.update(self._batch()))
        return means.take()

    def segments(self) -> Segments:
        return self.memory.segments()

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent.state_dict(),
            "rng": self.rng.state_dict(),
            "memory": self.memory.state_dict(),
            "counters": {"updates": self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any], read_segment: ReadSegment) -> None:
        self.use(read_memory(state["memory"], read_segment, self.env, self.agent))
        self.rng.load_state_dict(state["rng"])
        self.agent.load_state_dict(state["agent"])
        self._learner.updates = int(state["counters"]["updates"])
