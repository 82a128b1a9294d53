"""Which layers of a network become sparse, and how weight grouping learns.

Every way to make a network sparse is a dataclass with `build`, named by the `_target_` of a file in
marl/conf/sparsity; all start from `Layers`, which says for which layers it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from marl.errors import MarlError, require

if TYPE_CHECKING:
    from marl.sparse.pruning.interface import Pruner


@dataclass(kw_only=True)
class Layers:
    """Which layers are meant: large ones, but for those that are named."""

    # Layers with fewer inputs or outputs stay dense. CHOICE: the paper does not say which layers are grouped;
    # heads and encoders of a few features hold hardly any weights and would lose whole features.
    smallest: int = 32  # features, >= 1
    dense: tuple[str, ...] = ()  # layers that stay dense: names in the network, or parts of it ("mixer")
    # Folder of a finished run of the same world and kind of team, whose policy a term of the loss draws the
    # student's to; "": none. `marl.sparse.distil`; our addition.
    distil: str = ""
    distil_weight: float = 1.0  # of the term, > 0
    distil_temperature: float = 1.0  # of both softmaxes, > 0; CHOICE: Q-values want less, 0.1
    distil_decay: int = 0  # optimiser steps over which the weight falls linearly to 0; 0: it stays

    def __post_init__(self) -> None:
        require(self.smallest >= 1, "smallest", self.smallest, "give an integer >= 1")
        for name in ("distil_weight", "distil_temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        require(self.distil_decay >= 0, "distil_decay", self.distil_decay, "give an integer >= 0")
        for name, default in (("distil_weight", 1.0), ("distil_temperature", 1.0), ("distil_decay", 0)):
            fix = "nothing reads it without distil=<folder of a run>"
            require(bool(self.distil) or getattr(self, name) == default, name, getattr(self, name), fix)

    def build(self, network: nn.Module, generator: torch.Generator) -> Pruner:
        """Make the network's chosen layers sparse; what is returned must go to its optimiser."""
        raise MarlError(
            "sparsity has settings but no kind: add sparsity=grouped, or another of marl/conf/sparsity"
        )

    @property
    def named(self) -> Iterable[str]:
        """Parts of the network that the config names."""
        return self.dense

    def means(self, name: str, inputs: int, outputs: int) -> bool:
        """Whether the layer of this name and size is meant."""
        return min(inputs, outputs) >= self.smallest and not any(within(name, part) for part in self.dense)


def within(name: str, part: str) -> bool:
    """Whether the dotted name is the part itself, or lies in it."""
    return name == part or name.startswith(part + ".")


@dataclass(kw_only=True)
class Groups(Layers):
    """How many groups every layer has."""

    groups: int = 4  # G of every layer that is meant, >= 1; 1 is dense. LearningGroup: 1 to 32
    # G of single layers, or of parts of the network, by name; the longest name that fits wins.
    layer_groups: Mapping[str, int] = field(default_factory=dict)
    # Kept weights are as large, and move as fast, as fits their number: where groups begin all are multiplied
    # so that kept ones have the sum of squares that all had, and steps of Adam or RMSprop are 1 / density as
    # long, at most G times. CHOICE, after Dey, Bergsma, Hestness, "Sparse maximal update parameterization",
    # NeurIPS 2024: initial weights and steps are made for the inputs of a dense layer. False: neither.
    rescale: bool = True
    backend: str = "auto"  # what executes the layers; `marl.sparse.linear`

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.groups >= 1, "groups", self.groups, "give an integer >= 1")
        for name, groups in self.layer_groups.items():
            require(groups >= 1, f"layer_groups.{name}", groups, "give an integer >= 1")

    @property
    def named(self) -> Iterable[str]:
        return (*self.dense, *self.layer_groups)

    def build(self, network: nn.Module, generator: torch.Generator) -> Pruner:
        from marl.sparse.pruning.grouped import GroupPruner

        return GroupPruner(network, self, generator)

    def of(self, name: str) -> int:
        """G of the layer of this name."""
        fitting = [part for part in self.layer_groups if within(name, part)]
        return self.layer_groups[max(fitting, key=len)] if fitting else self.groups


@dataclass(kw_only=True)
class RandomGroups(Groups):
    """Random groups that never change: what learning the groups must beat."""

    balance: Literal["none", "capacity"] = "capacity"  # every feature apart, or groups of equal size; CHOICE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.balance in ("none", "capacity"), "balance", self.balance, "give none or capacity")


@dataclass(kw_only=True)
class Grouped(Groups):
    """Learned groups: LearningGroup. Values that the paper does not state are CHOICE."""

    # Gradient of the mask: of every entry, from the dense gradient of the weights, or of kept weights only.
    ste: Literal["full", "selected"] = "full"
    relaxation: Literal["identity", "softmax"] = "identity"  # of the step to logits: grouping.py
    temperature: float = 1.0  # of the softmax, > 0
    refresh: int = 1  # optimiser steps between two looks at the logits, >= 1; paper: every iteration
    balance: Literal["none", "capacity"] = "none"  # groups as they come (paper), or of equal size
    # Deviation of the first logits, > 0. Groups depend on their order alone, so that only its ratio to the
    # learning rate counts. CHOICE: public forms draw from N(0, 1) and learn at rates of 0.1; Adam and RMSprop
    # at 1e-3 move a logit by hundredths, where the best two of 8 draws from N(0, 1) lie half a unit apart:
    # most features would keep the group that they drew (experiments/sparse/README.md, groups that are there).
    initial_std: float = 0.1
    # Optimiser steps in which every weight counts, >= 0; then the groups begin that keep most of the weights'
    # squares, and learn on from there. 0: groups from the first step, as the paper.
    warmup: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("ste", ("full", "selected")),
            ("relaxation", ("identity", "softmax")),
            ("balance", ("none", "capacity")),
        ):
            value = getattr(self, name)
            require(value in known, name, value, f"give one of {', '.join(known)}")
        if self.relaxation == "identity":
            fix = "relaxation=identity does not read it; leave it out, or give relaxation=softmax"
            require(self.temperature == 1.0, "temperature", self.temperature, fix)
        for name in ("temperature", "initial_std"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        require(self.warmup >= 0, "warmup", self.warmup, "give an integer >= 0")
        require(self.refresh >= 1, "refresh", self.refresh, "give an integer >= 1")
