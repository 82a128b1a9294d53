"""What pruners share that leave layers dense and hold their weights at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.nets import Linear
from marl.sparse.config import Layers
from marl.sparse.pruning.interface import Moved, Pruner, chosen_layers


class MaskPruner(Pruner):
    """A mask per layer, in a buffer; masked weights are zero and get no gradient.

    Args:
        network: its chosen layers are meant; they stay what they are.
        config: which.
    """

    def __init__(self, network: nn.Module, config: Layers) -> None:
        super().__init__()
        self.layers: tuple[tuple[str, Linear], ...] = tuple(chosen_layers(network, config))
        for index, (_, layer) in enumerate(self.layers):
            self.register_buffer(f"mask_{index}", torch.ones_like(layer.weight, dtype=torch.bool))

    def mask(self, index: int) -> Tensor:
        """Bool, true where a weight of layer `index` is kept; of the weight's shape."""
        mask: Tensor = getattr(self, f"mask_{index}")
        return mask

    @torch.no_grad()
    def before_step(self) -> None:
        for index, (_, layer) in enumerate(self.layers):
            assert layer.weight.grad is not None
            layer.weight.grad.mul_(self.mask(index))

    @torch.no_grad()
    def after_step(self, steps: int) -> list[Moved]:
        for index, (_, layer) in enumerate(self.layers):
            layer.weight.data.mul_(self.mask(index))  # an optimiser's momentum moves them even so
        return []

    def kept(self) -> dict[str, tuple[int, int]]:
        return {
            name: (int(self.mask(index).sum()), layer.weight.numel())
            for index, (name, layer) in enumerate(self.layers)
        }


def largest(size: Tensor, keep: int) -> Tensor:
    """Bool of the shape of `size`: true at its `keep` largest entries; of equal ones the first are kept."""
    order = size.reshape(-1).argsort(descending=True, stable=True)
    mask = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
    mask[order[:keep]] = True
    return mask.view(size.shape)
