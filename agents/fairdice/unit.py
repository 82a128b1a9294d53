"""What the data earn on average: the unit in which `unit` counts.

| symbol | name here | meaning |
|---|---|---|
| J_i | return_K | (1 - gamma) sum_t gamma^t r_i(t) of the data's own episodes, as the learner sees rewards |
| s | share | `unit` of the config |
| k0 | | s times the mean over objectives of |J_i| |

CHOICE: an episode that was cut off after L steps is taken to go on as it went: its sum is divided by
1 - gamma^L. With ends=official every episode is, without its last transition, as those are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from marl.errors import MarlError
from marl.offline import Scaler, transitions
from marl.types import Batch


class DataReturn:
    """J of the data, from batches that are read for something else too.

    Args:
        gamma: discount.
        official: transitions that end an episode do not count, and none terminates.
    """

    def __init__(self, *, gamma: float, official: bool) -> None:
        self._gamma, self._official = gamma, official
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def passing(self, data: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, seen on their way. Args: data: whole episodes in order."""
        for batch in data:
            x = transitions(batch)
            self._parts.append((x.reward_XK, x.first_X, x.terminated_X, x.terminated_X | x.truncated_X))
            yield batch

    def return_K(self, scaler: Scaler, share_E: Tensor) -> Tensor:
        """J (K,) in float64.

        Args:
            scaler: of the rewards.
            share_E: weights of the episodes, >= 0.
        """
        parts = zip(*self._parts, strict=True)
        reward_XK, first_X, terminated_X, ends_X = (torch.cat(part) for part in parts)
        reward_XK, episode_X = scaler.reward(reward_XK).double(), first_X.cumsum(0) - 1
        step_X = torch.arange(len(first_X), device=first_X.device)
        step_X = step_X - step_X[first_X][episode_X]
        keep_X = ~ends_X if self._official else torch.ones_like(ends_X)
        gain_X = torch.where(keep_X, self._gamma ** step_X.double(), 0.0)
        zeros_E = gain_X.new_zeros(len(share_E))
        total_EK = gain_X.new_zeros(len(share_E), reward_XK.shape[1])
        total_EK.index_add_(0, episode_X, gain_X[:, None] * reward_XK)
        mass_E = zeros_E.index_add(0, episode_X, gain_X)  # (1 - gamma^L) / (1 - gamma)
        if not self._official:
            ended_E = zeros_E.index_add(0, episode_X, terminated_X.double()) > 0
            mass_E = torch.where(ended_E, 1 / (1 - self._gamma), mass_E)
        share_E = share_E.double() * (mass_E > 0)
        share_E = share_E / share_E.sum().clamp(min=1)
        return (share_E[:, None] * total_EK / mass_E.clamp(min=1)[:, None]).sum(0)


def unit_of(share: float, return_K: Tensor) -> float:
    """k0.

    Raises:
        MarlError: the data earn nothing at all.
    """
    mean = float(return_K.abs().mean())
    if not mean > 0:
        raise MarlError(
            f"agent.unit={share:g} is in mean returns of the data, which are 0 in every objective: leave it "
            "out, or add data that earn something"
        )
    return share * mean
