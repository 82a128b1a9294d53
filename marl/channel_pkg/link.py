"""Links between agents at acting time: what is sent, what arrives, and how much it was.

| symbol | name here | meaning |
|---|---|---|
| m_j | message_BNM | what agent j says |
| w_ij | wanted_BNN | agent j's message shall reach agent i (receiver first) |
| p_ij | delivered_BNN | it did |
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from marl.types import Carry


class PerfectLink:
    """Delivers every wanted message at once and counts it. An agent needs no link to hear itself.

    Statistics count ordered pairs of different agents: a message to two others is two messages.

    Args:
        device: where messages live.
    """

    def __init__(self, device: torch.device) -> None:
        self._count_3 = torch.zeros(3, dtype=torch.int64, device=device)  # messages, bits, possible pairs

    def send(self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Deliver messages.

        Args:
            message_BNM: one message per sender.
            wanted_BNN: bool (receiver, sender); the diagonal is ignored.
            carry: state of links; this one has none.

        Returns:
            received_BNNM: (receiver, sender); 0 where nothing was delivered.
            delivered_BNN: bool.
            carry: unchanged.
        """
        B, N, M = message_BNM.shape
        self_NN = torch.eye(N, dtype=torch.bool, device=message_BNM.device)
        delivered_BNN = wanted_BNN & ~self_NN
        silence = torch.zeros((), dtype=message_BNM.dtype, device=message_BNM.device)
        received_BNNM = torch.where(delivered_BNN[..., None], message_BNM[:, None], silence)
        messages = delivered_BNN.sum()
        self._count_3[0] += messages
        self._count_3[1] += messages * (8 * M * message_BNM.element_size())
        self._count_3[2] += B * N * (N - 1)
        return received_BNNM, delivered_BNN, carry

    def statistics(self) -> dict[str, float]:
        """Since the beginning: messages, bits, and the fraction of ordered pairs that talked."""
        messages, bits, pairs = self._count_3.tolist()
        return {"messages": messages, "bits": bits, "talk": messages / pairs if pairs else 0.0}

    def add(self, other: PerfectLink) -> None:
        """Count what another link counted, too."""
        self._count_3 += other._count_3

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self._count_3.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._count_3.copy_(state["count"])
