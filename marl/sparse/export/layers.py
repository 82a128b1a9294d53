"""What an exported policy computes with: layers whose every tensor and setting can be written down.

| kind | tensors | settings |
|---|---|---|
| linear | weight (O, I) or (C, O, I), bias | inputs, outputs, copies, activation |
| grouped | packed (nnz,), bias (O,), group_in (I,), group_out (O,) | inputs, outputs, groups, activation |
| norm | weight (size,) or (C, size), bias | size, copies |
| box | low, high, middle, half_width (N, A) | agents, actions |

`packed` holds the blocks of the groups after each other, each outputs x inputs, row-major, as
`marl.sparse.Layout` has them. Group indices take one byte each (two from 257 groups on). The numeric
format of a layer is the dtype of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.errors import MarlError
from marl.sparse.layout import Layout
from marl.sparse.linear import grouped_linear

Shapes = dict[str, tuple[int, ...] | None]

ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu, "tanh": torch.tanh}


class Layer(nn.Module):
    """Base of the kinds: constant tensors (buffers) and settings.

    Args:
        settings: plain numbers and text.
        tensors: by the names of the kind.

    Raises:
        MarlError: tensors or settings do not fit each other.
    """

    kind: ClassVar[str]
    shapes: ClassVar[Callable[..., Shapes]]  # of every tensor from the settings; None: only the content tells

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.settings = dict(settings)
        wanted = self.shapes(**settings)
        if tensors.keys() != wanted.keys():
            raise MarlError(f"a layer of kind {self.kind} has the tensors {', '.join(wanted)}")
        for name, value in tensors.items():
            shape = tuple(value.shape)
            if wanted[name] is not None and shape != wanted[name]:
                raise MarlError(f"{name} has shape {shape}, its settings say {wanted[name]}")
            self.register_buffer(name, value.detach().clone())

    @property
    def format(self) -> str:
        """Numeric format of the weights."""
        return str(next(iter(self.buffers())).dtype).removeprefix("torch.")

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    @property
    def dense_bytes(self) -> int:
        """Bytes of the same layer with nothing left out."""
        return sum(t.numel() * t.element_size() for t in self.buffers())

    @property
    def bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.numel() * t.element_size() for t in self.buffers())


class Dense(Layer):
    """y = f(x W^T + b), with one set of weights or one per agent."""

    kind = "linear"
    weight: Tensor
    bias: Tensor

    @staticmethod
    def shapes(*, inputs: int, outputs: int, copies: int | None, activation: str) -> Shapes:
        lead = () if copies is None else (copies,)
        return {"weight": (*lead, outputs, inputs), "bias": (*lead, outputs)}

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., I), or (..., C, I). Returns: the same with O last."""
        if self.weight.dim() == 2:
            y = F.linear(x, self.weight, self.bias)
        else:
            x_CRI = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
            y_CRO = torch.baddbmm(self.bias[:, None], x_CRI, self.weight.transpose(1, 2))
            y = y_CRO.transpose(0, 1).reshape(*x.shape[:-1], self.weight.shape[1])
        return ACTIVATIONS[self.settings["activation"]](y)


class Grouped(Layer):
    """y = f(x (W * mask)^T + b): only the blocks of the groups are there."""

    kind = "grouped"
    packed: Tensor
    bias: Tensor
    group_in: Tensor
    group_out: Tensor

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(settings, tensors)
        self.layout = Layout.of(self.group_in.long(), self.group_out.long(), settings["groups"])
        if len(self.packed) != self.layout.nnz:
            raise MarlError(f"packed has {len(self.packed)} weights, its groups keep {self.layout.nnz}")
        self.traced = False  # while True: plain products of blocks, which other programs can run
        # Plain numbers: what is read from a tensor while a program is traced would belong to that program.
        self._sizes = list(zip(self.layout.sizes_in, self.layout.sizes_out, strict=True))
        self._place_O = self.layout.order_out_O.argsort()  # group-major position of every output

    @staticmethod
    def shapes(*, inputs: int, outputs: int, groups: int, activation: str) -> Shapes:
        return {"packed": None, "bias": (outputs,), "group_in": (inputs,), "group_out": (outputs,)}

    @property
    def dense_bytes(self) -> int:
        """Bytes of a dense weight and the bias."""
        weights = self.settings["inputs"] * self.settings["outputs"]
        return weights * self.packed.element_size() + self.bias.numel() * self.bias.element_size()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., I). Returns: (..., O)."""
        activation = self.settings["activation"]
        if not self.traced:
            y = grouped_linear(x, self.packed, self.bias, self.layout, relu=activation == "relu")
            return torch.tanh(y) if activation == "tanh" else y
        return ACTIVATIONS[activation](self._blocks(x))

    def _blocks(self, x: Tensor) -> Tensor:
        """Gather, one product per group, scatter."""
        xs = x[..., self.layout.order_in_I].split([m for m, _ in self._sizes], -1)
        blocks = self.packed.split([m * n for m, n in self._sizes])
        parts = [
            F.linear(x_g, block.view(n, m)) if m else x.new_zeros(*x.shape[:-1], n)
            for x_g, block, (m, n) in zip(xs, blocks, self._sizes, strict=True)
            if n
        ]
        return torch.cat(parts, -1)[..., self._place_O] + self.bias


class Norm(Layer):
    """LayerNorm over the last dimension."""

    kind = "norm"
    weight: Tensor
    bias: Tensor

    @staticmethod
    def shapes(*, size: int, copies: int | None) -> Shapes:
        shape = (size,) if copies is None else (copies, size)
        return {"weight": shape, "bias": shape}

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class ToBox(Layer):
    """A Gaussian's mean to the world's action: middle + half_width * x, clipped to [low, high]."""

    kind = "box"
    low: Tensor
    high: Tensor
    middle: Tensor
    half_width: Tensor

    @staticmethod
    def shapes(*, agents: int, actions: int) -> Shapes:
        return dict.fromkeys(("low", "high", "middle", "half_width"), (agents, actions))

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(self.middle + self.half_width * x, self.low), self.high)


KINDS: dict[str, type[Layer]] = {layer.kind: layer for layer in (Dense, Grouped, Norm, ToBox)}
