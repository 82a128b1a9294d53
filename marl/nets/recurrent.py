"""Recurrent cores over whole sequences with resets, and over single steps.

| symbol | name here | meaning |
|---|---|---|
| x_t | x_BTNI | input |
| h_t | h_BTNH | state after entry t |
| r, z, n | r, z, n | reset gate, update gate, candidate |

GRU (Cho et al. 2014 in the form of cuDNN and torch.nn.GRUCell):
r = sigma(W_ir x + b_ir + W_hr h + b_hr), z = sigma(W_iz x + b_iz + W_hz h + b_hz),
n = tanh(W_in x + b_in + r * (W_hn h + b_hn)), h' = (1 - z) * n + z * h.

LSTM (Hochreiter and Schmidhuber 1997 with forget gates, in the form of torch.nn.LSTMCell):
i, f, o = sigma(W_i. x + b_i. + W_h. h + b_h.), g = tanh(W_ig x + b_ig + W_hg h + b_hg),
c' = f * c + i * g, h' = o * tanh(c').
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from marl.nets import kernels
from marl.nets.linear import Linear, dense_weight, linear


class _Cell(nn.Module):
    """The two layers that make a cell's gates, of its input and of its state.

    CHOICE: weights and biases are uniform on +-1/sqrt(H), as in torch's cells, which PyMARL and IC3Net use.

    Args:
        inputs: input features I.
        hidden: state features H.
        generator: source of the initial weights.
        copies: None for one set of weights, or one per agent (then N must equal it).
    """

    GATES: ClassVar[int]

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        generator: torch.Generator,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = linear(inputs, self.GATES * hidden, generator=generator, copies=copies)
        self.recurrent = linear(hidden, self.GATES * hidden, generator=generator, copies=copies)
        bound = hidden**-0.5
        for p in self.parameters():
            nn.init.uniform_(p, -bound, bound, generator=generator)


class GRU(_Cell):
    """Gated recurrent unit; gate order r, z, n as in torch."""

    GATES = 3

    @property
    def _dense(self) -> tuple[Tensor, Tensor] | None:
        """W_i and W_h where the native form serves: it takes dense weights."""
        input, recurrent = dense_weight(self.input), dense_weight(self.recurrent)
        return None if input is None or recurrent is None else (input, recurrent)

    def step(self, x_BNI: Tensor, h_BNH: Tensor) -> Tensor:
        """The state after one entry, (B, N, H)."""
        if kernels.usable(x_BNI) and self._dense is not None:
            never_B1 = torch.zeros(x_BNI.shape[0], 1, dtype=torch.bool)
            return self(x_BNI[:, None], never_B1, h_BNH)[:, 0]
        return _gru(self.input(x_BNI), self.recurrent, h_BNH)

    def cell(self, x_BNI: Tensor, h_BNH: Tensor) -> Tensor:
        """As `step`, but differentiable in the state as well."""
        return _gru(self.input(x_BNI), self.recurrent, h_BNH)

    def forward(self, x_BTNI: Tensor, start_BT: Tensor, h_BNH: Tensor | None = None) -> Tensor:
        """States after every entry of every sequence.

        Args:
            x_BTNI: inputs.
            start_BT: bool; True where the state before the entry is zero.
            h_BNH: state before entry 0, a constant for the gradient; None is zero.

        Returns:
            h_BTNH.
        """
        if kernels.usable(x_BTNI) and (dense := self._dense) is not None:
            weights = dense[0], self.input.bias, dense[1], self.recurrent.bias
            return kernels.gru(x_BTNI, start_BT, h_BNH, *weights)
        return gru_sequence(self.input(x_BTNI), self.recurrent, start_BT, h_BNH)


def gru_sequence(
    gates_BTNG: Tensor, recurrent: Linear, start_BT: Tensor, h_BNH: Tensor | None = None
) -> Tensor:
    """The recurrence, as plain torch operations: the reference of the native kernel.

    Args:
        gates_BTNG: W_i x + b_i of all entries, G = 3H in the order r, z, n.
        recurrent: the layer W_h, b_h.
        start_BT: bool; True where the state before the entry is zero.
        h_BNH: state before entry 0, a constant for the gradient; None is zero.

    Returns:
        h_BTNH: states after every entry.
    """
    B, _, N, G = gates_BTNG.shape
    h_BNH = gates_BTNG.new_zeros(B, N, G // 3) if h_BNH is None else h_BNH.detach()
    keep_TB = (~start_BT).to(gates_BTNG.dtype).t()
    states = []
    for gates_BNG, keep_B in zip(gates_BTNG.unbind(1), keep_TB.unbind(0), strict=True):
        h_BNH = _gru(gates_BNG, recurrent, h_BNH * keep_B[:, None, None])
        states.append(h_BNH)
    return torch.stack(states, 1)


def _gru(gates_BNG: Tensor, recurrent: Linear, h_BNH: Tensor) -> Tensor:
    ir, iz, i_n = gates_BNG.chunk(3, -1)
    hr, hz, hn = recurrent(h_BNH).chunk(3, -1)
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    n = torch.tanh(i_n + r * hn)
    return n + z * (h_BNH - n)


class LSTM(_Cell):
    """Long short-term memory, one entry at a time; gate order i, f, g, o as in torch.

    A cell alone: what stands between two entries (messages of others) is the caller's loop.
    """

    GATES = 4

    def step(self, x_BNI: Tensor, h_BNH: Tensor, c_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """(h', c') after one entry, each (B, N, H); differentiable in all three."""
        products = self.input(x_BNI), self.recurrent(h_BNH)
        if kernels.usable(x_BNI):
            return kernels.lstm_cell(*products, c_BNH)
        i, f, g, o = (products[0] + products[1]).chunk(4, -1)
        c_BNH = torch.sigmoid(f) * c_BNH + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c_BNH), c_BNH
