"""The hyper-parameters that all PPO teams share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from marl.config import QUIET
from marl.errors import require
from marl.robust.config import Defence, check
from marl.sparse.config import Layers


@dataclass(kw_only=True)
class PolicyConfig:
    """Source, unless said otherwise: the code of Yu et al., NeurIPS 2022."""

    gamma: float = 0.99  # discount per step, [0, 1]
    trace: float = 0.95  # lambda of the advantage estimate, [0, 1]
    # A return ends at an episode's step limit (the released code), or is bootstrapped there. DEVIATION: the
    # default bootstraps, because a limit is not the world's end.
    limit_ends: bool = False
    hidden: int = 64  # features of every layer and of the recurrent state, >= 1
    activation: Literal["relu", "tanh"] = "relu"  # after the two layers; tanh for MPE
    layer_norm: bool = True  # before every layer, or nowhere
    recurrent: bool = True  # a GRU after the two layers, or not
    share: bool = True  # one actor and one critic for all agents, or one each
    agent_ids: bool = True  # one-hot agent id in the inputs

    # Which layers are sparse, and how: a dataclass of marl.sparse; None: none is
    sparsity: Layers | None = field(default=None, metadata=QUIET)
    defence: Defence | None = field(default=None, metadata=QUIET)  # of marl.robust.config; None: none is

    clip: float = 0.2  # of the probability ratio and of the value's change, > 0; 0.05 on some maps
    epochs: int = 10  # passes over a rollout, >= 1; 5, 10 or 15 by map
    minibatches: int = 1  # per pass, >= 1
    chunk: int = 10  # entries that gradients flow back through, >= 1; 0: the whole rollout; 1 without a GRU
    entropy: float = 0.01  # weight of the entropy bonus, >= 0
    huber: float = 10.0  # threshold of the value's Huber loss, in normalised units, > 0
    normalise_values: bool = True  # critics learn returns with running mean 0 and deviation 1

    learning_rate: float = 5e-4  # Adam, actor and critic, > 0
    # Team steps over which the learning rate, and the entropy's weight, fall linearly to 0; 0: never.
    learning_rate_decay: int = 0  # >= 0; the released code has the option too
    entropy_decay: int = 0  # >= 0; CHOICE
    optimiser_eps: float = 1e-5  # >= 0
    max_grad_norm: float = 10.0  # > 0, of actor and critic each

    def __post_init__(self) -> None:
        for name in ("gamma", "trace"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a number in [0, 1]")
        for name in ("clip", "huber", "learning_rate", "max_grad_norm"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        for name in ("entropy", "optimiser_eps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give a number >= 0")
        for name in ("learning_rate_decay", "entropy_decay"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give an integer >= 0")
        for name in ("hidden", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        require(self.activation in ("relu", "tanh"), "activation", self.activation, "give relu or tanh")
        check(self.defence, talks=False)
        require(self.chunk >= 0, "chunk", self.chunk, "give an integer >= 1, or 0 for the whole rollout")
