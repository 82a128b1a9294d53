"""An episode as plain tensors, and its way into a memory and out of it again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.errors import MarlError
from marl.offline.transitions import rewards_of
from marl.records import START, TERMINATED, TRUNCATED, Layout, pack_bits
from marl.replay import Replay
from marl.types import Box, EnvSpec

_REWARD = {"team": "reward", "agent": "agent_reward", "vector": "reward_vector"}
# How far an action may lie outside its Box, in widths of it (or its nearer end's size, where that is more);
# CHOICE: what rounding to half precision does, and no more.
_OUTSIDE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An episode of L steps; entry L holds the final observation (U = L + 1).

    Args:
        obs_UNO, state_US: float32.
        avail_UNA, alive_UN: bool.
        actions_LN: int64 (L, N), or float32 (L, N, A).
        reward_LK: float32; K objectives, N agents or the team's one, as the world's spec says.
        terminated: it ended; else it was cut off.
        origin: where it was read from, for errors.
    """

    obs_UNO: Tensor
    state_US: Tensor
    avail_UNA: Tensor
    alive_UN: Tensor
    actions_LN: Tensor
    reward_LK: Tensor
    terminated: bool
    origin: str = ""

    @property
    def length(self) -> int:
        return len(self.reward_LK)


def pack(layout: Layout, episode: Episode, number: int = 0) -> Tensor:
    """The records (L + 1, R) of an episode, as `Replay.append` takes them.

    Args:
        layout: of the memory.
        episode: to be packed.
        number: of the episode, for errors, where it has no origin.

    Raises:
        MarlError: an array has another shape than the world's, holds NaN or infinite numbers or none that are
            real, actions are none of the world's or not available, or the episode is empty or longer than the
            world's limit.
    """
    spec, U = layout.spec, episode.length + 1
    rows_UR = torch.zeros(U, layout.size, dtype=torch.uint8)
    views = layout.views(rows_UR)
    reward_LK = views[_REWARD[spec.reward]][1:]
    into = {
        "obs": views["obs"],
        "state": views["state"],
        "action": views["action"][1:],
        # The team's one, not the first of several.
        "reward": reward_LK[:, None] if spec.reward == "team" else reward_LK,
    }
    parts = {
        "obs": episode.obs_UNO,
        "state": episode.state_US,
        "action": episode.actions_LN,
        "reward": episode.reward_LK,
    }
    shapes = {name: tuple(view.shape) for name, view in into.items()}
    _refuse_unfit(spec, episode, parts, shapes, episode.origin or f"episode {number}")
    for name, value in parts.items():
        into[name].copy_(value)
    if spec.discrete:
        views["action"][0] = -1
    N, bits = spec.n_agents, spec.n_agents * spec.n_actions
    bits_UK = torch.zeros(U, 8 * layout.fields["bits"].bytes, dtype=torch.bool)
    bits_UK[:, :bits] = episode.avail_UNA.reshape(U, -1)
    bits_UK[:, bits : bits + N] = episode.alive_UN
    views["bits"].copy_(pack_bits(bits_UK))
    views["flags"][0] = START
    views["flags"][-1] = TERMINATED if episode.terminated else TRUNCATED
    return rows_UR


