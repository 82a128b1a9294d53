"""The hyper-parameters of TMC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from marl.errors import refuse_unread, require
from marl.rng import Rng
from marl.talk import MessageConfig
from marl.types import EnvSpec

if TYPE_CHECKING:
    from marl.agents.tmc.team import TMC


@dataclass(kw_only=True)
class Config(MessageConfig):
    """TMC's own. The released form is smoothing=released confidence=released with its weights, 1.5 and 0.3.

    DEVIATION: the paper has one window w_s for smoothing, timeout and validity; the released code has three
    numbers, which are the defaults. Encoder and combining, too, are the released ones (MessageConfig).
    """

    # DEVIATION: relative squared distance, each step's window once, mean over agents and steps: the scale of
    # messages does not matter. absolute: the paper's squared distance, summed over agents.
    # released: relative, a running sum that is never reset within an episode, divided by B N A.
    smoothing: Literal["relative", "absolute", "released"] = "relative"
    smoothing_weight: float = 1.0  # lambda_s, >= 0; CHOICE, tuned: experiments/tmc
    betas: tuple[float, ...] = (0.5, 1.0, 1.5)  # each >= 0; oldest first, w_s of them; released code

    # DEVIATION: exp(-sharpness gap), bounded, over available actions (CHOICE), mean over agents and steps.
    # gap: the paper's, minus the gap. released: over all actions, summed over agents, divided by 192.
    confidence: Literal["exponential", "gap", "released"] = "exponential"
    # lambda_r, >= 0; CHOICE, the paper's is not known: small, since a large one widens the gaps of a first,
    # random ranking of actions before any reward is seen.
    confidence_weight: float = 0.0005
    sharpness: float = 25.0  # of exp(-sharpness gap), > 0; released code

    delta: float = 0.224  # send if the Euclidean distance is above, >= 0; released: 0.05 of its square
    timeout: int = 6  # steps after which a message is sent anyway, >= 1; released code
    window: int = 12  # steps for which the last delivered message counts, >= 0; released code

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("smoothing", ("relative", "absolute", "released")),
            ("confidence", ("exponential", "gap", "released")),
        ):
            value = getattr(self, name)
            require(value in known, name, value, f"give one of {', '.join(known)}")
        for name in ("smoothing_weight", "confidence_weight", "delta", "window"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give a number >= 0")
        require(self.sharpness > 0, "sharpness", self.sharpness, "give a number above 0")
        if self.confidence == "gap":
            fix = "confidence=gap does not read it; leave it out, or give confidence=exponential"
            refuse_unread(self, ("sharpness",), fix)
        require(self.timeout >= 1, "timeout", self.timeout, "give an integer >= 1")
        fits = len(self.betas) >= 1 and all(b >= 0 for b in self.betas)
        require(fits, "betas", self.betas, "give one or more numbers >= 0")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> TMC:
        from marl.agents.tmc.team import TMC

        return TMC(spec, self, rng=rng, device=device)
