"""The hyper-parameters that all communicating teams share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from marl.config import QUIET
from marl.errors import refuse_unread, require
from marl.robust.config import Defence, check
from marl.sparse.config import Layers

# What None stands for. reinforce: released code of IC3Net. ppo: CHOICE, as marl/policy but for the
# learning rate and the value weight of a network that actor and critic share.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "reinforce": {
        "gamma": 1.0,
        "trace": 1.0,
        "limit_ends": True,
        "value_weight": 0.01,
        "entropy": 0.0,
        "optimiser": "rmsprop",
        "learning_rate": 1e-3,
        "optimiser_eps": 1e-6,
        "max_grad_norm": float("inf"),
    },
    "ppo": {
        "gamma": 0.99,
        "trace": 0.95,
        "limit_ends": False,
        "value_weight": 0.5,
        "entropy": 0.01,
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "optimiser_eps": 1e-5,
        "max_grad_norm": 10.0,
    },
}
_PPO_ALONE = ("clip", "epochs", "minibatches", "huber", "normalise_values")


@dataclass(kw_only=True)
class CommConfig:
    """Source, unless said otherwise: released code of Singh et al., ICLR 2019. None: the learner's own."""

    hidden: int = 128  # features of encoder and state, >= 1
    recurrent: bool = True  # an LSTM, or h' = tanh(e + W h + C m) with no memory
    rounds: int = 1  # exchanges of messages per step, >= 1
    messages: bool = True  # False: the mute twin; nothing is sent, in training or test, by the same network
    own_rewards: bool = True  # agents learn from their own reward, or from the mean of all

    # REINFORCE with a baseline, one step per rollout, or PPO's clipped steps. CHOICE
    learner: Literal["reinforce", "ppo"] = "reinforce"
    chunk: int = 10  # entries that gradients flow back through, >= 1; 0: the whole rollout
    gamma: float | None = None  # discount per step, [0, 1]; None: reinforce 1, ppo 0.99
    trace: float | None = None  # lambda of the returns, [0, 1]; None: reinforce 1 (Monte Carlo), ppo 0.95
    # A return ends at an episode's limit, or is bootstrapped there; None: reinforce True (with gamma 1 a
    # value learned from itself has no bound), ppo False.
    limit_ends: bool | None = None
    value_weight: float | None = None  # of the value loss, >= 0; None: reinforce 0.01, ppo 0.5
    entropy: float | None = None  # weight of the entropy bonus, >= 0; None: reinforce 0, ppo 0.01
    optimiser: Literal["adam", "rmsprop"] | None = None  # None: reinforce rmsprop, ppo adam
    learning_rate: float | None = None  # > 0; None: 1e-3
    # Team steps over which the learning rate, and the entropy's weight, fall linearly to 0; 0: never. CHOICE
    learning_rate_decay: int = 0  # >= 0
    entropy_decay: int = 0  # >= 0
    optimiser_eps: float | None = None  # >= 0; None: reinforce 1e-6, ppo 1e-5
    rmsprop_alpha: float = 0.97  # decay of rmsprop's mean square, [0, 1); refused with adam
    max_grad_norm: float | None = None  # > 0; None: reinforce unlimited, ppo 10

    # Which layers are sparse, and how: a dataclass of marl.sparse; None: none is
    sparsity: Layers | None = field(default=None, metadata=QUIET)
    defence: Defence | None = field(default=None, metadata=QUIET)  # of marl.robust.config; None: none is

    # PPO's own, refused elsewhere; marl/policy/config.py
    clip: float = 0.2  # of the probability ratio and of the value's change, > 0
    epochs: int = 4  # passes over a rollout, >= 1; CHOICE
    minibatches: int = 4  # per pass, >= 1; CHOICE
    huber: float = 10.0  # threshold of the value's Huber loss, in normalised units, > 0
    normalise_values: bool = True  # the critic learns returns with running mean 0 and deviation 1

    def __post_init__(self) -> None:
        require(self.learner in _DEFAULTS, "learner", self.learner, "give reinforce or ppo")
        kinds = (None, "adam", "rmsprop")
        require(self.optimiser in kinds, "optimiser", self.optimiser, "give adam, rmsprop or null")
        for name in ("hidden", "rounds", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        for name in ("learning_rate_decay", "entropy_decay"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give an integer >= 0")
        check(self.defence, talks=self.messages)
        require(self.chunk >= 0, "chunk", self.chunk, "give an integer >= 1, or 0 for the whole rollout")
        chosen = self.chosen
        for name in ("gamma", "trace"):
            require(0 <= chosen[name] <= 1, name, chosen[name], "give a number in [0, 1]")
        for name in ("learning_rate", "max_grad_norm"):
            require(chosen[name] > 0, name, chosen[name], "give a number above 0")
        for name in ("value_weight", "entropy", "optimiser_eps"):
            require(chosen[name] >= 0, name, chosen[name], "give a number >= 0")
        for name in ("clip", "huber"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        require(0 <= self.rmsprop_alpha < 1, "rmsprop_alpha", self.rmsprop_alpha, "give a number in [0, 1)")
        if self.learner == "reinforce":
            fix = "learner=reinforce does not read it; leave it out, or give learner=ppo"
            refuse_unread(self, _PPO_ALONE, fix)
        if chosen["optimiser"] == "adam":
            fix = "optimiser=adam does not read it; leave it out, or give optimiser=rmsprop"
            refuse_unread(self, ("rmsprop_alpha",), fix)

    @property
    def chosen(self) -> dict[str, Any]:
        """The fields that may be None, with the learner's own values in their place."""
        own = _DEFAULTS[self.learner]
        return {name: own[name] if getattr(self, name) is None else getattr(self, name) for name in own}
