"""IC3Net's cell over whole sequences with its gradient written out: CPU, dense layers, means of messages.

| symbol | name here | meaning |
|---|---|---|
| P_t | mix | p_ij / (alive - 1): what receiver i makes of sender j's state, per round |
| m = P h, x = e + C m + b_C | m, x | what was heard; input of the cell |
| gates | in marl/native/lstm.cpp | W [x, h] + b with W = [W_i, W_h], b = b_i + b_h |

The same numbers as `TalkingNetwork.forward`, within rounding. Autograd would keep a graph of a dozen small
operations per step and sum the weights' gradients step by step; here they are one product over all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from marl.nets import LSTM, Linear, dense_weight, kernels


def serves(e: Tensor, lstm: nn.Module | None, C: nn.Module) -> bool:
    """Whether `lstm_sequence` does this cell's work: layers that multiply by dense weights."""
    if not isinstance(lstm, LSTM) or not kernels.usable(e):
        return False
    return all(dense_weight(layer) is not None for layer in (C, lstm.input, lstm.recurrent))


def lstm_sequence(
    e_BTNH: Tensor,
    start_BT: Tensor,
    mix_BTRNN: Tensor,
    state: tuple[Tensor, Tensor],
    C: Linear,
    lstm: LSTM,
) -> tuple[Tensor, Tensor]:
    """(h, c) after every entry, each (B, T, N, H); the gradient reaches e and the weights.

    Args:
        e_BTNH: encoded observations, float32.
        start_BT: bool; True where the state before the entry is zero.
        mix_BTRNN: P of every round R (receiver, sender), float32.
        state: before entry 0, each (B, N, H), constants.
        C: layer that messages pass.
        lstm: the cell.
    """
    weights = [dense_weight(layer) for layer in (lstm.input, lstm.recurrent, C)]
    W_i, W_h, W_C = (w for w in weights if w is not None)
    W = torch.cat((W_i, W_h), 1)
    b = lstm.input.bias + lstm.recurrent.bias
    keep_TB11 = (~start_BT).to(e_BTNH.dtype).t()[..., None, None]
    e_TBNH = (e_BTNH + C.bias).transpose(0, 1).contiguous()
    mix_TRBNN = mix_BTRNN.permute(1, 2, 0, 3, 4).contiguous()
    states = [x_BNH.detach() for x_BNH in state]
    h_TBNH, c_TBNH = _Sequence.apply(e_TBNH, keep_TB11, mix_TRBNN, *states, W_C, W, b)
    return h_TBNH.transpose(0, 1), c_TBNH.transpose(0, 1)


class _Sequence(Function):
    """Rows K = B N; every tensor that is kept has time and round first."""

    @staticmethod
    def forward(
        ctx: Any, e: Tensor, keep: Tensor, mix: Tensor, h: Tensor, c: Tensor, C: Tensor, W: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        (T, B, N, H), R = e.shape, mix.shape[1]
        K = B * N
        m, xh, before = e.new_empty(T, R, K, H), e.new_empty(T, R, K, 2 * H), e.new_empty(T, R, K, H)
        saved = e.new_empty(T, R, K, 5, H)
        h_T, c_T = e.new_empty(T, B, N, H), e.new_empty(T, B, N, H)
        for t in range(T):
            h, c = h * keep[t], c * keep[t]
            for r in range(R):
                torch.bmm(mix[t, r], h, out=m[t, r].view(B, N, H))
                xh[t, r, :, :H] = torch.addmm(e[t].view(K, H), m[t, r], C.t())
                xh[t, r, :, H:] = h.view(K, H)
                before[t, r] = c.view(K, H)
                gates = torch.addmm(b, xh[t, r], W.t())
                h, c = kernels.lstm_forward(gates, None, before[t, r], saved[t, r])
                h, c = h.view(B, N, H), c.view(B, N, H)
            h_T[t], c_T[t] = h, c
        ctx.save_for_backward(keep, mix, C, W, m, xh, before, saved)
        ctx.set_materialize_grads(False)
        return h_T, c_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up_h: Tensor | None, up_c: Tensor | None) -> tuple[Tensor | None, ...]:
        keep, mix, C, W, m, xh, before, saved = ctx.saved_tensors
        (T, R, B, N, _), H = mix.shape, m.shape[-1]
        K = B * N
        dgates, dx = m.new_empty(T, R, K, 4 * H), m.new_empty(T, R, K, H)
        dh, dc = m.new_zeros(B, N, H), m.new_zeros(B, N, H)
        for t in reversed(range(T)):
            dh = dh if up_h is None else dh + up_h[t]
            dc = dc if up_c is None else dc + up_c[t]
            for r in reversed(range(R)):
                flat = dh.reshape(K, H), dc.reshape(K, H)
                dc = kernels.lstm_backward(saved[t, r], before[t, r], *flat, dgates[t, r]).view(B, N, H)
                both = dgates[t, r] @ W
                dx[t, r] = both[:, :H]
                dm = (dx[t, r] @ C).view(B, N, H)
                dh = both[:, H:].reshape(B, N, H).baddbmm(mix[t, r].transpose(1, 2), dm)
            dh, dc = dh * keep[t], dc * keep[t]
        rows = T * R * K
        dgates, dx = dgates.view(rows, -1), dx.view(T, R, K, H)
        dC = dx.view(rows, H).t() @ m.view(rows, H)
        dW, db = dgates.t() @ xh.view(rows, -1), dgates.sum(0)
        return dx.sum(1).view(T, B, N, H), None, None, None, None, dC, dW, db
