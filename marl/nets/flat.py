"""All parameters of a network in one vector: one optimiser step, one norm, one copy to the target."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Bound(Protocol):
    """A module that keeps working tensors beside its parameters and buffers."""

    def bind(self) -> None:
        """Make them anew: parameters were moved, or parameters or buffers filled."""
        ...


def bind(network: nn.Module) -> None:
    """Call `bind` of every part that has it."""
    for module in network.modules():
        if isinstance(module, Bound):
            module.bind()


class FlatParameters:
    """Moves the parameters of a module into one vector and their gradients into another.

    The module's parameters become views, so that it works as before, while optimiser, gradient norm
    and target copy are one operation each instead of one per layer.

    Args:
        module: its parameters must be float tensors of one dtype on one device.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self.vector = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        self.start: dict[nn.Parameter, int] = {}  # where every parameter begins
        offset = 0
        for p in parameters:
            self.start[p] = offset
            p.data = self.vector.data[offset : offset + p.numel()].view(p.shape)
            p.grad = self.vector.grad[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()
        bind(module)

    @property
    def grad(self) -> Tensor:
        """The gradient of `vector`; autograd adds into it through the module's parameters."""
        assert self.vector.grad is not None
        return self.vector.grad
