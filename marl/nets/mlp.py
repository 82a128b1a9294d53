"""Multi-layer perceptrons made of the factory's layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from marl.nets import kernels, tower
from marl.nets.linear import dense_weight, linear

# CHOICE: from so many inputs on, skipping those that are zero (native `linear`) is worth more than keeping
# what stands between two layers in the cache.
_MANY_INPUTS = 128


class MLP(nn.Module):
    """Linear layers with ReLU between them (none after the last).

    Args:
        sizes: features from input to output, at least two numbers; two make one linear layer.
        generator: source of the initial weights.
        copies: as in `marl.nets.linear`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        generator: torch.Generator,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            linear(a, b, generator=generator, copies=copies) for a, b in pairwise(sizes)
        )
        activations: list[tower.Activation | None] = ["relu"] * (len(sizes) - 2)
        self._plan = tower.plan(sizes[1:], [*activations, None])

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., sizes[0]). Returns: (..., sizes[-1])."""
        if kernels.usable(x) and len(self.layers) > 1 and x.shape[-1] < _MANY_INPUTS:
            layers: list[Any] = list(self.layers)
            weights = [dense_weight(layer) for layer in layers]
            dense = [
                t for w, layer in zip(weights, layers, strict=True) if w is not None for t in (w, layer.bias)
            ]
            if len(dense) == 2 * len(layers):  # no sparse products in their place
                return tower.run(x, self._plan, False, dense)
        return self.by_layers(x)

    def by_layers(self, x: Tensor) -> Tensor:
        """One layer after the other: the reference of the native form, and what others run."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, relu=i != last)
        return x
