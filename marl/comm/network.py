"""The network of communicating agents, shared by all of them.

| symbol | name here | meaning |
|---|---|---|
| e = W_e o | e_BNH | encoded observation |
| m_i | aggregate | what agent i makes of the messages that reached it |
| C | C | layer that every message passes |
| h, c | h_BNH, c_BNH | state of the LSTM |
| g | gate | two-way choice: talk at the next step, or not |

With an LSTM: (h', c') = LSTM(e + C m, (h, c)), once per round. Without: h = tanh(e), then per round
h' = tanh(tanh(e) + W h + C m). CHOICE: rounds share C, LSTM and W.

References: Sukhbaatar et al. (CommNet), NeurIPS 2016; Singh et al. (IC3Net), ICLR 2019, released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marl.comm.aggregate import Aggregate
from marl.nets import LSTM, linear

# One round of messages: message_BNM to (received_BNNM, delivered_BNN). None: received as it was sent.
Exchange = Callable[[Tensor], tuple[Tensor | None, Tensor]]


class Outputs(NamedTuple):
    """Heads of one or more entries."""

    logits: Tensor  # (..., N, A)
    value: Tensor  # (..., N)
    gate: Tensor | None  # (..., N, 2): logits of silence and of talking


class CommNetwork(nn.Module):
    """Encoder, the cell that messages enter, and heads.

    Args:
        inputs, actions: features O and number A.
        hidden: H.
        rounds: exchanges per step.
        recurrent: with the LSTM or without.
        gated: with a head for the gate.
        make_aggregate: makes what turns messages into one vector, from a generator of weights.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        actions: int,
        *,
        hidden: int,
        rounds: int,
        recurrent: bool,
        gated: bool,
        make_aggregate: Callable[[torch.Generator], Aggregate],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.rounds, self.actions = rounds, actions
        self.encoder = linear(inputs, hidden, generator=generator)
        self.aggregate = make_aggregate(generator)
        self.C = linear(self.aggregate.size, hidden, generator=generator)
        self.lstm = LSTM(hidden, hidden, generator=generator) if recurrent else None
        self.W = None if recurrent else linear(hidden, hidden, generator=generator)
        self.heads = linear(hidden, actions + 1 + 2 * gated, generator=generator)

    def encode(self, obs: Tensor) -> Tensor:
        """e of any number of entries: (..., N, O) to (..., N, H)."""
        e: Tensor = self.encoder(obs)
        return e if self.lstm is not None else torch.tanh(e)

    def step(
        self, e_BNH: Tensor, h_BNH: Tensor, c_BNH: Tensor, alive_BN: Tensor, exchange: Exchange
    ) -> tuple[Tensor, Tensor]:
        """States after one entry, each (B, N, H). Without an LSTM h and c before it do not matter.

        Args:
            e_BNH: of `encode`.
            alive_BN: bool.
            exchange: called once per round.
        """
        h_BNH = h_BNH if self.lstm is not None else e_BNH
        for _ in range(self.rounds):
            said_BNM = self.aggregate.message(h_BNH)
            m_BNF = self.aggregate(h_BNH, said_BNM, *exchange(said_BNM), alive_BN)
            x_BNH = e_BNH + self.C(m_BNF)
            if self.lstm is not None:
                h_BNH, c_BNH = self.lstm.step(x_BNH, h_BNH, c_BNH)
            else:
                assert self.W is not None
                h_BNH = torch.tanh(x_BNH + self.W(h_BNH))
        return h_BNH, c_BNH

    def forward(
        self,
        e_BTNH: Tensor,
        start_BT: Tensor,
        alive_BTN: Tensor,
        delivered_BTRNN: Tensor,
        state: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """States after every entry, each (B, T, N, H), given which messages arrived.

        Args:
            e_BTNH: of `encode`.
            start_BT: bool; True where the state before the entry is zero.
            alive_BTN: bool.
            delivered_BTRNN: bool (round, receiver, sender).
            state: h and c before entry 0, each (B, N, H).
        """
        (B, T), (h_BNH, c_BNH) = start_BT.shape, state
        if self.lstm is None:  # entries do not depend on each other
            e, alive = e_BTNH.flatten(0, 1), alive_BTN.flatten(0, 1)
            exchange = _replay(delivered_BTRNN.flatten(0, 1))
            h, _ = self.step(e, e, e, alive, exchange)
            h_BTNH = h.view(B, T, *h.shape[1:])
            return h_BTNH, torch.zeros_like(h_BTNH)
        keep_BT11 = (~start_BT).to(e_BTNH.dtype)[..., None, None]
        states = []
        for t, e_BNH in enumerate(e_BTNH.unbind(1)):
            h_BNH, c_BNH = h_BNH * keep_BT11[:, t], c_BNH * keep_BT11[:, t]
            exchange = _replay(delivered_BTRNN[:, t])
            h_BNH, c_BNH = self.step(e_BNH, h_BNH, c_BNH, alive_BTN[:, t], exchange)
            states.append((h_BNH, c_BNH))
        h_T, c_T = zip(*states, strict=True)
        return torch.stack(h_T, 1), torch.stack(c_T, 1)

    def outputs(self, h: Tensor) -> Outputs:
        """Heads of states (..., N, H)."""
        logits, value, gate = self.heads(h).tensor_split((self.actions, self.actions + 1), -1)
        return Outputs(logits, value.squeeze(-1), gate if gate.shape[-1] else None)


def _replay(delivered_BRNN: Tensor) -> Exchange:
    """The exchange in which exactly these messages arrive, round by round."""
    rounds = iter(delivered_BRNN.unbind(1))
    return lambda message_BNM: (None, next(rounds))
