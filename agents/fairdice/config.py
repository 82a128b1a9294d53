"""Config of FairDICE's learner."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from marl.agents.fairdice.divergence import DIVERGENCES
from marl.agents.fairdice.losses import PolicyLoss
from marl.config import QUIET
from marl.errors import refuse_unread, require
from marl.rng import Rng
from marl.types import EnvSpec

if TYPE_CHECKING:
    from marl.agents.fairdice.team import FairDice


@dataclass(kw_only=True)
class Config:
    """Sources: Kim et al., NeurIPS 2025; "code" is the authors' released code, defaults of its run script."""

    gamma: float = 0.99  # discount per step, [0, 1); code
    welfare: Literal["alpha", "patched_log"] = "alpha"  # patched_log bears returns <= 0; replication
    alpha: float = 1.0  # >= 0; 0: sum of objectives, 1: Nash, larger: towards max-min; paper
    # Fixed weights mu of the objectives (FairDICE-fixed, linear welfare), >= 0. Empty: learned, or all 1
    # where alpha=0.
    weights: tuple[float, ...] = ()
    # Unit k0 of the returns that utilities measure, in mean returns of the data (unit.py), > 0; null: 1, as
    # in the paper. With 1 mu is about 1 for every alpha, and with 0.1 patched_log is Nash above k0. CHOICE
    unit: float | None = field(default=None, metadata=QUIET)
    divergence: Literal["chi2", "soft_chi2", "kl"] = "soft_chi2"  # code, on D4MORL
    beta: float = 0.1  # strength of the divergence penalty, > 0; to be tuned per task

    # sample: every transition's own e (paper, code), whose expectation over next states stands outside f*0:
    # biased where they are random. mean: e averaged over the batch's transitions with the same state and
    # actions, which is exact in a finite world with loop.full=true.
    advantage: Literal["sample", "mean"] = "sample"
    # official: transitions that end an episode do not count, whether terminated or cut off, and nu(s') is
    # never zero (code). proper: all count, and a terminated one has nu(s') = 0.
    ends: Literal["proper", "official"] = "proper"
    # First states weigh alike per episode, or by its length, as the code has it (one per transition).
    starts: Literal["episode", "transition"] = "episode"
    shift: bool = True  # subtract the batch's largest e in the policy's weights; code, not in the paper
    policy_loss: PolicyLoss = "fixed"  # the other two exist for comparison; losses.py
    penalty: float = 1e-4  # of |grad nu| above 5, >= 0; code. The replication finds 0 or 0.1 better
    penalty_mix: Literal["batch", "sample"] = "batch"  # one mixing weight u per batch (code) or per sample
    mu: Literal["exp", "raw"] = "exp"  # mu = exp(theta), positive; raw: mu itself, as in the code

    scale_inputs: bool = True  # observations and states to mean 0, deviation 1 over the data; code
    scale_rewards: bool = True  # every objective's rewards to [0, 1] over the data; code's run script
    mu_limit: float = 1e6  # training stops with a message where a weight exceeds it, > 0; CHOICE

    hidden: int = 256  # features of every hidden layer, >= 1; code: 768 (256 by default)
    layers: int = 2  # hidden layers, >= 0; code: 3 (2 by default)
    layer_norm: bool = True  # after every hidden layer; code
    learning_rate: float = 3e-4  # Adam, of nu and of the policy, > 0; code
    mu_learning_rate: float = 3e-4  # Adam, of mu, > 0; code
    policy_decay: int = 0  # updates over which the policy's rate falls to 0 as a cosine; 0: never. code: all
    max_grad_norm: float | None = None  # > 0, of nu, mu and the policy; null: none, as in the code

    def __post_init__(self) -> None:
        require(0 <= self.gamma < 1, "gamma", self.gamma, "give a number in [0, 1)")
        require(0 <= self.alpha < math.inf, "alpha", self.alpha, "give a finite number >= 0")
        fits = all(0 <= w < math.inf for w in self.weights) and (not self.weights or sum(self.weights) > 0)
        require(fits, "weights", self.weights, "give finite numbers >= 0 with a sum above 0")
        fits = self.unit is None or 0 < self.unit < math.inf
        require(fits, "unit", self.unit, "give a finite number above 0, or null")
        known: dict[str, tuple[str, ...]] = {
            "welfare": ("alpha", "patched_log"),
            "divergence": tuple(DIVERGENCES),
            "advantage": ("sample", "mean"),
            "ends": ("proper", "official"),
            "starts": ("episode", "transition"),
            "policy_loss": ("fixed", "wrong_broadcast", "behaviour_cloning"),
            "penalty_mix": ("batch", "sample"),
            "mu": ("exp", "raw"),
        }
        for name, names in known.items():
            require(
                getattr(self, name) in names, name, getattr(self, name), f"give one of {', '.join(names)}"
            )
        for name in ("beta", "mu_limit", "learning_rate", "mu_learning_rate"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        for name in ("penalty", "layers", "policy_decay"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give a number >= 0")
        require(self.hidden >= 1, "hidden", self.hidden, "give an integer >= 1")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "give a number above 0, or null")
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        # CHOICE: mu_learning_rate is taken beside fixed weights, which do not read it: the stored runs of the
        # studies with alpha=0 and with equal weights have it in their names.
        learning = ("mu", "mu_limit", "unit")
        if self.weights:
            fix = "leave it out: fixed weights make the welfare linear"
            refuse_unread(self, ("welfare", "alpha", *learning), fix)
        elif self.welfare == "patched_log":
            refuse_unread(self, ("alpha",), "leave it out: welfare=patched_log has none")
        elif self.alpha == 0:
            refuse_unread(self, learning, "leave it out: alpha=0 is a sum, whose weights are all 1")
        if self.layers == 0:
            refuse_unread(self, ("hidden", "layer_norm"), "leave it out: layers=0 has no hidden layer")
        if self.penalty == 0:
            refuse_unread(self, ("penalty_mix",), "leave it out: penalty=0 has none")
        if self.policy_loss == "behaviour_cloning":
            refuse_unread(self, ("shift",), "leave it out: policy_loss=behaviour_cloning has no weights")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> FairDice:
        from marl.agents.fairdice.team import FairDice

        return FairDice(spec, self, rng=rng, device=device)
