"""The only shapes that cross a border: EnvSpec, TimeStep, Act, Batch, and the three protocols.

Legend: B envs in the batch, T time, N agents, A actions, O observation features, S state features,
D hidden features, K objectives, C costs, M message features. A name carries its shape: `obs_BNO`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from marl.rng import Rng, Stream

Carry = dict[str, Tensor]  # recurrent state of acting; every tensor has B as its first dimension


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A named run of observation features: obs[start:stop], each within [low, high]."""

    name: str
    start: int
    stop: int
    low: float
    high: float
    kind: Literal["real", "binary", "onehot"]


@dataclass(frozen=True, kw_only=True)
class Discrete:
    """Actions 0 .. n-1."""

    n: int


@dataclass(frozen=True, kw_only=True)
class Box:
    """Real actions, one (low, high) pair per dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What a world promises; an agent is built from this alone.

    `reward` says which reward field of TimeStep is filled: one number for the team, one per agent,
    or a vector with `objectives` as names. Agents of unequal observation or action size are padded
    to the largest; `obs_slices` and `action_spaces` hold the true sizes.
    """

    name: str
    agents: tuple[str, ...]
    agent_types: tuple[str, ...]
    obs_size: int
    state_size: int
    action_spaces: tuple[Discrete | Box, ...]
    action_names: tuple[str, ...] = ()
    obs_slices: Mapping[str, tuple[Slice, ...]] = field(default_factory=dict)  # by agent type
    reward: Literal["team", "agent", "vector"] = "team"
    objectives: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    episode_limit: int
    has_graph: bool = False
    image_shape: tuple[int, ...] = ()

    @property
    def n_agents(self) -> int:
        return len(self.agents)

    @property
    def n_actions(self) -> int:
        """Largest number of discrete actions, or dimensions of the largest Box."""
        return max(s.n if isinstance(s, Discrete) else len(s.low) for s in self.action_spaces)

    @property
    def discrete(self) -> bool:
        return isinstance(self.action_spaces[0], Discrete)


@dataclass(kw_only=True)
class TimeStep:
    """What a batch of worlds says after `reset` or `step`.

    Where an episode ended (terminated or truncated) reward, cost and the final_* fields are of the
    old episode, everything else is already the first step of the next one (same-step auto-reset).
    `info` maps names to tensors with B first; `info["success"]` (bool) is valid where done.
    """

    obs_BNO: Tensor  # float32
    state_BS: Tensor  # float32
    avail_BNA: Tensor  # bool; at least one True per agent
    terminated_B: Tensor  # bool; the future is worth nothing
    truncated_B: Tensor  # bool; cut off, the future would have gone on
    present_BN: Tensor  # bool; exists in this episode
    alive_BN: Tensor  # bool; can act
    t_B: Tensor  # int64; steps since the episode's start
    reward_B: Tensor | None = None  # float32
    agent_reward_BN: Tensor | None = None  # float32
    reward_BK: Tensor | None = None  # float32
    cost_BC: Tensor | None = None  # float32
    graph_BNN: Tensor | None = None  # bool; who can reach whom
    image_BNCHW: Tensor | None = None
    final_obs_BNO: Tensor | None = None  # valid where done; None only after reset
    final_state_BS: Tensor | None = None
    final_avail_BNA: Tensor | None = None
    info: dict[str, Tensor] = field(default_factory=dict)

    @property
    def done_B(self) -> Tensor:
        return self.terminated_B | self.truncated_B

    def map(self, function: Callable[[Tensor], Tensor]) -> TimeStep:
        """A TimeStep with the function applied to every tensor."""
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = function(value)
        changed["info"] = {k: function(v) for k, v in self.info.items()}
        return replace(self, **changed)

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor by name; info entries as `info.<name>`."""
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "info"}
        out = {k: v for k, v in out.items() if v is not None}
        return out | {f"info.{k}": v for k, v in self.info.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> TimeStep:
        info = {k[5:]: v for k, v in state.items() if k.startswith("info.")}
        return cls(**{k: v for k, v in state.items() if not k.startswith("info.")}, info=info)


class Env(Protocol):
    """A batch of worlds on one device. No Python loop over envs or agents in `step`."""

    spec: EnvSpec
    num_envs: int
    device: torch.device

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 in every env; env b draws from ``rng.stream(name, num_envs)`` row b."""
        ...

    def step(self, actions_BN: Tensor) -> TimeStep:
        """One step; int64 (B, N) for Discrete, float32 (B, N, A) for Box actions."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state: after `load_state_dict` the env goes on bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...

    def render(self, index: int = 0) -> np.ndarray:
        """RGB picture (H, W, 3), uint8, of one env as it stands now."""
        ...


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """A tensor that the memory stores for the agent: shape without B and T, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(kw_only=True)
class Act:
    """What an agent decided: actions, its new carry, and what the memory shall store of it."""

    actions_BN: Tensor
    carry: Carry
    extras: dict[str, Tensor] = field(default_factory=dict)


class Link(Protocol):
    """The network between agents at acting time; counts what passes.

    `testing` says whether the team is being measured: a team that communicates in another way than it
    learns (a protocol that saves messages) follows it then.
    """

    testing: bool

    def send(self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Deliver messages: returns received_BNNM (receiver, sender), delivered_BNN and the carry.

        The state of the links is added to the agent's carry, which the agent must hand on.
        """
        ...


@dataclass(kw_only=True)
class Batch:
    """Sequences from a memory or a rollout, time second.

    Entry t holds the observation before the action of t. The entry after an episode's last action
    is the episode's final observation: `filled_BT` is False there (it has no action) and on
    padding. `start_BT` is True on the first entry of an episode: recurrent state is zero before it.
    The successor of a filled entry t is always entry t + 1. Entry T - 1 is never filled.
    """

    obs_BTNO: Tensor
    state_BTS: Tensor
    avail_BTNA: Tensor  # bool
    alive_BTN: Tensor  # bool
    actions_BTN: Tensor  # int64 (B,T,N), or float32 (B,T,N,A)
    last_actions_BTN: Tensor  # the action before; -1 (or zeros for Box) on the first entry of an episode
    terminated_BT: Tensor  # bool; of the transition t -> t+1
    truncated_BT: Tensor  # bool
    filled_BT: Tensor  # bool
    start_BT: Tensor  # bool
    reward_BT: Tensor | None = None
    agent_reward_BTN: Tensor | None = None
    reward_BTK: Tensor | None = None
    cost_BTC: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def mean_reward(self) -> Tensor:
        """Mean of the filled entries' rewards: the team's, or those of all agents or objectives."""
        rewards = (self.reward_BT, self.agent_reward_BTN, self.reward_BTK)
        reward = next(r for r in rewards if r is not None)
        return reward[self.filled_BT].mean()


class Agent(Protocol):
    """A team of learners. Files in agents/<name>/; built by its Config from an EnvSpec."""

    spec: EnvSpec
    extras_spec: dict[str, FieldSpec]

    def initial_carry(self, rows: int) -> Carry:
        """Carry before an episode's first step. Rows of finished episodes are reset by the rollout."""
        ...

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """Choose actions. `rng` is keyed by (env, episode, step).

        explore: 0 acts greedily (deterministic); above 0, value-based teams take a random available
        action with this probability and stochastic policies sample (1.0 = the policy itself).
        """
        ...

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Q-values or logits (B, N, A), differentiable in the observation."""
        ...

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One learning step; returns scalar metrics (detached). Always includes "loss"."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Nested dict: {"networks": {...tensors}, "targets": ..., "optimisers": ..., "counters": ...}."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
