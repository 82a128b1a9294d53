"""Mixers that several methods use: the sum of VDN, the monotonic network of QMIX.

| symbol | name here | meaning |
|---|---|---|
| Q_a(tau^a, u^a) | q_BTN | value of agent a's action given its history |
| s | state_BTS | state of the world |
| W_1, b_1 | w1, b1 | make the first mixing layer, W_1 >= 0 by its absolute value; E features |
| W_2, b_2 | w2, b2 | make the second mixing layer, W_2 >= 0 likewise; b_2 is V(s) |
| Q_tot | returned | VDN: sum_a Q_a; QMIX: elu(Q W_1 + b_1) W_2 + b_2 |

References: Sunehag et al., AAMAS 2018 (VDN); Rashid et al., ICML 2018 (QMIX, section 4.1 and figure 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.nets import MLP, linear, monotonic_mix
from marl.types import EnvSpec
from marl.value.joint import Joint


class Sum(nn.Module):
    """Q_tot = sum_a Q_a, (B, T, 1)."""

    def forward(self, joint: Joint) -> Tensor:
        return joint.q_BTN.sum(-1, keepdim=True)


class Monotonic(nn.Module):
    """Q_tot(s, Q_1..Q_N), monotone in every Q_a; (B, T, 1).

    Args:
        spec: number of agents N and state features S.
        embed: features E of the mixing layer.
        hyper_hidden: features of the hidden layer of the networks that make W_1 and W_2.
        generator: source of the initial weights.
    """

    def __init__(self, spec: EnvSpec, *, embed: int, hyper_hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        S, N, E, D = spec.state_size, spec.n_agents, embed, hyper_hidden
        self.w1 = MLP((S, D, N * E), generator=generator)
        self.b1 = linear(S, E, generator=generator)
        self.w2 = MLP((S, D, E), generator=generator)
        self.b2 = MLP((S, E, 1), generator=generator)

    def forward(self, joint: Joint) -> Tensor:
        s_BTS = joint.state_BTS
        return monotonic_mix(joint.q_BTN, self.w1(s_BTS), self.b1(s_BTS), self.w2(s_BTS), self.b2(s_BTS))
