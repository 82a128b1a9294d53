"""Group-sparse training (GST): block-circulant weights first, pruned as far as the reward allows.

While the share of zeros s is below its goal, weights are tied in circulant blocks, so that a layer stores
little from the first step on; every `every` steps s rises by `rise`, but only while the reward holds: its
running mean is not below the best one so far by more than `tolerance` of that one's size. Whole classes are
pruned, the smallest first. At the goal the ties are released and the mask stays.
CHOICE: the paper was known only by its abstract: selective block-circulant compression for a high ratio in
every iteration, and a target sparsity that reward-aware pruning adapts. Amounts, pace and the release of the
ties are ours.

Reference: Lee et al., "GST: Group-Sparse Training for Accelerating Deep Reinforcement Learning", 2021
(arXiv 2101.09650).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.errors import require
from marl.sparse.config import Layers
from marl.sparse.pruning.circulant import first_of_class, share_gradient, tie
from marl.sparse.pruning.interface import Moved
from marl.sparse.pruning.masked import MaskPruner, largest


@dataclass(kw_only=True)
class GroupSparse(Layers):
    """Group-sparse training; values are CHOICE."""

    amount: float = 0.5  # share of zeros in the end, [0, 1)
    block: int = 2  # size of the circulant blocks, >= 1
    rise: float = 0.05  # what the share of zeros rises by, (0, 1]
    every: int = 100  # optimiser steps between two looks at the reward, >= 1
    tolerance: float = 0.1  # loss of reward that still counts as holding, as a share of the best, >= 0
    memory: float = 0.9  # weight of the past in the running mean of the reward, [0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.amount < 1, "amount", self.amount, "give a number in [0, 1)")
        require(0 < self.rise <= 1, "rise", self.rise, "give a number in (0, 1]")
        require(0 <= self.memory < 1, "memory", self.memory, "give a number in [0, 1)")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "give a number >= 0")
        for name in ("block", "every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")

    def build(self, network: nn.Module, generator: torch.Generator) -> GroupSparsePruner:
        return GroupSparsePruner(network, self)


class GroupSparsePruner(MaskPruner):
    """Args: network: see MaskPruner; config: goal and pace."""

    share: Tensor  # of zeros that is asked for now
    reward: Tensor  # running mean; NaN before the first
    best: Tensor  # largest running mean at any look

    def __init__(self, network: nn.Module, config: GroupSparse) -> None:
        super().__init__(network, config)
        self._config = config
        self._first = [
            first_of_class(w.weight.shape, config.block).to(w.weight.device) for _, w in self.layers
        ]
        self.register_buffer("share", torch.zeros((), dtype=torch.float64))
        self.register_buffer("reward", torch.full((), torch.nan, dtype=torch.float64))
        self.register_buffer("best", torch.full((), -torch.inf, dtype=torch.float64))
        self._hold()

    @property
    def tied(self) -> bool:
        """Whether the goal is not reached yet."""
        return float(self.share) < self._config.amount

    def observe(self, reward: Tensor) -> None:
        new, m = reward.to(self.reward), self._config.memory
        self.reward.copy_(new if self.reward.isnan() else m * self.reward + (1.0 - m) * new)

    @torch.no_grad()
    def before_step(self) -> None:
        if self.tied:
            for (_, layer), first in zip(self.layers, self._first, strict=True):
                assert layer.weight.grad is not None
                share_gradient(layer.weight.grad, first)
        super().before_step()

    @torch.no_grad()
    def after_step(self, steps: int) -> list[Moved]:
        self._hold()
        if steps % self._config.every == 0 and self.tied and not self.reward.isnan():
            self.best.copy_(torch.maximum(self.best, self.reward))
            if self.reward >= self.best - self._config.tolerance * self.best.abs():
                self.share.add_(self._config.rise).clamp_(max=self._config.amount)
                self._prune()
        return super().after_step(steps)

    def _hold(self) -> None:
        """Entries of a class are equal as long as they are tied."""
        if self.tied:
            for (_, layer), first in zip(self.layers, self._first, strict=True):
                tie(layer.weight.data, first)

    def _prune(self) -> None:
        """The smallest classes go until the share of zeros is what is asked for."""
        for index, ((_, layer), first) in enumerate(zip(self.layers, self._first, strict=True)):
            mask = self.mask(index)
            classes = first.unique()
            size = torch.where(mask, layer.weight.abs(), -1.0).reshape(-1)[classes]
            keep = round((1.0 - float(self.share)) * len(classes))
            kept = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
            kept[classes[largest(size, keep)]] = True
            mask.copy_(kept[first].view(mask.shape))
