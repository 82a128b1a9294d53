"""Weight grouping as a pruner: learned groups (LearningGroup), and random ones that stay (its control)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from marl.nets import Linear
from marl.sparse.config import Grouped, Groups, RandomGroups
from marl.sparse.grouping import Grouping, balanced
from marl.sparse.layer import GroupedCopies, GroupedLayer, grouped_layers
from marl.sparse.pruning.interface import Moved, Pruner, Resting, chosen_layers


class GroupPruner(Pruner):
    """The groups of a network's layers, learned or fixed.

    begun: bool, whether groups have begun; False during the warm-up.

    Args:
        network: its chosen layers are replaced by grouped ones, with the weights they had.
        config: `Grouped` for learned groups, else `RandomGroups`.
        generator: source of the logits, or of the random groups.
    """

    begun: Tensor

    def __init__(self, network: nn.Module, config: Groups, generator: torch.Generator) -> None:
        super().__init__()
        learned = config if isinstance(config, Grouped) else None
        self._refresh = learned.refresh if learned else 0
        self._whole: dict[str, tuple[int, int]] = {}  # layers of one group: they stay as they are
        for name, layer in list(chosen_layers(network, config)):
            groups, count = config.of(name), layer.weight.numel()
            if groups == 1:
                self._whole[name] = (count, count)
            else:
                network.set_submodule(name, _convert(layer, groups, config, generator))
        self._layers = tuple(grouped_layers(network))  # a tuple: they are not this module's own
        self._warmup = learned.warmup if learned else 0
        self.register_buffer("begun", torch.tensor(not self._warmup))
        self._rescale = config.rescale
        self._changed = 0  # features that changed their group since `metrics` was asked last
        if self._rescale and not self._warmup:
            for _, grouped in self._layers:
                grouped.rescale()

    def clear(self) -> None:
        for _, layer in self._layers:
            layer.clear()

    def before_step(self) -> None:
        for _, layer in self._layers:
            layer.gradients()

    def bind(self) -> None:
        """A state was loaded that may lie on the other side of the warm-up's end."""
        self._changed = 0
        for _, layer in self._layers:
            layer.whole = not bool(self.begun)

    def after_step(self, steps: int) -> list[Moved]:
        moved = []
        due = self._refresh and steps >= self._warmup and steps % self._refresh == 0
        begins = not self.begun and steps >= self._warmup
        if begins:
            self._begin()
        for _, layer in self._layers:
            order = None
            if layer.grouping is not None and (due or begins):
                groups = layer.grouping.indices()
                before = layer.group_in_I.clone(), layer.group_out_O.clone()
                order = layer.regroup(*groups)
                if order is not None and not begins:
                    self._changed += sum(int((a != b).sum()) for a, b in zip(before, groups, strict=True))
            if order is None:
                layer.renew()
            else:
                moved.append(Moved(layer.weight, order))
            if begins and self._rescale:
                layer.rescale()
        return moved

    def _begin(self) -> None:
        """The warm-up ends."""
        self.begun.fill_(True)
        self.bind()
        for _, layer in self._layers:
            if layer.grouping is not None:
                layer.grouping.fit(layer.dense())

    def resting(self) -> list[Resting]:
        return [Resting(layer.weight, layer.layout.nnz, self._factor(layer)) for _, layer in self._layers]

    def _factor(self, layer: GroupedLayer) -> float:
        """1 / density, at most G, where steps are rescaled."""
        if not self._rescale or layer.layout.nnz == 0:
            return 1.0
        return min(1.0 / layer.layout.density, float(layer.count))

    def grouped(self) -> Iterable[tuple[str, GroupedLayer]]:
        return self._layers

    def kept(self) -> dict[str, tuple[int, int]]:
        grouped = {name: (layer.layout.nnz, layer.weight.numel()) for name, layer in self._layers}
        return grouped | self._whole

    def metrics(self) -> dict[str, Tensor]:
        """Also the number of groups without inputs or without outputs, and of features that changed their
        group since the last call, in all layers together."""
        empty = sum(
            0 in pair
            for _, layer in self._layers
            for pair in zip(layer.layout.sizes_in, layer.layout.sizes_out, strict=True)
        )
        changed, self._changed = float(self._changed), 0
        return super().metrics() | {
            "empty_groups": torch.tensor(float(empty)),
            "regrouped": torch.tensor(changed),
        }


def _convert(layer: Linear, groups: int, config: Groups, generator: torch.Generator) -> nn.Module:
    """The grouped layer in place of a dense one, one per copy of its weights."""
    O, I = layer.weight.shape[-2:]  # noqa: E741 - the legend's letters
    learned = config if isinstance(config, Grouped) else None

    def draw() -> Grouping | tuple[Tensor, Tensor]:
        if learned is not None:
            return Grouping(I, O, groups, learned, generator).to(layer.weight.device)
        pair = [_random(features, groups, config, generator).to(layer.weight.device) for features in (I, O)]
        return pair[0], pair[1]

    weights, biases = layer.weight.detach().reshape(-1, O, I), layer.bias.detach().reshape(-1, O)
    made = [
        GroupedLayer(
            weight,
            bias,
            draw(),
            groups,
            full=learned is not None and learned.ste == "full",
            whole=learned is not None and learned.warmup > 0,
            backend=config.backend,
        )
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return made[0] if layer.weight.dim() == 2 else GroupedCopies(made)


def _random(features: int, groups: int, config: Groups, generator: torch.Generator) -> Tensor:
    """A random group for every feature."""
    assert isinstance(config, RandomGroups)
    logits_FG = torch.rand(features, groups, generator=generator)
    return balanced(logits_FG) if config.balance == "capacity" else logits_FG.argmax(1)
