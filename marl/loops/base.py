"""What all loops share: the protocol, the means of metrics, the state of acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from marl.rng import Rng
from marl.rollout import Rollout
from marl.types import Agent, Batch, Env

Segments = dict[str, Callable[[], dict[str, Tensor]]]
ReadSegment = Callable[[str], Mapping[str, Tensor]]


class Loop(Protocol):
    """One way to learn; built by its Config from env, agent and rng."""

    @property
    def steps(self) -> int:
        """Team steps: steps of one env with all its agents."""
        ...

    @property
    def episodes(self) -> int:
        """Episodes finished while training."""
        ...

    @property
    def updates(self) -> int:
        """Calls of the agent's `update`."""
        ...

    def iterate(self) -> dict[str, float]:
        """Collect a little, learn a little; returns means, `train/...`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything but the memory's content."""
        ...

    def segments(self) -> Segments:
        """The memory's content; a segment's name changes exactly when its content does."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], read_segment: ReadSegment) -> None: ...


class Learner:
    """Calls `agent.update`, one random stream per update.

    Args:
        agent: learns.
        rng: of the loop.
        device: where random numbers are drawn.
    """

    def __init__(self, agent: Agent, rng: Rng, device: torch.device) -> None:
        self.agent, self.updates = agent, 0
        self._stream = rng.stream("update", 1, device)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        metrics = self.agent.update(batch, rng=self._stream.fold(self.updates))
        self.updates += 1
        return metrics


class Means:
    """Means of metrics, kept on the device until `take`."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Args: metrics: tensors of any shape; every element counts once."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value.detach().reshape(-1))

    def take(self, prefix: str = "train/") -> dict[str, float]:
        """The means since the last call."""
        out = {}
        for name, values in self._values.items():
            out[prefix + name] = float(torch.cat(values).to(torch.float64).mean())
        self._values = {}
        return out


# What is reported of episodes that ended while training; the rest of `info` is for evaluations.
_TRAIN = ("return", "length", "success")


def results_of(finished: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of finished episodes' results that is reported while training."""
    return {n: v for n, v in finished.items() if n in _TRAIN or n.startswith(("return.", "cost."))}


def acting_state(env: Env, agent: Agent, rollout: Rollout, rng: Rng) -> dict[str, Any]:
    """State of everything that acting depends on."""
    return {
        "agent": agent.state_dict(),
        "env": env.state_dict(),
        "rollout": rollout.state_dict(),
        "rng": rng.state_dict(),
    }


def load_acting_state(state: Mapping[str, Any], env: Env, agent: Agent, rollout: Rollout, rng: Rng) -> None:
    """The inverse of `acting_state`."""
    rng.load_state_dict(state["rng"])
    agent.load_state_dict(state["agent"])
    env.load_state_dict(state["env"])
    rollout.load_state_dict(state["rollout"])
