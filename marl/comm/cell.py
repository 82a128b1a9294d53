"""The cell of IC3Net: what was heard is added to the encoded observation before the LSTM.

| symbol | name here | meaning |
|---|---|---|
| e = W_e o | e_BNH | encoded observation |
| m_i | aggregate | what agent i makes of the messages that reached it |
| C | C | layer that every message passes |
| h, c | h_BNH, c_BNH | state of the LSTM |

With an LSTM: (h', c') = LSTM(e + C m, (h, c)), once per round. Without: h = tanh(e), then per round
h' = tanh(tanh(e) + W h + C m). CHOICE: rounds share C, LSTM and W.

References: Sukhbaatar et al. (CommNet), NeurIPS 2016; Singh et al. (IC3Net), ICLR 2019, released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marl.comm.aggregate import Aggregate, Mean
from marl.comm.config import CommConfig
from marl.comm.network import Exchange, State, TalkingNetwork
from marl.comm.sequence import lstm_sequence, serves
from marl.nets import LSTM, linear
from marl.types import EnvSpec

if TYPE_CHECKING:
    from marl.sparse.export.build import Builder


class CommNetwork(TalkingNetwork):
    """Encoder, cell and heads for action, value and gate.

    Args:
        inputs: features O.
        recurrent: with the LSTM or without.
        make_aggregate: makes what turns messages into one vector, from a generator of weights.
        others: of TalkingNetwork.
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
        super().__init__(actions, hidden=hidden, rounds=rounds, gated=gated, central=False)
        self.states = ("h", "c") if recurrent else ()
        self.encoder = linear(inputs, hidden, generator=generator)
        self.aggregate = make_aggregate(generator)
        self.C = linear(self.aggregate.size, hidden, generator=generator)
        self.lstm = LSTM(hidden, hidden, generator=generator) if recurrent else None
        self.W = None if recurrent else linear(hidden, hidden, generator=generator)
        self._make_heads(generator)

    def encode(self, obs: Tensor) -> Tensor:
        e: Tensor = self.encoder(obs)
        return e if self.lstm is not None else torch.tanh(e)

    def step(self, e_BNH: Tensor, state: State, alive_BN: Tensor, exchange: Exchange) -> State:
        state = state if self.lstm is not None else (e_BNH,)
        for _ in range(self.rounds):
            said_BNM = self.aggregate.message(state[0])
            m_BNF = self.aggregate(state[0], said_BNM, *exchange(said_BNM), alive_BN)
            x_BNH = e_BNH + self.C(m_BNF)
            if self.lstm is not None:
                state = self.lstm.step(x_BNH, *state)
            else:
                assert self.W is not None
                state = (torch.tanh(x_BNH + self.W(state[0])),)
        return state

    def forward(
        self, e_BTNH: Tensor, start_BT: Tensor, alive_BTN: Tensor, delivered_BTRNN: Tensor, state: State
    ) -> State:
        """As of every form; natively where that serves."""
        if isinstance(self.aggregate, Mean) and serves(e_BTNH, self.lstm, self.C):
            assert self.lstm is not None
            mix_BTRNN = self.aggregate.mix(delivered_BTRNN, alive_BTN[:, :, None])
            h_BNH, c_BNH = state
            return lstm_sequence(e_BTNH, start_BT, mix_BTRNN, (h_BNH, c_BNH), self.C, self.lstm)
        return super().forward(e_BTNH, start_BT, alive_BTN, delivered_BTRNN, state)

    def write(self, b: Builder, obs: str, state: tuple[str, ...], heard: str, alive: str) -> tuple[str, ...]:
        e = b.linear("encoder", self.encoder, obs, activation="none" if self.states else "tanh")
        state = state if self.lstm is not None else (e,)
        for r in range(self.rounds):
            m = self.aggregate.write(b, r, state[0], heard, alive)
            (x,) = b.step("add", (e, b.linear("C", self.C, m, makes=f"C_{r}")), (f"x_{r}",))
            if self.lstm is not None:
                last = r == self.rounds - 1
                names = ("next_h_BNH", "next_c_BNH") if last else (f"h_{r}", f"c_{r}")
                state = b.cell("lstm", self.lstm, (x, *state), names)
            else:
                assert self.W is not None
                own = b.linear("W", self.W, state[0], makes=f"own_{r}")
                state = b.step("tanh", b.step("add", (x, own), (f"sum_{r}",)), (f"h_{r}",))
        return state


def in_cell(
    spec: EnvSpec,
    config: CommConfig,
    *,
    gated: bool,
    make_aggregate: Callable[[torch.Generator], Aggregate],
) -> Callable[[torch.Generator], CommNetwork]:
    """What makes a team's network in this form, from a generator of weights."""

    def make(generator: torch.Generator) -> CommNetwork:
        return CommNetwork(
            spec.obs_size,
            spec.n_actions,
            hidden=config.hidden,
            rounds=config.rounds,
            recurrent=config.recurrent,
            gated=gated,
            make_aggregate=make_aggregate,
            generator=generator,
        )

    return make
