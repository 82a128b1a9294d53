"""What a data set holds, read once before learning; and the scaling that follows from it.

| symbol | name here | meaning |
|---|---|---|
| s0 | first_state_ES | first states of the episodes |
| R_k | return_EK | undiscounted return of an episode, in the data's own units |
| | low_K, high_K | least and largest reward of an objective over all transitions |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.offline.reach import keys, reached
from marl.offline.transitions import Transitions, transitions
from marl.types import Batch, EnvSpec

_FLAT = 1e-6  # a feature that varies less is left unscaled; CHOICE


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Statistics of a data set, float32 but for counts."""

    transitions: int
    first_state_ES: Tensor
    length_E: Tensor  # int64
    return_EK: Tensor
    low_K: Tensor
    high_K: Tensor
    rewarded_K: Tensor  # int64; transitions whose reward is above the objective's least
    unreached_K: Tensor  # int64; episodes from whose first state the data lead to no such reward
    high_inside_K: Tensor  # largest reward of transitions that end no episode; -inf where all do
    obs_mean_O: Tensor
    obs_std_O: Tensor
    state_mean_S: Tensor
    state_std_S: Tensor


def describe(summary: Summary, names: Sequence[str]) -> list[str]:
    """A line for the data set and one per objective."""
    s, E = summary, len(summary.return_EK)
    out = [f"data: {E:,} episodes, {s.transitions:,} transitions"]
    for k, name in enumerate(names):
        low, high, mean = float(s.low_K[k]), float(s.high_K[k]), float(s.return_EK[:, k].mean())
        line = (
            f"objective {k} ({name}): rewards {low:.4g} to {high:.4g}, above the least in "
            f"{int(s.rewarded_K[k]):,} transitions, mean return {mean:.4g}"
        )
        if s.unreached_K[k]:
            line += f"; out of reach from the first states of {int(s.unreached_K[k]):,} episodes"
        out.append(line)
    return out


class _Moments:
    """Mean and deviation of rows, added up in float64."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.sum, self.square = self.sum + rows.sum(0), self.square + rows.square().sum(0)

    def take(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        std = (self.square / self.count - mean.square()).clamp(min=0).sqrt()
        return mean.float(), torch.where(std < _FLAT, 1.0, std).float()


def summarise(data: Iterable[Batch]) -> Summary:
    """Read every transition once.

    Args:
        data: whole episodes in order, as `Replay.scan` gives them.

    Raises:
        MarlError: there is no transition, or a number in one is not finite.
    """
    episodes = 0
    obs, state = _Moments(), _Moments()
    starts: list[Tensor] = []
    rewards: list[Tensor] = []
    firsts: list[Tensor] = []
    ends: list[Tensor] = []
    edges: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in data:
        t = transitions(batch)
        _refuse_not_finite(t, episodes)
        episodes += int(t.first_X.sum())
        obs.add(t.obs_XNO.flatten(0, 1))
        state.add(t.state_XS)
        starts.append(t.state_XS[t.first_X])
        rewards.append(t.reward_XK)
        firsts.append(t.first_X)
        ends.append(t.terminated_X | t.truncated_X)
        edges.append((keys(t.state_XS), keys(t.next_state_XS), t.terminated_X))
    if not obs.count:
        raise MarlError("the data set holds no transition: give one with at least one episode")
    reward_XK, first_X = torch.cat(rewards).double(), torch.cat(firsts)
    episode_X = first_X.cumsum(0) - 1
    E = int(episode_X[-1]) + 1
    return_EK = torch.zeros(E, reward_XK.shape[1], dtype=torch.float64, device=reward_XK.device)
    return_EK.index_add_(0, episode_X, reward_XK)
    (obs_mean, obs_std), (state_mean, state_std) = obs.take(), state.take()
    rewarded_XK = reward_XK > reward_XK.amin(0)
    key_X, next_key_X, terminated_X = (torch.cat(part) for part in zip(*edges, strict=True))
    return Summary(
        transitions=len(reward_XK),
        first_state_ES=torch.cat(starts),
        length_E=torch.bincount(episode_X, minlength=E),
        return_EK=return_EK.float(),
        low_K=reward_XK.amin(0).float(),
        high_K=reward_XK.amax(0).float(),
        rewarded_K=rewarded_XK.sum(0),
        unreached_K=(~reached(key_X, next_key_X, rewarded_XK, terminated_X, first_X)).sum(0),
        high_inside_K=reward_XK.masked_fill(torch.cat(ends)[:, None], -torch.inf).amax(0).float(),
        obs_mean_O=obs_mean,
        obs_std_O=obs_std,
        state_mean_S=state_mean,
        state_std_S=state_std,
    )


def _refuse_not_finite(t: Transitions, before: int) -> None:
    """Raise MarlError where a number is NaN or infinite.

    Args:
        t: of a batch.
        before: episodes that began in earlier ones.
    """
    parts = {
        "reward": t.reward_XK,
        "observation": t.obs_XNO,
        "state": t.state_XS,
        "next state": t.next_state_XS,
        "action": t.actions_XN,
    }
    for name, value in parts.items():
        wrong_X = ~value.isfinite().flatten(1).all(-1)
        if bool(wrong_X.any()):
            x = int(wrong_X.nonzero()[0])
            episode = before + int(t.first_X[: x + 1].sum()) - 1
            raise MarlError(
                f"episode {episode} of the data set holds a {name} that is NaN or infinite: repair or drop it"
            )


class Scaler(nn.Module):
    """Observations and states to mean 0 and deviation 1, rewards to [0, 1]; stored with the networks.

    Args:
        spec: sizes.
        objectives: K.
        inputs, rewards: whether each of the two is scaled.
    """

    def __init__(self, spec: EnvSpec, objectives: int, *, inputs: bool, rewards: bool) -> None:
        super().__init__()
        self.inputs, self.rewards = inputs, rewards
        sizes = {"obs": spec.obs_size, "state": spec.state_size, "reward": objectives}
        for name, size in sizes.items():
            self.register_buffer(f"{name}_shift", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def fit(self, summary: Summary) -> None:
        """Take the data set's statistics."""
        if self.inputs:
            self._set("obs", summary.obs_mean_O, summary.obs_std_O)
            self._set("state", summary.state_mean_S, summary.state_std_S)
        if self.rewards:
            span = summary.high_K - summary.low_K
            self._set("reward", summary.low_K, torch.where(span > 0, span, 1.0))

    def _set(self, name: str, shift: Tensor, scale: Tensor) -> None:
        self.get_buffer(f"{name}_shift").copy_(shift)
        self.get_buffer(f"{name}_scale").copy_(scale)

    def _apply_to(self, name: str, x: Tensor) -> Tensor:
        return (x - self.get_buffer(f"{name}_shift")) / self.get_buffer(f"{name}_scale")

    def obs(self, x: Tensor) -> Tensor:
        return self._apply_to("obs", x)

    def state(self, x: Tensor) -> Tensor:
        return self._apply_to("state", x)

    def reward(self, x: Tensor) -> Tensor:
        return self._apply_to("reward", x)
