"""TarMAC: messages carry a signature, and every receiver attends to those that match its query.

| symbol | name here | meaning |
|---|---|---|
| k_j, v_j | message of Attention | signature and value that agent j sends (eq. 2) |
| q_i | query of Attention | what agent i looks for |
| alpha_ij | alpha_BNN | softmax_j(q_i . k_j / sqrt(K)), itself included (eq. 3) |
| c_i | m_BNF | sum_j alpha_ij v_j (eq. 4) |

CHOICE: attention within the cell and the learner of IC3Net (the form that the paper compares in
TarMAC + IC3Net: `gate: learned`, `own_rewards: true`), by default ungated and with the team's reward.
DEVIATION: the paper has a GRU, h' = tanh(W [c, h]) between rounds, and a critic of all states and actions;
here an LSTM step per round and every agent's own value, so that only the attention differs from IC3Net.

Reference: Das et al., "TarMAC: Targeted Multi-Agent Communication", ICML 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from marl.comm import Attention, CommConfig, CommTeam
from marl.errors import require
from marl.rng import Rng
from marl.types import EnvSpec


@dataclass(kw_only=True)
class Config(CommConfig):
    """TarMAC's own: the sizes of a message, and the gate."""

    own_rewards: bool = False  # the paper's teams share their reward
    signature: int = 16  # features of signatures and queries, >= 1; paper
    value: int = 32  # features of values, >= 1; paper
    gate: Literal["learned", "open"] = "open"  # learned: TarMAC + IC3Net

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gate in ("learned", "open"), "gate", self.gate, "give learned or open")
        for name in ("signature", "value"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> CommTeam:
        def attention(generator: torch.Generator) -> Attention:
            return Attention(self.hidden, signature=self.signature, value=self.value, generator=generator)

        return CommTeam(
            spec, self, gated=self.gate == "learned", make_aggregate=attention, rng=rng, device=device
        )
