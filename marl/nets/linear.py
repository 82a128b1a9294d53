"""The one factory of linear layers: `linear(inputs, outputs, ...)`.

Every network of the suite asks here for its layers and never knows how they are executed:
`marl.sparse.sparsify` may put grouped layers in their place once it is built, with the weights they have.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import kernels


class Linear(nn.Module):
    """y = x W^T + b, with one set of weights or one per agent.

    Args:
        weight: (outputs, inputs), or (C, outputs, inputs) for C copies of the weights.
        bias: (outputs,), or (C, outputs).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """The layer's output, after max(., 0) if relu.

        Args: x: (..., inputs), or (..., C, inputs) with copies. Returns: the same with outputs last.
        """
        if kernels.usable(x):
            return kernels.linear(x, self.weight, self.bias, relu=relu)
        return torch.relu(self._torch(x)) if relu else self._torch(x)

    def _torch(self, x: Tensor) -> Tensor:
        """The torch form: the reference of the native one, and what other devices run."""
        if self.weight.dim() == 2:
            return F.linear(x, self.weight, self.bias)
        x_CRI = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
        y_CRO = torch.baddbmm(self.bias[:, None], x_CRI, self.weight.transpose(1, 2))
        return y_CRO.transpose(0, 1).reshape(*x.shape[:-1], -1)


def dense_weight(layer: nn.Module) -> Tensor | None:
    """The dense weight that a layer multiplies by, (O, I) or (C, O, I); None where its products are sparse.

    Whoever runs several layers in one native pass asks here: a sparse layer in the place of a dense one
    serves too, as long as it has a weight of this form (`marl.sparse.GroupedLayer` with ste=full).
    """
    weight: Tensor | None = layer.weight if type(layer) is Linear else getattr(layer, "dense_weight", None)
    return weight


def linear(
    inputs: int,
    outputs: int,
    *,
    generator: torch.Generator,
    copies: int | None = None,
    gain: float | None = None,
) -> Linear:
    """Make a linear layer.

    Args:
        inputs, outputs: features, >= 1.
        generator: source of the initial weights.
        copies: None for one set of weights, or the number of independent sets (C >= 1); set c is
            applied to x[..., c, :].
        gain: None: weights and biases uniform on +-1/sqrt(inputs) (the default of torch.nn.Linear).
            A number > 0: orthogonal weights times it, zero biases.
    """
    lead = () if copies is None else (copies,)
    weight, bias = torch.empty(*lead, outputs, inputs), torch.zeros(*lead, outputs)
    if gain is None:
        bound = 1.0 / math.sqrt(inputs)
        weight.uniform_(-bound, bound, generator=generator)
        bias.uniform_(-bound, bound, generator=generator)
    else:
        for matrix in weight.reshape(-1, outputs, inputs):
            nn.init.orthogonal_(matrix, gain, generator=generator)
    return Linear(weight, bias)