def _refuse_unfit(
    spec: EnvSpec,
    episode: Episode,
    parts: dict[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
) -> None:
    """See `pack`. Args: parts, shapes: what is stored as numbers, and the world's shapes of them."""
    L, U, N, A = episode.length, episode.length + 1, spec.n_agents, spec.n_actions
    if not 1 <= L <= spec.episode_limit:
        raise MarlError(
            f"{where} has {L} steps, episodes of env={spec.name} have 1 to {spec.episode_limit}: "
            "use the env that the data were made in, or split or drop it"
        )
    masks = {"avail": episode.avail_UNA, "alive": episode.alive_UN}
    shapes = {**shapes, "avail": (U, N, A), "alive": (U, N)}
    for name, value in (parts | masks).items():
        if value.shape != shapes[name]:
            raise MarlError(
                f"{where}: the data's {name} has shape {tuple(value.shape)}, env={spec.name} has "
                f"{shapes[name]}: use the env that the data were made in"
            )
        if value.is_complex():
            raise MarlError(f"{where}: the data's {name} has complex numbers: give real ones")
    for name, value in parts.items():
        if not bool(value.float().isfinite().all()):  # what float32 cannot hold is infinite
            raise MarlError(f"{where}: the data's {name} holds NaN or infinite numbers: repair or drop it")
    if spec.discrete:
        _refuse_unnumbered(spec, episode.actions_LN, where)
        _refuse_unavailable(spec, episode, where)
    else:
        _refuse_outside(spec, episode, where)


def _refuse_unnumbered(spec: EnvSpec, actions_LN: Tensor, where: str) -> None:
    """Refuse actions that are not among 0 to A - 1."""
    if bool((actions_LN != actions_LN.floor()).any()):
        raise MarlError(
            f"{where}: the data's actions are no whole numbers, env={spec.name} numbers its own from 0 to "
            f"{spec.n_actions - 1}: use the env that the data were made in"
        )
    least, most = int(actions_LN.min()), int(actions_LN.max())
    if least < 0 or most >= spec.n_actions:
        raise MarlError(
            f"{where}: the data's actions reach from {least} to {most}, env={spec.name} has 0 to "
            f"{spec.n_actions - 1}: use the env that the data were made in"
        )


def _refuse_unavailable(spec: EnvSpec, episode: Episode, where: str) -> None:
    """Refuse living agents' actions that the data's own masks forbid: a policy gives them no probability."""
    chosen_LN1 = episode.actions_LN.long().unsqueeze(-1)
    wrong_LN = ~episode.avail_UNA[:-1].bool().gather(-1, chosen_LN1).squeeze(-1)
    wrong_LN &= episode.alive_UN[:-1].bool()
    if bool(wrong_LN.any()):
        step, n = wrong_LN.nonzero()[0].tolist()
        raise MarlError(
            f"{where}: the data's action {int(chosen_LN1[step, n])} of {spec.agents[n]} in step {step} is "
            "not available there by the data's avail: repair the masks or drop the episode"
        )


def _refuse_outside(spec: EnvSpec, episode: Episode, where: str) -> None:
    """Refuse living agents' actions outside their own Boxes; what fills these up may be anything."""
    for n, space in enumerate(spec.action_spaces):
        if not isinstance(space, Box):
            continue
        actions_LA = episode.actions_LN[:, n, : len(space.low)].float()
        low_A, high_A = torch.tensor(space.low).float(), torch.tensor(space.high).float()
        width_A = torch.where((high_A - low_A).isfinite(), high_A - low_A, 1.0)
        slack_A = _OUTSIDE * torch.maximum(width_A, torch.minimum(low_A.abs(), high_A.abs()))
        wrong_LA = (actions_LA < low_A - slack_A) | (actions_LA > high_A + slack_A)
        wrong_LA &= episode.alive_UN[:-1, n, None]
        if bool(wrong_LA.any()):
            step, d = wrong_LA.nonzero()[0].tolist()
            raise MarlError(
                f"{where}: the data's action {float(actions_LA[step, d]):.4g} of {spec.agents[n]} in step "
                f"{step}, dimension {d}, lies outside [{space.low[d]:.4g}, {space.high[d]:.4g}], its Box in "
                f"env={spec.name}: use the env that the data were made in, or clip the data's actions"
            )


def memory_of(spec: EnvSpec, episodes: Iterable[Episode], device: torch.device) -> Replay:
    """A memory that holds exactly these episodes.

    Raises:
        MarlError: there is none, or one does not fit the world (`pack`).
    """
    layout = Layout.of(spec, {})
    packed = [pack(layout, episode, number) for number, episode in enumerate(episodes)]
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
