"""VDN: the joint value is the sum of the agents' values.

| symbol | name here | meaning |
|---|---|---|
| Q_i(h_i, a_i) | q_BTN of a Joint | value of agent i's action given its own history |
| Q(h, a) | returned by `marl.value.Sum` | joint value, eq. in section 3 |

Q((h_1..h_N), (a_1..a_N)) = sum_i Q_i(h_i, a_i).

Reference: Sunehag et al., "Value-Decomposition Networks For Cooperative Multi-Agent Learning",
AAMAS 2018; recurrent form and hyper-parameters: PyMARL (Samvelyan et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from marl.rng import Rng
from marl.types import EnvSpec
from marl.value import QTeam, Sum, ValueConfig


@dataclass(kw_only=True)
class Config(ValueConfig):
    """VDN has no hyper-parameters of its own."""

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> QTeam:
        return QTeam(spec, self, lambda _: Sum(), rng=rng, device=device)
