"""Multi-layer perceptrons made of the factory's layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from marl.nets.linear import linear


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

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., sizes[0]). Returns: (..., sizes[-1])."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, relu=i != last)
        return x
