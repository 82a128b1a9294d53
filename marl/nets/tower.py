"""Layers one above the other: [LayerNorm] - linear - activation, again and again, then [LayerNorm].

The native form takes a block of rows through all stages while it lies in the processor's cache; the torch
form below is its reference.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from marl.nets import kernels
from marl.nets.linear import Linear, linear

Activation = Literal["relu", "tanh"]
CODES = {None: 0, "relu": 1, "tanh": 2}  # marl/native/tower.cpp


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension, with one scale and shift for all agents or one each.

    Args:
        size: features.
        copies: None for one set of weights, or the number of agents.
    """

    def __init__(self, size: int, copies: int | None) -> None:
        super().__init__()
        shape = (size,) if copies is None else (copies, size)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class Tower(nn.Module):
    """Linear layers, each after a LayerNorm if asked; weights orthogonal, biases zero.

    Args:
        sizes: features from input to output, at least two numbers.
        activations: of every layer; None for none.
        gains: of the orthogonal weights of every layer.
        norm: a LayerNorm before every layer.
        norm_after: one more after the last.
        copies: None for one set of weights, or the number of agents (the dimension before the last).
        generator: source of the initial weights.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activations: Sequence[Activation | None],
        gains: Sequence[float],
        norm: bool,
        norm_after: bool = False,
        copies: int | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.activations = tuple(activations)
        self.layers = nn.ModuleList(
            linear(a, b, generator=generator, copies=copies, gain=gain)
            for (a, b), gain in zip(pairwise(sizes), gains, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(size, copies) for size in sizes[:-1] if norm)
        self.after = LayerNorm(sizes[-1], copies) if norm_after else None
        self._plan = plan(sizes[1:], self.activations, norm=norm)
        self._width, self._scratch = sum(sizes[1:]), torch.empty(0)
        order = (
            [m for pair in zip(self.norms, self.layers, strict=True) for m in pair] if norm else self.layers
        )
        modules: list[Any] = [*order, *([] if self.after is None else [self.after])]
        self._order = [
            p for module in modules for p in (module.weight, module.bias)
        ]  # as the native form has it

    def native(self, x: Tensor) -> bool:
        """Whether the native form serves: it takes dense weights, not sparse layers in their place."""
        return kernels.usable(x) and all(type(layer) is Linear for layer in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., sizes[0]). Returns: (..., sizes[-1])."""
        if not self.native(x):
            return self.torch_form(x)
        return run(x, self._plan, self.after is not None, self._order)

    def torch_form(self, x: Tensor) -> Tensor:
        """The torch form: the reference of the native one, and what other devices run."""
        for i in range(len(self.layers)):
            x = self._stage(i, x)
        return x if self.after is None else self.after(x)

    def _stage(self, i: int, x: Tensor) -> Tensor:
        y: Tensor = self.layers[i](self.norms[i](x) if self.norms else x)
        activation = self.activations[i]
        return y if activation is None else torch.relu(y) if activation == "relu" else torch.tanh(y)

    def view(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs as `torch_form`, and what the last layer makes them of."""
        *first, last = range(len(self.layers))
        for i in first:
            x = self._stage(i, x)
        y = self._stage(last, x)
        return (y if self.after is None else self.after(y)), x

    @torch.no_grad()
    def learn(self, x: Tensor, loss: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Add a loss's gradient to the parameters' without autograd, which costs more than small layers.

        Args:
            x: constant, one that the native form serves, (..., sizes[0]).
            loss: from the outputs, values of any kind and the gradient (..., sizes[-1]).

        Returns:
            The loss's values.
        """
        x, after = x.contiguous(), self.after is not None
        wanted = x.shape[:-1].numel() * self._width
        if self._scratch.numel() < wanted:  # kept: fresh pages cost as much as the products that fill them
            self._scratch = x.new_empty(wanted)
        saved = self._scratch
        values, dy = loss(_forward(x, self._plan, after, self._order, saved))
        for p in self._order:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients = [p.grad for p in self._order if p.grad is not None]
        _backward(x, self._plan, after, self._order, saved, dy, None, gradients, add=True)
        return values


def plan(outputs: Sequence[int], activations: Sequence[Activation | None], *, norm: bool = False) -> Tensor:
    """Of every layer: a LayerNorm before it or not, outputs, activation; as the native form has it."""
    codes = [CODES[a] for a in activations]
    return torch.tensor([(int(norm), b, a) for b, a in zip(outputs, codes, strict=True)], dtype=torch.int64)


def run(x: Tensor, plan: Tensor, after: bool, parameters: Sequence[Tensor]) -> Tensor:
    """The native form, differentiable.

    Args:
        x: float32 (..., inputs), on the CPU.
        plan: of `plan`.
        after: a LayerNorm follows the last layer.
        parameters: of every layer [gain, shift,] W, b; then [gain, shift].
    """
    if torch.is_grad_enabled():
        return _Native.apply(x, plan, after, *parameters)
    return _forward(x.contiguous(), plan, after, parameters, None)


def _pointers(tensors: Sequence[Tensor]) -> kernels.Pointers:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def _sizes(x: Tensor, plan: Tensor, parameters: Sequence[Tensor]) -> tuple[int, int, int, int]:
    """Rows, copies of the weights, inputs, stages."""
    copies = 1 if parameters[-1].dim() == 1 else parameters[-1].shape[0]
    return x.shape[:-1].numel() // copies, copies, x.shape[-1], len(plan)


def _forward(
    x: Tensor, plan: Tensor, after: bool, parameters: Sequence[Tensor], saved: Tensor | None
) -> Tensor:
    y = x.new_empty(*x.shape[:-1], parameters[-1].shape[-1])
    arguments = plan, int(after), x, _pointers(parameters), saved, y, kernels.threads()
    kernels.call("marl_tower_forward", *_sizes(x, plan, parameters), *arguments)
    return y


def _backward(
    x: Tensor,
    plan: Tensor,
    after: bool,
    parameters: Sequence[Tensor],
    saved: Tensor,
    dy: Tensor,
    dx: Tensor | None,
    gradients: Sequence[Tensor] | None,
    *,
    add: bool,
) -> None:
    """Write the parameters' gradients, or add to them."""
    wanted = None if gradients is None else _pointers(gradients)
    arrays = x, _pointers(parameters), saved, dy.contiguous(), dx, wanted
    sizes = _sizes(x, plan, parameters)
    kernels.call("marl_tower_backward", *sizes, plan, int(after), *arrays, int(add), kernels.threads())


class _Native(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Tensor, after: bool, *parameters: Tensor) -> Tensor:
        x = x.contiguous()
        saved = x.new_empty(x.shape[:-1].numel() * sum(plan[:, 1].tolist()))
        y = _forward(x, plan, after, parameters, saved)
        ctx.save_for_backward(x, plan, saved, *parameters)
        ctx.after = after
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, plan, saved, *parameters = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        learns = any(ctx.needs_input_grad[3:])
        gradients = [torch.empty_like(p) for p in parameters] if learns else None
        _backward(x, plan, ctx.after, parameters, saved, dy, dx, gradients, add=False)
        return dx, None, None, *(gradients if gradients is not None else (None for _ in parameters))
