"""What every way to make a network sparse offers to the optimiser that trains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.nets import Linear
from marl.rng import Rng
from marl.sparse.config import Layers
from marl.sparse.layer import GroupedLayer


class Moved(NamedTuple):
    """Entries of a parameter changed places: what now stands at position p stood at order[p]."""

    parameter: nn.Parameter
    order: Tensor


class Resting(NamedTuple):
    """A flat parameter of which only the first `kept` entries take part in steps, `factor` times as long."""

    parameter: nn.Parameter
    kept: int
    factor: float


class Pruner(nn.Module):
    """Decides which weights of a network count, while it learns.

    A module so that what it must remember, in buffers, is in the network's checkpoint: it is registered there
    as `pruner`. `marl.nets.Optimiser` calls it around every step. This one does nothing.
    """

    def clear(self) -> None:
        """Gradients begin anew: forget those that are not in the parameters' own."""

    def before_step(self) -> None:
        """The loss was differentiated: gradients may be changed before their norm is taken."""

    def after_step(self, steps: int) -> list[Moved]:
        """Weights may be changed. Args: steps: of the optimiser so far, this one counted."""
        return []

    def resting(self) -> list[Resting]:
        """Parameters that do not take part in a step as a whole, in the order of the network."""
        return []

    def observe(self, reward: Tensor) -> None:
        """The mean reward of what is learned from next."""

    def kept(self) -> dict[str, tuple[int, int]]:
        """Kept weights and all weights of every layer by name."""
        return {}

    def grouped(self) -> Iterable[tuple[str, GroupedLayer]]:
        """Grouped layers by name."""
        return ()

    def metrics(self) -> dict[str, Tensor]:
        """Scalars for the run's log: the density of all layers together and of each."""
        kept = self.kept()
        total = sum(count for _, count in kept.values())
        out = {"density": torch.tensor(sum(n for n, _ in kept.values()) / total, dtype=torch.float64)}
        for name, (n, count) in kept.items():
            out[f"density/{name}"] = torch.tensor(n / count, dtype=torch.float64)
        return out


def chosen_layers(network: nn.Module, config: Layers) -> Iterator[tuple[str, Linear]]:
    """The factory's layers that the config means, by name.

    Raises:
        MarlError: there is none, or a name of the config is no layer of the network and no part of it.
    """
    names = [name for name, _ in network.named_modules()]
    for part in config.named:
        if part not in names:
            raise MarlError(
                f"the network has no layer {part}: its parts are {', '.join(filter(None, names))}"
            )
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, Linear) and config.means(name, *module.weight.shape[-2:])
    ]
    if not found:
        fix = "widen the network or set sparsity.smallest lower"
        raise MarlError(f"no layer has {config.smallest} inputs and outputs, none becomes sparse: {fix}")
    yield from found


def sparsify(network: nn.Module, config: Layers | None, rng: Rng) -> Pruner | None:
    """Make a network sparse as a config says, before its parameters go to an optimiser.

    Args:
        network: changed in place; its weights stay, so that it starts as its dense twin of the same seed.
        config: None leaves it as it is.
        rng: source of what is random, of a stream that nothing else draws from.

    Returns:
        The pruner, a part of the network from now on; its optimiser needs it. None without a config.
    """
    if config is None:
        return None
    pruner = config.build(network, rng.torch("sparsity"))
    network.add_module("pruner", pruner)
    return pruner
