"""A two-layer mixing network whose weights are made anew for every row and count by their size.

| symbol | name here | meaning |
|---|---|---|
| q | q | N inputs |
| W_1, b_1 | w1, b1 | first layer: N x E weights, E biases |
| w_2, b_2 | w2, b2 | second layer: E weights, one bias |
| y | returned | elu(q |W_1| + b_1) . |w_2| + b_2, never falling in any q |
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from marl.nets import kernels


def monotonic_mix(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Mix N values into one; differentiable in all arguments.

    Args:
        q: float (..., N).
        w1: (..., N E); weight e of input n is number n E + e.
        b1, w2: (..., E).
        b2: (..., 1).

    Returns:
        (..., 1).
    """
    if not kernels.usable(q):
        return monotonic_mix_torch(q, w1, b1, w2, b2)
    arrays = [x.contiguous() for x in (q, w1, b1, w2, b2)]
    return _Mix.apply(*arrays) if torch.is_grad_enabled() else _forward(*arrays)


def monotonic_mix_torch(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The torch form: the reference of the native one, and what other devices run."""
    w1 = w1.abs().unflatten(-1, (q.shape[-1], -1))
    hidden = F.elu((q[..., None] * w1).sum(-2) + b1)
    return (hidden * w2.abs()).sum(-1, keepdim=True) + b2


def _sizes(q: Tensor, w2: Tensor) -> tuple[int, int, int]:
    return q.shape[:-1].numel(), q.shape[-1], w2.shape[-1]


def _forward(q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    y = torch.empty_like(b2)
    kernels.call("marl_mixing_forward", *_sizes(q, w2), q, w1, b1, w2, b2, y, kernels.threads())
    return y


class _Mix(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(q, w1, b1, w2)
        return _forward(q, w1, b1, w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        saved, dy = ctx.saved_tensors, dy.contiguous()
        gradients = [torch.empty_like(x) for x in saved]
        sizes = _sizes(saved[0], saved[3])
        kernels.call("marl_mixing_backward", *sizes, *saved, dy, *gradients, kernels.threads())
        return *gradients, dy
