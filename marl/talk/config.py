"""The hyper-parameters that teams of talking action values share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from marl.errors import refuse_unread, require
from marl.types import EnvSpec
from marl.value import Monotonic, Sum, ValueConfig


@dataclass(kw_only=True)
class TalkConfig(ValueConfig):
    """How values are mixed, and whether the dead talk."""

    talks: ClassVar[bool] = True

    mixer: Literal["qmix", "vdn"] = "qmix"  # TMC's paper: qmix on SMAC, vdn elsewhere
    embed: int = 32  # features of QMIX's mixing layer, >= 1
    # DEVIATION: the hypernetworks of TMC's released code are one layer. Here they are those of agent=qmix, so
    # that teams differ in how they talk and not in how they mix.
    hyper_hidden: int = 64  # features of the hidden layer of QMIX's hypernetworks, >= 1; as agent=qmix
    dead_talk: bool = True  # agents that cannot act go on to send, as in TMC's released code

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("embed", "hyper_hidden"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        require(self.mixer in ("qmix", "vdn"), "mixer", self.mixer, "give qmix or vdn")
        if self.mixer == "vdn":
            fix = "mixer=vdn does not read it; leave it out, or give mixer=qmix"
            refuse_unread(self, ("embed", "hyper_hidden"), fix)

    def make_mixer(self, spec: EnvSpec) -> Callable[[torch.Generator], nn.Module]:
        """Makes the mixer from a generator of initial weights."""

        def make(generator: torch.Generator) -> nn.Module:
            if self.mixer == "vdn":
                return Sum()
            sizes = {"embed": self.embed, "hyper_hidden": self.hyper_hidden}
            return Monotonic(spec, **sizes, generator=generator)

        return make


@dataclass(kw_only=True)
class MessageConfig(TalkConfig):
    """Messages that are added to values. Source, unless said otherwise: TMC's released code (63bcca5)."""

    # recurrent: Linear, ELU, GRU, whose state is the message. mlp: Linear, ELU, Linear (TMC's paper, VBC).
    encoder: Literal["recurrent", "mlp"] = "recurrent"
    encoder_hidden: int = 196  # features between the layers of encoder=mlp, >= 1; VBC's code
    # mean: messages that did not come count as 0, the divisor is N - 1; sum: TMC's paper
    combine: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "give an integer >= 1"
        require(self.encoder_hidden >= 1, "encoder_hidden", self.encoder_hidden, fix)
        require(self.encoder in ("recurrent", "mlp"), "encoder", self.encoder, "give recurrent or mlp")
        if self.encoder == "recurrent":
            fix = "encoder=recurrent does not read it; leave it out, or give encoder=mlp"
            refuse_unread(self, ("encoder_hidden",), fix)
        require(self.combine in ("mean", "sum"), "combine", self.combine, "give mean or sum")
        require(self.share, "share", self.share, "give true: agents that add messages share one network")
