"""The perfect link, and the counting that all links share.

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

from marl.rng import Stream
from marl.types import Carry

_COUNTS = ("messages", "delivered", "bits", "pairs")  # pairs: ordered pairs that could have talked


class PerfectLink:
    """Delivers every wanted message at once and counts it. An agent needs no link to hear itself.

    Statistics count ordered pairs of different agents: a message to two others is two messages.

    Args:
        device: where messages live.
    """

    testing = False  # the team is measured or filmed: protocols for use, not for training, are in force

    def __init__(self, device: torch.device) -> None:
        self._total_4 = torch.zeros(len(_COUNTS), dtype=torch.int64, device=device)
        self._running_B4 = torch.zeros(0, len(_COUNTS), dtype=torch.int64, device=device)  # of each episode
        self.trace: list[tuple[Tensor, Tensor]] | None = None  # a list gets (wanted, delivered) of every send

    def begin(self, stream: Stream) -> None:
        """A step of acting begins. Args: stream: keyed by env, episode and step."""

    def send(self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Deliver messages.

        Args:
            message_BNM: one message per sender.
            wanted_BNN: bool (receiver, sender); the diagonal is ignored.
            carry: of the agent; state of links is added to it.

        Returns:
            received_BNNM: (receiver, sender); 0 where nothing was delivered.
            delivered_BNN: bool.
            carry: with the state of the links; the agent must hand it on.
        """
        N = wanted_BNN.shape[-1]
        wanted_BNN = wanted_BNN & ~torch.eye(N, dtype=torch.bool, device=wanted_BNN.device)
        received_BNNM, delivered_BNN, carry = self._carry_over(message_BNM, wanted_BNN, carry)
        self._count(message_BNM, wanted_BNN, delivered_BNN)
        return received_BNNM, delivered_BNN, carry

    def _carry_over(
        self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry
    ) -> tuple[Tensor, Tensor, Carry]:
        """What arrives of what was sent; as `send`, without self-messages."""
        return received_from(message_BNM[:, None], wanted_BNN), wanted_BNN, carry

    def _count(self, message_BNM: Tensor, wanted_BNN: Tensor, delivered_BNN: Tensor) -> None:
        B, N, M = message_BNM.shape
        if self._running_B4.shape[0] != B:
            self._running_B4 = self._total_4.new_zeros(B, len(_COUNTS))
        messages_B = wanted_BNN.sum((1, 2))
        self._running_B4[:, 0] += messages_B
        self._running_B4[:, 1] += delivered_BNN.sum((1, 2))
        self._running_B4[:, 2] += messages_B * (8 * M * message_BNM.element_size())
        self._running_B4[:, 3] += N * (N - 1)
        if self.trace is not None:
            self.trace.append((wanted_BNN, delivered_BNN))

    def finish(self, done_B: Tensor) -> dict[str, Tensor]:
        """Counts of the episodes that ended, float64 (F,): messages, delivered, bits, talk; {} without sends.

        Args:
            done_B: bool; at least one True.
        """
        if self._running_B4.shape[0] == 0:
            return {}
        ended_F4 = self._running_B4[done_B]
        self._total_4 += ended_F4.sum(0)
        self._running_B4.masked_fill_(done_B[:, None], 0)
        messages, delivered, bits, pairs = ended_F4.to(torch.float64).unbind(-1)
        talk = torch.where(pairs > 0, messages / pairs.clamp(min=1), 0.0)
        return {"messages": messages, "delivered": delivered, "bits": bits, "talk": talk}

    def statistics(self) -> dict[str, float]:
        """Since the beginning: messages sent, delivered, bits sent, and the fraction of pairs that talked."""
        counts = self._total_4 + self._running_B4.sum(0)
        messages, delivered, bits, pairs = counts.tolist()
        talk = messages / pairs if pairs else 0.0
        return {"messages": messages, "delivered": delivered, "bits": bits, "talk": talk}

    def add(self, other: PerfectLink) -> None:
        """Count what another link counted, too."""
        self._total_4 += other._total_4 + other._running_B4.sum(0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"total": self._total_4.clone(), "running": self._running_B4.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._total_4.copy_(state["total"])
        self._running_B4 = state["running"].to(self._total_4.device).clone()


def received_from(message: Tensor, delivered_BNN: Tensor) -> Tensor:
    """received_BNNM: messages (B, 1 or N, N, M) where they were delivered, else 0 (whatever was said)."""
    silence = torch.zeros((), dtype=message.dtype, device=message.device)
    return torch.where(delivered_BNN[..., None], message, silence)
