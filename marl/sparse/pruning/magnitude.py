"""Iterative magnitude pruning: step by step the smallest weights of every layer go, and stay away.

s(t) = s_f (1 - (1 - (t - t_0) / (t_1 - t_0))^3) of the weights are zero after step t; before t_0 none, after
t_1 s_f. Every `every` steps the smallest of what is left are taken.
CHOICE: the same share of every layer. LearningGroup names its rival "iterative magnitude pruning" and says
no more; the schedule is that of Zhu and Gupta, the principle that of Han et al.

References: Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks",
NeurIPS 2015; Zhu, Gupta, "To Prune, or Not to Prune", ICLR workshop 2018 (arXiv 1710.01878), eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from marl.errors import require
from marl.sparse.config import Layers
from marl.sparse.pruning.interface import Moved
from marl.sparse.pruning.masked import MaskPruner, largest


@dataclass(kw_only=True)
class Magnitude(Layers):
    """Iterative magnitude pruning."""

    amount: float = 0.5  # share of the weights that are zero in the end, s_f, [0, 1)
    start: int = 0  # optimiser steps before the first weight goes, t_0, >= 0; CHOICE
    end: int = 2000  # optimiser steps until the amount is reached, t_1, > start; CHOICE
    every: int = 100  # optimiser steps between two prunings, >= 1; Zhu and Gupta: 100 to 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.amount < 1, "amount", self.amount, "give a number in [0, 1)")
        require(self.start >= 0, "start", self.start, "give an integer >= 0")
        require(self.end > self.start, "end", self.end, f"give an integer above start={self.start}")
        require(self.every >= 1, "every", self.every, "give an integer >= 1")

    def at(self, step: int) -> float:
        """s(t), the share that is zero after this many steps."""
        done = min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)
        return self.amount * (1.0 - (1.0 - done) ** 3)

    def build(self, network: nn.Module, generator: torch.Generator) -> MagnitudePruner:
        return MagnitudePruner(network, self)


class MagnitudePruner(MaskPruner):
    """Args: network: see MaskPruner; config: amount and schedule."""

    def __init__(self, network: nn.Module, config: Magnitude) -> None:
        super().__init__(network, config)
        self._config = config

    @torch.no_grad()
    def after_step(self, steps: int) -> list[Moved]:
        if steps % self._config.every == 0 or steps == self._config.end:
            amount = self._config.at(steps)
            for index, (_, layer) in enumerate(self.layers):
                mask = self.mask(index)
                keep = min(round((1.0 - amount) * mask.numel()), int(mask.sum()))
                # What is pruned already counts as smaller than everything, a kept zero too.
                mask.copy_(largest(torch.where(mask, layer.weight.abs(), -1.0), keep))
        return super().after_step(steps)
