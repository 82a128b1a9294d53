"""What an exported policy computes with: layers whose every tensor and setting can be written down.

| kind | tensors | settings |
|---|---|---|
| linear | weight (O, I) or (C, O, I), bias | inputs, outputs, copies, activation |
| grouped | packed (nnz,), bias, group_in, group_out: (O,) or (C, O) | those of linear, groups |
| norm | weight (size,) or (C, size), bias | size, copies |
| box | low, high, middle, half_width (N, A) | agents, actions |

`packed` holds the blocks of the groups after each other, each outputs x inputs, row-major, as
`marl.sparse.Layout` has them; copies follow each other. Group indices take one byte each (two from 257
groups on). The numeric format of a layer is the dtype of its weights.
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

ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu, "elu": F.elu, "tanh": torch.tanh}


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
    """y = f(x (W * mask)^T + b): only blocks of groups are there, for one set of weights or each agent."""

    kind = "grouped"
    packed: Tensor
    bias: Tensor
    group_in: Tensor
    group_out: Tensor

    def __init__(self, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__(settings, tensors)
        I, O = settings["inputs"], settings["outputs"]  # noqa: E741 - the legend's letters
        groups = zip(self.group_in.long().view(-1, I), self.group_out.long().view(-1, O), strict=True)
        self.layouts = [Layout.of(*pair, settings["groups"]).settle() for pair in groups]
        if len(self.packed) != sum(layout.nnz for layout in self.layouts):
            kept = sum(layout.nnz for layout in self.layouts)
            raise MarlError(f"packed has {len(self.packed)} weights, its groups keep {kept}")

    @staticmethod
    def shapes(*, inputs: int, outputs: int, groups: int, copies: int | None, activation: str) -> Shapes:
        lead = () if copies is None else (copies,)
        ends = {"bias": outputs, "group_in": inputs, "group_out": outputs}
        return {"packed": None, **{name: (*lead, size) for name, size in ends.items()}}

    @property
    def dense_bytes(self) -> int:
        """Bytes of dense weights and the biases."""
        weights = self.settings["inputs"] * self.settings["outputs"] * len(self.layouts)
        return weights * self.packed.element_size() + self.bias.numel() * self.bias.element_size()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., I), or (..., C, I). Returns: the same with O last."""
        packed = self.packed.split([layout.nnz for layout in self.layouts])
        if self.settings["copies"] is None:
            y = grouped_linear(x, packed[0], self.bias, self.layouts[0])
        else:
            parts = zip(packed, self.bias, self.layouts, strict=True)
            y = torch.stack([grouped_linear(x[..., c, :], *part) for c, part in enumerate(parts)], -2)
        return ACTIVATIONS[self.settings["activation"]](y)


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
