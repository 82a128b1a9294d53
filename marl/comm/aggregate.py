"""What an agent makes of the messages that reached it.

| symbol | name here | meaning |
|---|---|---|
| h_j | h_BNH | state of agent j |
| m_i | returned | what agent i takes in, before the layer C |
| p_ij | delivered_BNN | j's message reached i (receiver first); its gate g_j is within |
| k_j, v_j | in the message | signature and value of sender j (TarMAC, eq. 2) |
| q_i, alpha_ij | q_BNK, alpha_BNN | query of receiver i, and its attention to j (eq. 3) |

References: Sukhbaatar et al., "Learning Multiagent Communication with Backpropagation" (CommNet), NeurIPS
2016; Das et al., "TarMAC: Targeted Multi-Agent Communication", ICML 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from marl.nets import linear

if TYPE_CHECKING:
    from marl.sparse.export.build import Builder


class Aggregate(Protocol):
    """A module: what is said, and what is made of it."""

    size: int  # features of m_i
    sums: bool  # m_i grows with what is heard; else it is a mean over whoever is heard

    def message(self, h_BNH: Tensor) -> Tensor:
        """What every agent would send, (B, N, M)."""
        ...

    def __call__(
        self,
        h_BNH: Tensor,
        said_BNM: Tensor,
        received_BNNM: Tensor | None,
        delivered_BNN: Tensor,
        alive_BN: Tensor,
    ) -> Tensor:
        """m (B, N, size): zeros where an agent is not alive, or heard nobody.

        Args:
            h_BNH: states of the receivers.
            said_BNM: what each would send; an agent needs no link to hear itself.
            received_BNNM: (receiver, sender), 0 where nothing was delivered. None: what was said, as learning
                replays it, where a copy for every pair would only cost time.
            delivered_BNN: bool.
            alive_BN: bool.
        """
        ...

    def write(self, b: Builder, r: int, h: str, heard: str, alive: str) -> str:
        """The same in `marl export`'s words, in round r: from names of values to m's."""
        ...


class Mean(nn.Module):
    """m_i = sum_{j != i} p_ij h_j / (alive - 1).

    As in the released code of IC3Net the sum is divided by the number that could talk, not by the number that
    did: one talker among many is faint.

    Args: hidden: H.
    """

    sums = True  # the divisor does not depend on who is heard

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.size = hidden

    def message(self, h_BNH: Tensor) -> Tensor:
        return h_BNH

    def forward(
        self,
        h_BNH: Tensor,
        said_BNM: Tensor,
        received_BNNM: Tensor | None,
        delivered_BNN: Tensor,
        alive_BN: Tensor,
    ) -> Tensor:
        if received_BNNM is None:
            return torch.bmm(self.mix(delivered_BNN, alive_BN), said_BNM)
        return received_BNNM.sum(2) * self.mix(torch.ones_like(alive_BN[..., None]), alive_BN)

    def mix(self, delivered: Tensor, alive: Tensor) -> Tensor:
        """p_ij / (alive - 1), float (..., N, N). Args: bool (..., receiver, sender) and (..., N)."""
        others = (alive.sum(-1, keepdim=True) - 1).clamp(min=1)
        return delivered * (alive / others)[..., None]

    def write(self, b: Builder, r: int, h: str, heard: str, alive: str) -> str:
        return b.step("mean", (h, heard, alive), (f"m_{r}",))[0]


class Attention(nn.Module):
    """m_i = sum_j alpha_ij v_j, alpha_i = softmax_j(q_i . k_j / sqrt(K)) over itself and whom it heard.

    Args:
        hidden: H.
        signature: features K of signatures and queries.
        value: features of values.
        generator: source of the initial weights.
    """

    sums = False

    def __init__(self, hidden: int, *, signature: int, value: int, generator: torch.Generator) -> None:
        super().__init__()
        self.signature, self.size = signature, value
        self.say = linear(hidden, signature + value, generator=generator)
        self.query = linear(hidden, signature, generator=generator)

    def message(self, h_BNH: Tensor) -> Tensor:
        said: Tensor = self.say(h_BNH)
        return said

    def forward(
        self,
        h_BNH: Tensor,
        said_BNM: Tensor,
        received_BNNM: Tensor | None,
        delivered_BNN: Tensor,
        alive_BN: Tensor,
    ) -> Tensor:
        self_NN = torch.eye(h_BNH.shape[1], dtype=torch.bool, device=h_BNH.device)
        q_BNK, sizes = self.query(h_BNH), (self.signature, self.size)
        if received_BNNM is None:
            k_BNK, v_BNV = said_BNM.split(sizes, -1)
            scores_BNN = torch.bmm(q_BNK, k_BNK.transpose(1, 2))
        else:
            heard_BNNM = torch.where(self_NN[..., None], said_BNM[:, None], received_BNNM)
            k_BNNK, v_BNNV = heard_BNNM.split(sizes, -1)
            scores_BNN = (k_BNNK * q_BNK[:, :, None]).sum(-1)
        scores_BNN = (scores_BNN * self.signature**-0.5).masked_fill(~(delivered_BNN | self_NN), -torch.inf)
        alpha_BNN = scores_BNN.softmax(-1) * alive_BN[..., None]
        if received_BNNM is None:
            return torch.bmm(alpha_BNN, v_BNV)
        return (alpha_BNN[..., None] * v_BNNV).sum(2)

    def write(self, b: Builder, r: int, h: str, heard: str, alive: str) -> str:
        layers = b.shared("say", self.say), b.shared("query", self.query)
        return b.step("attention", (h, heard, alive), (f"m_{r}",), layers, signature=self.signature)[0]
