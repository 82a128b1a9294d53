"""Block-circulant weights: every k x k block of a layer repeats k values along its diagonals.

W[a k + p, b k + q] = c_ab[(p - q) mod k]: a layer stores 1 / k of its weights. The entries that share a value
are a class; the gradient of c is the sum over its class. The layer stays dense, and every entry of a class
takes the same step, so that they stay equal. Blocks at an edge that k does not divide hold shorter classes.
CHOICE: a class starts with the value of its first entry, so that weights keep the size they had.
CHOICE: a gradient's norm counts every entry of a class.

References: Ding et al., "CirCNN", MICRO 2017 (arXiv 1708.08917); as a rival in LearningGroup's figure 4a.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.errors import require
from marl.sparse.config import Layers
from marl.sparse.pruning.interface import Moved, Pruner, chosen_layers


@dataclass(kw_only=True)
class BlockCirculant(Layers):
    """Block-circulant weights."""

    block: int = 2  # k, >= 1; stores 1 / k: 2 is LearningGroup's 50 %

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.block >= 1, "block", self.block, "give an integer >= 1")

    def build(self, network: nn.Module, generator: torch.Generator) -> CirculantPruner:
        return CirculantPruner(network, self)


def first_of_class(shape: torch.Size | tuple[int, ...], block: int) -> Tensor:
    """(count,) for every entry of a flattened weight the position of the first entry of its class.

    Args: shape: (..., O, I); every leading index has classes of its own. block: k.
    """
    O, I = shape[-2:]  # noqa: E741 - outputs and inputs
    row, column = torch.arange(O)[:, None], torch.arange(I)[None]
    top, left = row // block * block, column // block * block
    diagonal = (row - top - (column - left)) % block
    # A diagonal starts in the block's first row, or where the block is cut off before, at its left edge.
    start = -diagonal % block
    inside = left + start < I
    first_OI = torch.where(inside, top * I + left + start, (top + block - start) * I + left)
    lead = torch.arange(torch.Size(shape[:-2]).numel())[:, None] * (O * I)
    return (lead + first_OI.reshape(1, -1)).reshape(-1)


class CirculantPruner(Pruner):
    """Args: network: its chosen layers are tied, now and after every step; config: block size."""

    def __init__(self, network: nn.Module, config: BlockCirculant) -> None:
        super().__init__()
        self._layers = tuple(chosen_layers(network, config))
        self._first = {
            name: first_of_class(layer.weight.shape, config.block).to(layer.weight.device)
            for name, layer in self._layers
        }
        self._tie()

    @torch.no_grad()
    def _tie(self) -> None:
        for name, layer in self._layers:
            tie(layer.weight.data, self._first[name])

    @torch.no_grad()
    def before_step(self) -> None:
        for name, layer in self._layers:
            assert layer.weight.grad is not None
            share_gradient(layer.weight.grad, self._first[name])

    def after_step(self, steps: int) -> list[Moved]:
        self._tie()  # equal but for rounding, which may differ along a vector
        return []

    def kept(self) -> dict[str, tuple[int, int]]:
        """Stored values."""
        return {name: (len(self._first[name].unique()), layer.weight.numel()) for name, layer in self._layers}


def tie(weight: Tensor, first: Tensor) -> None:
    """Give every entry the value of its class's first."""
    weight.copy_(weight.reshape(-1)[first].view(weight.shape))


def share_gradient(gradient: Tensor, first: Tensor) -> None:
    """Give every entry the sum of its class's gradients."""
    flat = gradient.reshape(-1)
    gradient.copy_(torch.zeros_like(flat).index_add(0, first, flat)[first].view(gradient.shape))
