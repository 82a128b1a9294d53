"""How good a team is: a fixed set of episodes, each with its own random stream.

Episode e draws from row e of every stream of `rng`, whatever else runs beside it, so that the same
episodes are played at every evaluation and the result does not depend on the batch size (but for
the last bits of networks, whose products round differently in batches of different sizes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from marl.canvas import caption
from marl.channel import ChannelConfig, PerfectLink
from marl.rng import Rng, Stream
from marl.rollout import Rollout
from marl.types import Act, Agent, Env

_CAPTION_FRAMES = 8  # CHOICE: how long an episode's outcome stands still, in frames


class EnvConfig(Protocol):
    """The Config of any world."""

    def build(self, *, num_envs: int, device: torch.device, threads: int) -> Env: ...


class Watcher(Protocol):
    """Looks on while episodes are played."""

    def begin(self, env: Env) -> None:
        """A batch of worlds begins its first episodes."""
        ...

    def step(self, act: Act, playing_B: Tensor) -> None:
        """The team acted. Args: playing_B: bool; worlds in their first episode, which alone counts."""
        ...


def for_evaluation(env_config: EnvConfig) -> EnvConfig:
    """The world in which a team is measured and filmed.

    Returns:
        ``env_config.for_evaluation()`` where the Config has this method (a world that changes over training
        has: its curriculum ends there), else the config itself. Both must build worlds of one EnvSpec.
    """
    method = getattr(env_config, "for_evaluation", None)
    return env_config if method is None else method()


class Kept:
    """A world's Config that hands out the batch it built before, while as many envs are asked for.

    For worlds that start slowly: `evaluate` resets every batch, which starts new episodes as building does.

    Args:
        config: of the world in evaluation.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.max_envs = getattr(config, "max_envs", None)
        self._env: Env | None = None

    def build(self, *, num_envs: int, device: torch.device, threads: int) -> Env:
        if self._env is None or self._env.num_envs != num_envs:
            self._env = None  # its processes end before others start
            self._env = self.config.build(num_envs=num_envs, device=device, threads=threads)
        return self._env


def kept(env_config: EnvConfig) -> EnvConfig:
    """The world in which a team is measured again and again; kept open where its Config has `slow_start`."""
    config = for_evaluation(env_config)
    return Kept(config) if getattr(config, "slow_start", False) else config


@dataclass(kw_only=True)
class Evaluation:
    """What E episodes gave.

    Args:
        episodes: float64 tensors (E,) on the CPU: "return", "length" (steps), "success" (0 or 1) where
            the world says so, "return.<objective>", "cost.<name>", what else the world's
            `info` says of an episode at its end, and of teams that talk "link.messages" (sent),
            "link.delivered", "link.bits" (sent) and "link.talk" (fraction of ordered pairs and exchanges).
        link: statistics of messages (marl/channel) of all steps played, those beyond the E episodes too.
    """

    episodes: dict[str, Tensor]
    link: dict[str, float]

    @property
    def return_E(self) -> Tensor:
        return self.episodes["return"]

    @property
    def length_E(self) -> Tensor:
        return self.episodes["length"]

    @property
    def success_E(self) -> Tensor | None:
        return self.episodes.get("success")

    def means(self) -> dict[str, float]:
        return {name: float(value.mean()) for name, value in self.episodes.items()}

    def lists(self) -> dict[str, list[float]]:
        """Per-episode numbers as plain data."""
        return {name: value.tolist() for name, value in self.episodes.items()}


class _RowsFrom(Rng):
    """The same streams, their rows counted from `first` instead of 0."""

    def __init__(self, seed: int, *names: str, first: int) -> None:
        super().__init__(seed, *names)
        self.first = first

    def child(self, name: str) -> Rng:
        if name not in self._children:
            self._children[name] = _RowsFrom(self.seed, *self.names, name, first=self.first)
        return self._children[name]

    def stream(self, name: str, rows: int | Tensor, device: torch.device | str = "cpu") -> Stream:
        index_B = torch.arange(rows) if isinstance(rows, int) else rows
        return super().stream(name, index_B + self.first, device)


