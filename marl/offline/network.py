"""The network of offline learners: linear - ReLU - LayerNorm, again and again."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import linear
from marl.nets.tower import LayerNorm


class Trunk(nn.Module):
    """Hidden layers, and one linear layer per head. Weights are orthogonal (gain sqrt 2), biases zero.

    Args:
        inputs: features.
        hidden, layers: features and number of hidden layers; 0 layers leave the heads alone.
        heads: outputs of every head, with the gain of its weights.
        layer_norm: a LayerNorm after every hidden layer.
        last_norm: the one after the last too.
        twice: the output may be differentiated twice (torch's own operations serve then).
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
        twice: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.twice, sizes = twice, [inputs] + [hidden] * layers
        gain = math.sqrt(2)
        self.layers = nn.ModuleList(linear(a, b, gain=gain, generator=generator) for a, b in pairwise(sizes))
        normed = (layers if last_norm else layers - 1) if layer_norm else 0
        self.norms = nn.ModuleList(LayerNorm(hidden, None) for _ in range(max(normed, 0)))
        self.heads = nn.ModuleList(linear(sizes[-1], n, gain=g, generator=generator) for n, g in heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Args: x: (..., inputs). Returns: one tensor (..., outputs) per head."""
        for i, layer in enumerate(self.layers):
            x = torch.relu(_affine(layer, x)) if self.twice else layer(x, relu=True)
            x = self.norms[i](x) if i < len(self.norms) else x
        return [_affine(head, x) if self.twice else head(x) for head in self.heads]


def _affine(layer: Any, x: Tensor) -> Tensor:
    """The layer by torch's own operation: the native one can be differentiated once only."""
    return F.linear(x, layer.weight, layer.bias)
