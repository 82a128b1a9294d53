"""The hyper-parameters of SchedNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from marl.errors import require
from marl.rng import Rng
from marl.talk import TalkConfig
from marl.types import EnvSpec

if TYPE_CHECKING:
    from marl.agents.schednet.team import SchedNet


@dataclass(kw_only=True)
class Config(TalkConfig):
    """SchedNet's own. Source, unless said otherwise: released code."""

    k: int = 1  # agents that may broadcast at a step, >= 1; in a team of k or fewer all do
    schedule: Literal["top", "softmax"] = "top"  # largest weights, or drawn without return by softmax(w)
    # Features L of a message, >= 1; null: the number of actions, the budget of the other methods (CHOICE).
    # Released: 2, or 1.
    message: int | None = None
    narrow: int = 32  # features of the layers of weight generator and message encoder, >= 1
    critic_hidden: int = 64  # features of the critic's layers, >= 1
    critic_learning_rate: float = 1e-3  # Adam, > 0; CHOICE: 1e-4 there, at 50 times the updates
    generator_learning_rate: float = 1e-4  # Adam, > 0; CHOICE: 1e-5 there
    schedule_tau: float = 0.05  # targets of critic and generator <- tau online + (1 - tau) target, (0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("k", "narrow", "critic_hidden"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        fits = self.message is None or self.message >= 1
        require(fits, "message", self.message, "give null or an integer >= 1")
        require(self.schedule in ("top", "softmax"), "schedule", self.schedule, "give top or softmax")
        for name in ("critic_learning_rate", "generator_learning_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        require(0 < self.schedule_tau <= 1, "schedule_tau", self.schedule_tau, "give a number in (0, 1]")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> SchedNet:
        from marl.agents.schednet.team import SchedNet

        return SchedNet(spec, self, rng=rng, device=device)