def evaluate(
    agent: Agent,
    env_config: EnvConfig,
    *,
    episodes: int,
    rng: Rng,
    device: torch.device,
    threads: int,
    explore: float = 0.0,
    batch: int | None = None,
    channel: ChannelConfig | None = None,
    watcher: Watcher | None = None,
) -> Evaluation:
    """Play `episodes` episodes, one per env; envs that end early play on, but only their first counts.

    Args:
        agent: acts; not changed.
        env_config: the world; as it is in evaluation (`for_evaluation`).
        episodes: E, at least 1.
        rng: which episodes; the same rng gives the same ones.
        device: of agent and world.
        threads: of the world.
        explore: 0 is greedy (deterministic), 1 a stochastic policy itself.
        batch: most envs at a time; None plays all at once, or as many as the config's `max_envs` allows (a
            world whose every env is a process of its own says so).
        channel: the link between the agents; None loses nothing.
        watcher: sees every step.
    """
    parts, links, env_config = [], [], for_evaluation(env_config)
    batch = batch or getattr(env_config, "max_envs", None) or episodes
    for first in range(0, episodes, batch):
        rows = min(batch, episodes - first)
        env = env_config.build(num_envs=rows, device=device, threads=threads)
        link = measuring_link(channel, device)
        rollout = Rollout(env, agent, _RowsFrom(rng.seed, *rng.names, first=first), link=link)
        if watcher is not None:
            watcher.begin(env)
        parts.append(_first_episodes(rollout, explore, watcher))
        links.append(rollout.link)
        del env, rollout  # processes of this batch end before the next one starts its own
    for link in links[1:]:
        links[0].add(link)
    return Evaluation(
        episodes={name: torch.cat([part[name] for part in parts]) for name in parts[0]},
        link=links[0].statistics(),
    )


def measuring_link(channel: ChannelConfig | None, device: torch.device) -> PerfectLink:
    """The link of a team that is measured or filmed."""
    link = PerfectLink(device) if channel is None else channel.build(device=device)
    link.testing = True
    return link


def _first_episodes(rollout: Rollout, explore: float, watcher: Watcher | None) -> dict[str, Tensor]:
    """Results of the first episode of every env, float64 on the CPU."""
    B = rollout.env.num_envs
    out: dict[str, Tensor] = {}
    pending_B = torch.ones(B, dtype=torch.bool)
    while pending_B.any():
        act, finished = rollout.step(explore)
        if watcher is not None:
            watcher.step(act, pending_B)
        if finished is None:
            continue
        env_F = finished.pop("env").cpu()
        new_F = pending_B[env_F]
        for name, value in finished.items():
            column_B = out.setdefault(name, torch.zeros(B, dtype=torch.float64))
            column_B[env_F[new_F]] = value.cpu().to(torch.float64)[new_F]
        pending_B[env_F] = False
    return out


def record(
    agent: Agent,
    env: Env,
    *,
    episodes: int,
    rng: Rng,
    explore: float = 0.0,
    channel: ChannelConfig | None = None,
    enough: int | None = None,
) -> list[np.ndarray]:
    """Pictures of the first env, one before each of its steps; after an episode a still one with its outcome.

    (The end of an episode cannot be drawn: the world has started the next one by then.)

    Args:
        agent: acts; not changed.
        env: reset here.
        episodes: how many of the first env's episodes, at least 1.
        rng: which episodes; those of `evaluate` with the same rng come first.
        explore, channel: as in `evaluate`.
        enough: no episode begins once there are so many pictures.

    Returns:
        RGB pictures (H, W, 3), uint8.
    """
    rollout = Rollout(env, agent, rng, link=measuring_link(channel, env.device))
    frames: list[np.ndarray] = []
    while int(rollout.episode_B[0]) < episodes:
        frames.append(env.render(0))
        _, finished = rollout.step(explore)
        if finished is not None and int(finished["env"][0]) == 0:
            frames += [caption(frames[-1], _outcome(finished))] * _CAPTION_FRAMES
            if enough is not None and len(frames) >= enough:
                break
    return frames


def conversation(
    agent: Agent,
    env_config: EnvConfig,
    *,
    rng: Rng,
    device: torch.device,
    threads: int,
    channel: ChannelConfig | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Who talks to whom in the first of the episodes that `evaluate` plays with the same rng.

    Returns:
        wanted_TNN and delivered_TNN, bool (receiver, sender), an entry per exchange; None without exchanges.
    """
    env = for_evaluation(env_config).build(num_envs=1, device=device, threads=threads)
    link = measuring_link(channel, device)
    link.trace = []
    rollout = Rollout(env, agent, rng, link=link)
    while rollout.step(0.0)[1] is None:
        pass
    if not link.trace:
        return None
    wanted_TNN, delivered_TNN = (torch.cat(part) for part in zip(*link.trace, strict=True))
    return wanted_TNN, delivered_TNN


def _outcome(finished: dict[str, Tensor]) -> str:
    """How the first finished episode ended, for a caption."""
    total = f"RETURN {float(finished['return'][0]):.1f}"
    if "success" not in finished:
        return total
    return f"{'WON' if finished['success'][0] else 'LOST'}  {total}"
