"""The adversary of ow and owr: a deep Q-network that acts in the victims' place.

| symbol | name here | meaning |
|---|---|---|
| Q_adv(o, a) | q_BTNA | worth of the victims' action for whoever wants the team to fail |
| d(a) | gap | Q_victim(best action) - Q_victim(a), >= 0: what it takes to make the victim do a |
| lambda, tau | penalty, temperature | weight and sharpness of the soft penalty |

loss = TD loss + lambda sum_a softmax(Q_adv / tau)_a d(a)^2, over available actions. (The paper's d of the
hard choice does not depend on the network's weights; the other reconstruction is in the reward: world.py.)
CHOICE: a recurrent double Q-network, as the suite's own teams, on the victims' histories; several victims
share it and learn the sum of their values (VDN). `returns: nstep` in its settings gives one-step DQN.

Reference: Lin et al., "On the Robustness of Cooperative Multi-Agent Reinforcement Learning", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl.errors import require
from marl.rng import Rng, Stream
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep
from marl.value import Look, QTeam, Sum, ValueConfig

GAP = "gap"  # the world's name for d(a) in its info, and the memory's


@dataclass(kw_only=True)
class AdversaryConfig(ValueConfig):
    """The penalty beside what all value-based teams have."""

    penalty: float = 0.0  # lambda, >= 0; the paper's is unknown
    temperature: float = 0.1  # tau, > 0; CHOICE

    label = "adversary"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.penalty >= 0, "penalty", self.penalty, "give a number >= 0")
        require(self.temperature > 0, "temperature", self.temperature, "give a number above 0")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> Adversary:
        return Adversary(spec, self, lambda _: Sum(), rng=rng, device=device)


class Adversary(QTeam):
    """A Q-learning team of the victims, with the soft penalty where it has a weight."""

    config: AdversaryConfig

    def __init__(self, spec: EnvSpec, config: AdversaryConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(spec, config, *args, **kwargs)
        if config.penalty > 0:
            shape = spec.n_agents, spec.n_actions
            self.extras_spec = {GAP: FieldSpec(shape=shape, dtype=torch.float32)}

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        act = super().act(ts, carry, rng=rng, explore=explore, link=link)
        if self.config.penalty > 0 and GAP in ts.info:  # not there when it attacks
            act.extras[GAP] = ts.info[GAP]
        return act

    def _own_losses(self, look: Look, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        if self.config.penalty == 0:
            return {}
        live_BTN = batch.filled_BT[..., None] & batch.alive_BTN
        value = cheapness(
            look.q_BTNA, batch.avail_BTNA, batch.extras[GAP], live_BTN, temperature=self.config.temperature
        )
        return {"cheapness": (self.config.penalty, value)}


def cheapness(
    q_BTNA: Tensor, avail_BTNA: Tensor, gap_BTNA: Tensor, live_BTN: Tensor, *, temperature: float
) -> Tensor:
    """Mean over live entries of sum_a softmax(Q / tau)_a d(a)^2.

    Args:
        q_BTNA: differentiable.
        avail_BTNA: bool; other actions have no probability.
        gap_BTNA: d(a), a constant; anything where unavailable.
        live_BTN: bool.
    """
    avail_BTNA = avail_BTNA | ~live_BTN[..., None]  # padding may offer nothing: any finite number will do
    p_BTNA = (q_BTNA / temperature).masked_fill(~avail_BTNA, -torch.inf).softmax(-1)
    each_BTN = (p_BTNA * torch.where(avail_BTNA, gap_BTNA, 0.0).square()).sum(-1)
    return torch.where(live_BTN, each_BTN, 0.0).sum() / live_BTN.sum().clamp(min=1)
