"""QPLEX: a duplex duelling mixer that can represent every joint value with a consistent greedy action.

| symbol | name here | meaning |
|---|---|---|
| Q_i, V_i = max Q_i, A_i = Q_i - V_i | q_BTN, v_BTN, q - v | agent i's value, its best, its advantage |
| w_i(s) > 0, b_i(s) | w_BTN, b_BTN | transformation, eq. 9: V_i' = w_i V_i + b_i, A_i' = w_i A_i |
| lambda_i(s, a) > 0 | lambda_BTN | importance weights, eqs. 10 and 12, K attention heads |
| Q_tot | returned by Duplex | sum_i V_i' + sum_i lambda_i A_i', eq. 11 |

DEVIATION: as in the authors' code, the advantage part that lambda scales carries no gradient into the
agents: Q_tot = sum (w_i Q_i + b_i) + sum (lambda_i - 1) stopgrad(w_i (Q_i - V_i)). The value is eq. 11's.
`stop_gradient: false` is the paper's form. Measured on the QTRAN matrix game, all joint actions equally
often: the paper's form fits it exactly within 500 steps of Adam in one seed of four and stalls where two
actions tie in three; the stopped form needs thousands of steps.
V_i is the maximum over *available* actions, so that some legal joint action has A = 0.

Reference: Wang et al., "QPLEX: Duplex Dueling Multi-Agent Q-Learning", ICLR 2021; its released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.errors import require
from marl.nets import MLP
from marl.rng import Rng
from marl.types import EnvSpec
from marl.value import Joint, QTeam, ValueConfig

_FLOOR = 1e-10  # keeps w_i and the heads' keys positive; the authors' code


@dataclass(kw_only=True)
class Config(ValueConfig):
    """QPLEX's own: sizes of the transformation and of the attention that makes lambda."""

    hyper_hidden: int = 64  # hidden features of w_i(s) and b_i(s), >= 1; authors' code
    heads: int = 4  # attention heads K, >= 1; authors' code: 4 on SMAC, 10 on matrix games
    extractor_layers: int = 1  # linear layers of keys, agents and actions; authors' code: 1, matrix games 3
    extractor_hidden: int = 64  # features between them, >= 1; authors' code
    stop_gradient: bool = True  # as in the authors' code, see DEVIATION above; False: the paper's eq. 11

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hyper_hidden", "heads", "extractor_layers", "extractor_hidden"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> QTeam:
        return QTeam(spec, self, lambda generator: Duplex(spec, self, generator), rng=rng, device=device)


class Duplex(nn.Module):
    """Q_tot(s, a, Q_1..Q_N): eq. 11 with the gradient of the authors' code.

    Args:
        spec: number of agents N, actions A and state features S.
        config: sizes.
        generator: source of the initial weights.
    """

    def __init__(self, spec: EnvSpec, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        S, N, K = spec.state_size, spec.n_agents, config.heads
        self.n_actions = spec.n_actions
        between = (config.extractor_hidden,) * (config.extractor_layers - 1)
        self.w = MLP((S, config.hyper_hidden, N), generator=generator)
        self.b = MLP((S, config.hyper_hidden, N), generator=generator)
        # One extractor per head: heads are independent sets of weights applied to the same input.
        self.key = MLP((S, *between, 1), generator=generator, copies=K)
        self.agent = MLP((S, *between, N), generator=generator, copies=K)
        self.action = MLP((S + N * self.n_actions, *between, N), generator=generator, copies=K)
        self.heads, self.stop_gradient = K, config.stop_gradient

    def importance(self, state_BTS: Tensor, actions_BTN: Tensor) -> Tensor:
        """lambda_i(s, a) > 0, (B, T, N): eq. 12's sum over heads."""
        one_hot_BTX = F.one_hot(actions_BTN, self.n_actions).flatten(-2).to(state_BTS.dtype)
        key_BTKN = self.key(self._per_head(state_BTS)).abs() + _FLOOR
        agent_BTKN = torch.sigmoid(self.agent(self._per_head(state_BTS)))
        action_BTKN = torch.sigmoid(self.action(self._per_head(torch.cat((state_BTS, one_hot_BTX), -1))))
        return (key_BTKN * agent_BTKN * action_BTKN).sum(-2)

    def _per_head(self, x_BTX: Tensor) -> Tensor:
        return x_BTX[..., None, :].expand(*x_BTX.shape[:-1], self.heads, -1)

    def forward(self, joint: Joint) -> Tensor:
        q_BTN, state_BTS = joint.q_BTN, joint.state_BTS
        q_BTNA = joint.q_BTNA.detach() if self.stop_gradient else joint.q_BTNA
        v_BTN = q_BTNA.masked_fill(~joint.avail_BTNA, -torch.inf).amax(-1)
        # Padding may offer no action at all: any finite V will do there, since it is never learned from.
        v_BTN = torch.where(joint.avail_BTNA.any(-1), v_BTN, q_BTN.detach())
        w_BTN, b_BTN = self.w(state_BTS).abs() + _FLOOR, self.b(state_BTS)
        lambda_BTN = self.importance(state_BTS, joint.actions_BTN)
        advantage_BTN = w_BTN * (q_BTN - v_BTN)
        if self.stop_gradient:
            advantage_BTN = advantage_BTN.detach()
        return (w_BTN * q_BTN + b_BTN + (lambda_BTN - 1.0) * advantage_BTN).sum(-1, keepdim=True)
