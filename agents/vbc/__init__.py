"""VBC: messages of little variance say little and are not sent, nor asked for by who is sure already.

| symbol | name here | meaning |
|---|---|---|
| Q_loc, m, Q_glb | `marl.talk.TalkingQ` | local values, messages, and their sum |
| L_v | variance_loss | mean standard deviation over actions of what was heard |
| delta_1 | request_gap | ask the others if the gap of the best two local values is below |
| delta_2 | reply_deviation | reply if the message's standard deviation is at least this |

Training is all-to-all; requests and replies rule where the team is measured or used.
CHOICE: requests are neither lost nor counted: the released overhead is the fraction of ordered pairs over
which a message went, and so is ours.

References: Zhang, Zhang, Lin, "Efficient Communication in Multi-Agent Reinforcement Learning via Variance
Based Control", NeurIPS 2019; its released code (commit 01e218a).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from marl.errors import require
from marl.rng import Rng
from marl.talk import MessageConfig, TalkingTeam
from marl.talk.team import Said
from marl.types import Batch, Carry, EnvSpec, Link
from marl.value import Look

_FLOOR = 1e-8  # CHOICE: added to the variance under the root, whose slope at 0 is infinite


@dataclass(kw_only=True)
class Config(MessageConfig):
    """VBC's own. Source: released code."""

    encoder: Literal["recurrent", "mlp"] = "mlp"
    variance_weight: float = 1.7  # lambda, >= 0
    request_gap: float = 10.0  # delta_1, >= 0; 0 never asks; shipped for SMAC's corridor, to be tuned
    reply_deviation: float = 0.0  # delta_2, >= 0; shipped: replies to every request

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("variance_weight", "request_gap", "reply_deviation"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give a number >= 0")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> VBC:
        return VBC(spec, self, rng=rng, device=device)


class VBC(TalkingTeam):
    """All-to-all in training; in use whoever is unsure asks, and who has something to say replies."""

    config: Config

    def _protocol(self, said: Said, carry: Carry, link: Link) -> tuple[Tensor, Tensor, Carry]:
        c = self.config
        asks_BN = sureness(said.local_BNA, said.ts.avail_BNA) < c.request_gap
        replies_BN = deviation(said.message_BNA) >= c.reply_deviation
        wanted_BNN = self._wanted(said.ts.alive_BN) & asks_BN[:, :, None] & replies_BN[:, None, :]
        kept_BNNA, delivered_BNN, carry = link.send(said.message_BNA, wanted_BNN, carry)
        return self._net.combine_kept(said.local_BNA, kept_BNNA, delivered_BNN), delivered_BNN, carry

    def _own_losses(self, look: Look, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        heard_BTNA = look.q_BTNA - look.parts["local"]
        return {"variance": (self.config.variance_weight, variance_loss(heard_BTNA, batch.filled_BT))}


def sureness(local: Tensor, avail: Tensor) -> Tensor:
    """Gap of the best two local values over available actions (CHOICE); infinite where there is one action.

    Args:
        local: (..., A), at least two actions.
        avail: bool (..., A).
    """
    best = local.masked_fill(~avail, -torch.inf).topk(2, -1).values
    return best[..., 0] - best[..., 1]


def deviation(message: Tensor) -> Tensor:
    """Standard deviation over the last dimension, with the divisor A - 1 of the released code."""
    return message.std(-1)


def variance_loss(heard_BTNA: Tensor, filled_BT: Tensor) -> Tensor:
    """L_v: mean over agents and filled entries of the standard deviation of what was heard.

    Args:
        heard_BTNA: combined messages, differentiable.
        filled_BT: bool.
    """
    heard_BTNA = torch.where(filled_BT[..., None, None], heard_BTNA, 0.0)
    deviation_BTN = (heard_BTNA.var(-1) + _FLOOR).sqrt()
    total = torch.where(filled_BT[..., None], deviation_BTN, 0.0).sum()
    return total / (filled_BT.sum() * heard_BTNA.shape[2]).clamp(min=1)
