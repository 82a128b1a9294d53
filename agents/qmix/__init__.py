"""QMIX: a joint value that grows with every agent's value, mixed by weights made from the state.

| symbol | name here | meaning |
|---|---|---|
| Q_a(tau^a, u^a) | q_BTN | value of agent a's action given its history |
| s | state_BTS | state of the world |
| W_1, b_1 | w1, b1 | make the first mixing layer, W_1 >= 0 by its absolute value; E features |
| W_2, b_2 | w2, b2 | make the second mixing layer, W_2 >= 0 likewise; b_2 is V(s) |
| Q_tot | returned by `marl.value.mixers.Monotonic` | elu(Q W_1 + b_1) W_2 + b_2, section 4.1 and figure 2 |

dQ_tot / dQ_a >= 0 (eq. 5), so that the joint greedy action is every agent's own greedy action (eq. 4).

Reference: Rashid et al., "QMIX: Monotonic Value Function Factorisation for Deep Multi-Agent
Reinforcement Learning", ICML 2018; layer sizes as in PyMARL (Samvelyan et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from marl.errors import require
from marl.rng import Rng
from marl.types import EnvSpec
from marl.value import Monotonic, QTeam, ValueConfig


@dataclass(kw_only=True)
class Config(ValueConfig):
    """QMIX's own: the sizes of the mixer."""

    embed: int = 32  # features E of the mixing layer, >= 1; paper, appendix C
    # DEVIATION: the paper's hypernetworks are one linear layer (ReLU 2-layer for b_2 only); PyMARL's later
    # default, used for all published SMAC results, has one hidden ReLU layer of 64.
    hyper_hidden: int = 64  # features of the hypernetworks' hidden layer, >= 1; PyMARL

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("embed", "hyper_hidden"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> QTeam:
        def mixer(generator: torch.Generator) -> Monotonic:
            return Monotonic(spec, embed=self.embed, hyper_hidden=self.hyper_hidden, generator=generator)

        return QTeam(spec, self, mixer, rng=rng, device=device)
