"""The hyper-parameters that all value-based teams share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from marl.config import QUIET
from marl.errors import require
from marl.robust.config import Defence, check
from marl.sparse.config import Layers


@dataclass(kw_only=True)
class ValueConfig:
    """Sources: PyMARL (Samvelyan et al. 2019, released code), PyMARL2 (Hu et al. 2021, released code)."""

    gamma: float = 0.99  # discount per step, [0, 1]; PyMARL
    hidden: int = 64  # features of the first layer and of the recurrent state, >= 1; PyMARL
    share: bool = True  # one network for all agents (PyMARL), or one each
    agent_ids: bool = True  # one-hot agent id in the input; PyMARL
    last_action: bool = True  # one-hot last action in the input; PyMARL

    double_q: bool = True  # target value at the online network's best action; PyMARL
    returns: Literal["lambda", "nstep"] = "lambda"  # PyMARL: nstep; PyMARL2: lambda
    trace: float = 0.6  # lambda of returns=lambda, [0, 1]; 0 is one step; PyMARL2
    steps: int = 1  # n of returns=nstep, >= 1; PyMARL
    td_loss: Literal["squared", "huber"] = "squared"  # mean over filled steps; squared: PyMARL
    # Values are learned of this times the reward, > 0. CHOICE: PyMARL has none, its world scales its rewards;
    # on navigation, whose returns are around -60, teams stand still with 1 and learn with 0.1.
    reward_scale: float = field(default=1.0, metadata=QUIET)
    # A return ends at an episode's step limit, or is bootstrapped there (PyMARL). CHOICE: where nothing else
    # ends an episode no value is certain, and QMIX's may grow without bound (experiments/worlds/README.md).
    limit_ends: bool = field(default=False, metadata=QUIET)

    optimiser: Literal["adam", "rmsprop"] = "adam"  # PyMARL: rmsprop; PyMARL2: adam
    learning_rate: float = 1e-3  # > 0; PyMARL: 5e-4; PyMARL2: 1e-3
    optimiser_eps: float = 1e-8  # >= 0, added to the root; Adam's default; PyMARL's RMSprop: 1e-5
    rmsprop_alpha: float = 0.99  # decay of the mean square, [0, 1); PyMARL
    max_grad_norm: float = 10.0  # > 0, of all parameters together; PyMARL

    # Which layers are sparse, and how: a dataclass of marl.sparse; None: none is
    sparsity: Layers | None = field(default=None, metadata=QUIET)
    defence: Defence | None = field(default=None, metadata=QUIET)  # of marl.robust.config; None: none is

    talks: ClassVar[bool] = False  # members send messages

    target_every: int = 200  # updates between two target updates, >= 1; PyMARL: 200 episodes
    target_tau: float = 1.0  # target <- tau online + (1 - tau) target, (0, 1]; 1 copies (PyMARL)

    def __post_init__(self) -> None:
        unit, above, from1 = "give a number in [0, 1]", "give a number above 0", "give an integer >= 1"
        require(0 <= self.gamma <= 1, "gamma", self.gamma, unit)
        require(0 <= self.trace <= 1, "trace", self.trace, unit)
        require(0 <= self.rmsprop_alpha < 1, "rmsprop_alpha", self.rmsprop_alpha, "give a number in [0, 1)")
        require(0 < self.target_tau <= 1, "target_tau", self.target_tau, "give a number in (0, 1]")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, above)
        require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, above)
        require(self.reward_scale > 0, "reward_scale", self.reward_scale, above)
        require(self.optimiser_eps >= 0, "optimiser_eps", self.optimiser_eps, "give a number >= 0")
        for name in ("hidden", "steps", "target_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), from1)
        for name, known in (
            ("returns", ("lambda", "nstep")),
            ("td_loss", ("squared", "huber")),
            ("optimiser", ("adam", "rmsprop")),
        ):
            value = getattr(self, name)
            require(value in known, name, value, f"give one of {', '.join(known)}")
        check(self.defence, talks=self.talks)
