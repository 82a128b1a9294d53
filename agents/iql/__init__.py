"""IQL: every agent learns its own action values from the team's reward, as if alone.

| symbol | name here | meaning |
|---|---|---|
| Q_i(tau_i, u_i) | joint.q_BTN | value of agent i's action given its own history |
| y_i | target in marl.returns | r + gamma max_u Q_i^-(tau'_i, u) (double Q by choice) |

L = mean over agents and filled steps of (y_i - Q_i)^2.

Reference: Tan, "Multi-Agent Reinforcement Learning: Independent vs. Cooperative Agents", ICML 1993;
recurrent form: Tampuu et al. 2017 and PyMARL (Samvelyan et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl.rng import Rng
from marl.types import EnvSpec
from marl.value import Joint, QTeam, ValueConfig


@dataclass(kw_only=True)
class Config(ValueConfig):
    """IQL has no hyper-parameters of its own."""

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> QTeam:
        return QTeam(spec, self, lambda _: Separate(), rng=rng, device=device)


class Separate(nn.Module):
    """No mixing: M = N values, each learned from its own error."""

    def forward(self, joint: Joint) -> Tensor:
        return joint.q_BTN
