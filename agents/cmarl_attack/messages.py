"""Lies: the victims' messages are changed on their way, through whatever channel the team talks over.

| lie | what the others hear of a victim |
|---|---|
| flip | -m |
| noise | m plus or minus the L-infinity budget (else 1) in every feature, signs drawn at random |
| random | numbers uniform within +-max |m|, the largest feature of the message |
| silence | nothing |

Every lie stays within the L-infinity budget around m, except silence. The mates' policies are untouched; a
victim hears and acts as ever. These are the black-box attackers of the robust-communication literature (AME,
2206.10158; R-MACRL, 2108.03803); learned messages of R-MACRL's attacker are not here.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from marl.rng import Stream
from marl.types import Carry

_NOISE = 1.0  # without a budget; CHOICE: messages are features of about that size
Lie = Literal["flip", "noise", "random", "silence"]


class LyingLink:
    """A link whose victims lie in some worlds; everything else is the link's own.

    Args:
        link: that the team talks over.
        victims_K: who lies.
        lying_BK: bool; now.
        lie: how.
        linf: largest change of a feature.
        rng: one stream per world.
    """

    def __init__(
        self, link: Any, victims_K: Tensor, lying_BK: Tensor, *, lie: Lie, linf: float, rng: Stream
    ) -> None:
        self._link, self._victims_K, self._lying_BK = link, victims_K, lying_BK
        self._lie, self._linf, self._rng = lie, linf, rng
        self.testing: bool = link.testing
        self.rounds = 0
        self.change_BK = torch.zeros(
            lying_BK.shape, device=lying_BK.device
        )  # L1 of the messages' changes at this step
        self.largest_BK = torch.zeros(lying_BK.shape, device=lying_BK.device)  # L-infinity of them
        self.features_BK = torch.zeros(lying_BK.shape, device=lying_BK.device)  # L0 of them

    def send(self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """As the link's, after the victims' messages were changed."""
        true_BKM = message_BNM.index_select(1, self._victims_K)
        false_BKM = torch.where(self._lying_BK[..., None], self._false(true_BKM), true_BKM)
        self.rounds += 1
        N = wanted_BNN.shape[1]
        others_NN = ~torch.eye(N, dtype=torch.bool, device=wanted_BNN.device)
        # A lie that would be sent to nobody is not told and has no size.
        told_BK = (wanted_BNN & others_NN).any(1).index_select(1, self._victims_K)
        if self._lie == "silence":
            mute_BN = torch.zeros(len(true_BKM), N, dtype=torch.bool, device=message_BNM.device)
            mute_BN = mute_BN.index_copy(1, self._victims_K, self._lying_BK)
            wanted_BNN = wanted_BNN & ~mute_BN[:, None]
        eta_BKM = torch.where(told_BK[..., None], false_BKM - true_BKM, 0.0)
        self.change_BK = self.change_BK + eta_BKM.abs().sum(-1)
        self.largest_BK = torch.maximum(self.largest_BK, eta_BKM.abs().amax(-1))
        self.features_BK = self.features_BK + (eta_BKM != 0).sum(-1)
        out: tuple[Tensor, Tensor, Carry] = self._link.send(
            message_BNM.index_copy(1, self._victims_K, false_BKM), wanted_BNN, carry
        )
        return out

    def _false(self, m_BKM: Tensor) -> Tensor:
        if self._lie == "silence":
            return torch.zeros_like(m_BKM)
        lot_BKM = self._rng.fold("lie", self.rounds).uniform(*m_BKM.shape[1:])
        if self._lie == "flip":
            wanted = -m_BKM
        elif self._lie == "noise":
            size = self._linf if math.isfinite(self._linf) else _NOISE
            wanted = m_BKM + size * torch.where(lot_BKM < 0.5, -1.0, 1.0)
        else:
            wanted = (2 * lot_BKM - 1) * m_BKM.abs().amax(-1, keepdim=True)
        return wanted.clamp(m_BKM - self._linf, m_BKM + self._linf)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)
