"""A link that loses messages, in bursts, that is slow, and that has a capacity.

| symbol | name here | meaning |
|---|---|---|
| p_s | cumulative_SK | the chain of losses of every ordered pair (marl/channel/chain.py) |
| s_ij | link_state_BNN | its state, counted from 1; 0 before the episode's first exchange |
| D | delay | steps from sending to arrival |

CHOICE: chains of different pairs are independent, and move once per exchange whether or not the pair talks
(TMC's released code draws its masks so): they are the state of the air, not of a sender.
CHOICE: messages beyond the bandwidth are lost, whichever the draw leaves out; they count as sent.
What is on its way when an episode ends is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from marl.channel.chain import advance, cumulative, stationary
from marl.channel.link import PerfectLink, received_from
from marl.rng import Stream
from marl.types import Carry

_STATE = "link_state_BNN"


class ChannelLink(PerfectLink):
    """Losses, delay and bandwidth.

    The state of the links lies in the carry and is 0 at an episode's start. Random numbers are drawn from the
    stream of the step, so that what is lost does not depend on how many envs run, nor on who talks.

    Args:
        device: where messages live.
        back: probabilities of the chain of losses; () loses nothing.
        from_stationary: chains begin an episode as in the long run; else in state 0 (delivering), from which
            the first exchange moves on.
        delay: D, steps.
        bandwidth: bits per world and exchange, or None.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        back: Sequence[float] = (),
        from_stationary: bool = True,
        delay: int = 0,
        bandwidth: int | None = None,
    ) -> None:
        super().__init__(device)
        self.delay, self.bandwidth = delay, bandwidth
        self._cumulative_SK: Tensor | None = None
        if back:
            after_0 = [back[0], 1 - back[0]] + [0.0] * (len(back) - 2)
            start = stationary(back) if from_stationary else after_0
            self._cumulative_SK = cumulative(back, start).to(device)
        self._stream: Stream | None = None
        self._exchange = 0  # of the step, where agents talk in rounds

    def begin(self, stream: Stream) -> None:
        self._stream, self._exchange = stream.fold("link"), 0

    def _carry_over(
        self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry
    ) -> tuple[Tensor, Tensor, Carry]:
        assert self._stream is not None, "begin(stream) comes before the first send of a step"
        stream = self._stream.fold(self._exchange)
        passed_BNN = wanted_BNN
        if self.bandwidth is not None:
            bits = 8 * message_BNM.shape[-1] * message_BNM.element_size()
            passed_BNN = self._within(wanted_BNN, self.bandwidth // bits, stream)
        if self._cumulative_SK is not None:
            old_BNN = carry.get(_STATE, torch.zeros_like(wanted_BNN, dtype=torch.int64))
            u_BNN = stream.fold("loss").uniform(*wanted_BNN.shape[1:])
            state_BNN = advance(old_BNN, u_BNN, self._cumulative_SK)
            passed_BNN, carry = passed_BNN & (state_BNN == 1), carry | {_STATE: state_BNN}
        if self.delay:
            message_BNM, passed_BNN, carry = self._wait(message_BNM, passed_BNN, carry)
        self._exchange += 1
        return received_from(message_BNM[:, None], passed_BNN), passed_BNN, carry

    @staticmethod
    def _within(wanted_BNN: Tensor, most: int, stream: Stream) -> Tensor:
        """At most so many of the wanted messages, drawn at random."""
        lot = stream.fold("bandwidth").uniform(*wanted_BNN.shape[1:])
        lot = torch.where(wanted_BNN, lot, 2.0).flatten(1)
        rank = lot.argsort(dim=-1, stable=True).argsort(dim=-1)
        return wanted_BNN & (rank < most).view_as(wanted_BNN)

    def _wait(self, message_BNM: Tensor, passed_BNN: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """What was sent `delay` steps ago in this exchange; what is sent now goes to the end of the queue."""
        out, D = [], self.delay
        for name, new in (("message_BDNM", message_BNM), ("passed_BDNN", passed_BNN)):
            key = f"link_{self._exchange}_{name}"
            queue = carry.get(key, new.new_zeros(new.shape[0], D, *new.shape[1:]))
            out.append(queue[:, 0])
            carry = carry | {key: torch.cat([queue[:, 1:], new[:, None]], 1)}
        return out[0], out[1], carry
