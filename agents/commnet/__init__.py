"""CommNet: every agent hears the mean of the others' states, and all learn from the team's reward.

| symbol | name here | meaning |
|---|---|---|
| h_i | h_BNH of marl.comm | state of agent i |
| m_i | Mean | (1 / (alive - 1)) sum_{j != i} h_j (eq. 2) |
| C, H | C, W or lstm of CommNetwork | h_i' = f(H h_i + C m_i + e_i) (eq. 1, section 3) |

CHOICE: the LSTM form with sizes, learner and optimiser of IC3Net's released code, whose CommNet this is; the
original has tanh cells of 50 features (`recurrent: false`, `hidden: 50`).

Reference: Sukhbaatar, Szlam, Fergus, "Learning Multiagent Communication with Backpropagation", NeurIPS 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from marl.comm import CommConfig, CommTeam, Mean, in_cell
from marl.rng import Rng
from marl.types import EnvSpec


@dataclass(kw_only=True)
class Config(CommConfig):
    """CommNet has no hyper-parameters of its own."""

    own_rewards: bool = False  # every agent learns from the mean reward of all

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> CommTeam:
        make = in_cell(spec, self, gated=False, make_aggregate=lambda _: Mean(self.hidden))
        return CommTeam(spec, self, gated=False, make_network=make, rng=rng, device=device)
