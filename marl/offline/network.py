"""The network of offline learners: linear - ReLU - LayerNorm, again and again."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import kernels, linear, tower
from marl.nets.tower import LayerNorm


class Trunk(nn.Module):
    """Hidden layers, and one linear layer per head. Weights are orthogonal (gain sqrt 2), biases zero.

    Args:
        inputs: features.
        hidden, layers: features and number of hidden layers; 0 layers leave the heads alone.
        heads: outputs of every head, with the gain of its weights.
        layer_norm: a LayerNorm after every hidden layer.
        last_norm: the one after the last too.
        fused: all layers in one native pass where it serves, which rounds unlike one after the other; of one
            head alone.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        *,
        hidden: int,
        layers: int,
        heads: list[tuple[int, float]],
        layer_norm: bool,
        last_norm: bool = True,
        fused: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        gain, sizes = math.sqrt(2), [inputs] + [hidden] * layers
        self.layers = nn.ModuleList(linear(a, b, gain=gain, generator=generator) for a, b in pairwise(sizes))
        normed = (layers if last_norm else layers - 1) if layer_norm else 0
        self.norms = nn.ModuleList(LayerNorm(hidden, None) for _ in range(max(normed, 0)))
        self.heads = nn.ModuleList(linear(sizes[-1], n, gain=g, generator=generator) for n, g in heads)
        self.fused, self._plan, self._order = fused, torch.empty(0), list[nn.Parameter]()
        if fused:
            self._fuse(hidden, layers, heads[0][0])

    def _fuse(self, hidden: int, layers: int, outputs: int) -> None:
        """How the native pass has it: a LayerNorm stands before the layer that reads it."""
        before = [None, *self.norms, *[None] * (layers - len(self.norms))]
        stages = list(zip(before, [*self.layers, *self.heads], strict=True))
        rows = [(int(norm is not None), hidden, tower.CODES["relu"]) for norm, _ in stages[:-1]]
        rows.append((int(before[-1] is not None), outputs, tower.CODES[None]))
        self._plan = torch.tensor(rows, dtype=torch.int64)
        modules: list[Any] = [m for stage in stages for m in stage if m is not None]
        self._order = [p for m in modules for p in (m.weight, m.bias)]

    def native(self, x: Tensor) -> bool:
        """Whether the one native pass serves."""
        return self.fused and kernels.usable(x)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Args: x: (..., inputs). Returns: one tensor (..., outputs) per head."""
        if self.native(x):
            return [tower.run(x, self._plan, False, self._order)]
        for i, layer in enumerate(self.layers):
            x = layer(x, relu=True)
            x = self.norms[i](x) if i < len(self.norms) else x
        return [head(x) for head in self.heads]

    def twice(self, x: Tensor) -> Tensor:
        """The first head's output by torch's own operations: the native ones can be differentiated once."""
        for i, layer in enumerate(self.layers):
            x = torch.relu(_affine(layer, x))
            x = self.norms[i](x) if i < len(self.norms) else x
        return _affine(self.heads[0], x)

    def slope(self, x: Tensor) -> Tensor:
        """Gradient of the first head's outputs in x, a constant; where the native pass serves."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = tower.run(x, self._plan, False, [p.detach() for p in self._order])
            return torch.autograd.grad(y.sum(), x)[0]


def _affine(layer: Any, x: Tensor) -> Tensor:
    """The layer by torch's own operation."""
    return F.linear(x, layer.weight, layer.bias)
