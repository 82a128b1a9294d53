"""TarMAC: messages carry a signature, and every receiver attends to those that match its query.

| symbol | name here | meaning |
|---|---|---|
| k_j, v_j | message of Attention | signature and value that agent j sends (eq. 2) |
| q_i | query of Attention | what agent i looks for |
| alpha_ij | alpha_BNN | softmax_j(q_i . k_j / sqrt(K)), itself included (eq. 3) |
| c_i | m_BNF | sum_j alpha_ij v_j (eq. 4) |

Two forms. `form: paper` is the paper's: a GRU that takes in c_i, h' = tanh(W [c, h]) between rounds, and a
central critic Q(h_1, a_1, ..., h_N, a_N), learned from temporal differences, whose value of the actions
taken weighs log pi (network.py). CHOICE: the default is attention within the cell and the learner of IC3Net
(what the paper compares as TarMAC + IC3Net: `gate: learned`, `own_rewards: true`), ungated and with the
team's reward, so that a comparison shows the attention alone. DEVIATION there: an LSTM step per round, every
agent's own value.

Reference: Das et al., "TarMAC: Targeted Multi-Agent Communication", ICML 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from marl.agents.tarmac.network import TargetedNetwork
from marl.comm import Attention, CommConfig, CommTeam, TalkingNetwork, in_cell
from marl.config import QUIET
from marl.errors import require
from marl.rng import Rng
from marl.types import EnvSpec

# What None stands for in the form of the paper with learner: reinforce. gamma, rate and entropy: the paper,
# with RMSprop of alpha 0.99 (`rmsprop_alpha`). trace: temporal differences, as there. The rest: CHOICE.
_PAPER: dict[str, Any] = {
    "gamma": 0.99,
    "trace": 0.0,
    "limit_ends": False,
    "value_weight": 0.5,
    "entropy": 0.01,
    "learning_rate": 7e-4,
    "optimiser_eps": 1e-5,
    "max_grad_norm": 0.5,
}


@dataclass(kw_only=True)
class Config(CommConfig):
    """TarMAC's own: the form, the sizes of a message, and the gate."""

    own_rewards: bool = False  # the paper's teams share their reward
    signature: int = 16  # features of signatures and queries, >= 1; paper
    value: int = 32  # features of values, >= 1; paper
    gate: Literal["learned", "open"] = "open"  # learned: TarMAC + IC3Net
    # paper: GRU and central critic. None: attention within IC3Net's cell
    form: Literal["paper"] | None = field(default=None, metadata=QUIET)

    def __post_init__(self) -> None:
        require(self.form in (None, "paper"), "form", self.form, "give paper or null")
        super().__post_init__()
        require(self.gate in ("learned", "open"), "gate", self.gate, "give learned or open")
        for name in ("signature", "value"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        if self.form:
            fix = "the form of the paper has one critic of the team's reward; give false, or form=null"
            require(not self.own_rewards, "own_rewards", self.own_rewards, fix)
            fix = "the form of the paper has a GRU; give true, or form=null"
            require(self.recurrent, "recurrent", self.recurrent, fix)

    @property
    def chosen(self) -> dict[str, Any]:
        chosen = super().chosen
        if self.form and self.learner == "reinforce":
            chosen |= {name: value for name, value in _PAPER.items() if getattr(self, name) is None}
        return chosen

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> CommTeam:
        gated = self.gate == "learned"

        def attention(generator: torch.Generator) -> Attention:
            return Attention(self.hidden, signature=self.signature, value=self.value, generator=generator)

        def paper(generator: torch.Generator) -> TalkingNetwork:
            return TargetedNetwork(
                spec.obs_size,
                spec.n_actions,
                spec.n_agents,
                hidden=self.hidden,
                rounds=self.rounds,
                gated=gated,
                signature=self.signature,
                value=self.value,
                generator=generator,
            )

        make = paper if self.form else in_cell(spec, self, gated=gated, make_aggregate=attention)
        return CommTeam(spec, self, gated=gated, make_network=make, rng=rng, device=device)
