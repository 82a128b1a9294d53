"""IC3Net: agents learn when to talk, each from its own reward.

| symbol | name here | meaning |
|---|---|---|
| g_j | gate of marl.comm | sampled at t by f^g(h_j); lets j talk at t + 1 (eq. 2) |
| m_i, C | Mean, C of CommNetwork | m_i = C (1 / (alive - 1)) sum_{j != i} g_j h_j (eq. 3) |
| LSTM | lstm of CommNetwork | h_i', c_i' = LSTM(e(o_i) + m_i, h_i, c_i) (eq. 4) |

DEVIATION: in the released code an agent that is silent hears nothing either (its gate is multiplied on both
sides of a message); here, as in eq. 3, the gate is the sender's alone. With `gate: open` they agree.

`messages: false` is IRIC (with `own_rewards: false` IC): the same network, and nothing is ever sent.

Reference: Singh, Jain, Sukhbaatar, "Learning when to Communicate at Scale in Multiagent Cooperative and
Competitive Tasks", ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from marl.comm import CommConfig, CommTeam, Mean, in_cell
from marl.errors import require
from marl.rng import Rng
from marl.types import EnvSpec


@dataclass(kw_only=True)
class Config(CommConfig):
    """IC3Net's own: the gate."""

    gate: Literal["learned", "open"] = "learned"  # open: always talk, as in the paper's Traffic Junction

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gate in ("learned", "open"), "gate", self.gate, "give learned or open")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> CommTeam:
        gated = self.gate == "learned"
        make = in_cell(spec, self, gated=gated, make_aggregate=lambda _: Mean(self.hidden))
        return CommTeam(spec, self, gated=gated, make_network=make, rng=rng, device=device)
