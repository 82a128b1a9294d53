"""An episode as plain tensors, and its way into a memory and out of it again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.errors import MarlError
from marl.offline.transitions import rewards_of
from marl.records import START, TERMINATED, TRUNCATED, Layout, pack_bits
from marl.replay import Replay
from marl.types import EnvSpec

_REWARD = {"team": "reward", "agent": "agent_reward", "vector": "reward_vector"}


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An episode of L steps; entry L holds the final observation (U = L + 1).

    Args:
        obs_UNO, state_US: float32.
        avail_UNA, alive_UN: bool.
        actions_LN: int64 (L, N), or float32 (L, N, A).
        reward_LK: float32; K objectives, N agents or the team's one, as the world's spec says.
        terminated: it ended; else it was cut off.
    """

    obs_UNO: Tensor
    state_US: Tensor
    avail_UNA: Tensor
    alive_UN: Tensor
    actions_LN: Tensor
    reward_LK: Tensor
    terminated: bool

    @property
    def length(self) -> int:
        return len(self.reward_LK)


def pack(layout: Layout, episode: Episode) -> Tensor:
    """The records (L + 1, R) of an episode, as `Replay.append` takes them.

    Raises:
        MarlError: an array has another shape than the world's.
    """
    spec, U = layout.spec, episode.length + 1
    N, A = spec.n_agents, spec.n_actions
    rows_UR = torch.zeros(U, layout.size, dtype=torch.uint8)
    views, reward = layout.views(rows_UR), _REWARD[spec.reward]
    parts = {
        "obs": episode.obs_UNO,
        "state": episode.state_US,
        "action": episode.actions_LN,
        reward: episode.reward_LK,
    }
    for name, value in parts.items():
        view = views[name] if name in ("obs", "state") else views[name][1:]
        view = view[:, None] if name == "reward" else view  # the team's one, not the first of several
        if view.shape != value.shape:
            raise MarlError(
                f"the data's {name} has shape {tuple(value.shape)}, env={spec.name} has {tuple(view.shape)}: "
                "use the env that the data were made in"
            )
        view.copy_(value)
    if spec.discrete:
        least, most = int(episode.actions_LN.min()), int(episode.actions_LN.max())
        if least < 0 or most >= A:
            raise MarlError(
                f"the data's actions reach from {least} to {most}, env={spec.name} has 0 to {A - 1}: "
                "use the env that the data were made in"
            )
        views["action"][0] = -1
    bits_UK = torch.zeros(U, 8 * layout.fields["bits"].bytes, dtype=torch.bool)
    bits_UK[:, : N * A] = episode.avail_UNA.reshape(U, -1)
    bits_UK[:, N * A : N * A + N] = episode.alive_UN
    views["bits"].copy_(pack_bits(bits_UK))
    views["flags"][0] = START
    views["flags"][-1] = TERMINATED if episode.terminated else TRUNCATED
    return rows_UR


def memory_of(spec: EnvSpec, episodes: Iterable[Episode], device: torch.device) -> Replay:
    """A memory that holds exactly these episodes.

    Raises:
        MarlError: there is none, or an array does not fit the world.
    """
    layout = Layout.of(spec, {})
    packed = [pack(layout, episode) for episode in episodes]
    if not packed:
        raise MarlError("the data set holds no episode: give one with at least one")
    memory = Replay(layout, sum(len(rows) for rows in packed), device)
    for rows_LR in packed:
        memory.append(rows_LR.to(device))
    return memory


def episodes_of(memory: Replay) -> Iterator[Episode]:
    """The stored episodes, oldest first, on the CPU."""
    edges = memory.edges()
    for first, end in itertools.pairwise(edges):
        batch = memory.window(first, end)
        L = end - first - 1
        yield Episode(
            obs_UNO=batch.obs_BTNO[0].cpu(),
            state_US=batch.state_BTS[0].cpu(),
            avail_UNA=batch.avail_BTNA[0].cpu(),
            alive_UN=batch.alive_BTN[0].cpu(),
            actions_LN=batch.actions_BTN[0, :L].cpu(),
            reward_LK=rewards_of(batch)[0, :L].cpu(),
            terminated=bool(batch.terminated_BT[0, L - 1]),
        )
