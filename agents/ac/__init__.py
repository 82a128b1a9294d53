"""AC: everybody sends a message to everybody at every step, in training and in use.

| symbol | name here | meaning |
|---|---|---|
| Q_loc, m, Q_glb | `marl.talk.TalkingQ` | local values, messages, and their sum |

The baseline of TMC's paper: its network without regularisers and without a limit on sending. Trained over a
lossy link (`train_channel=heavy`) it is the paper's AC(heavy): messages are lost in training as in
Message-Dropout, and a lost one counts 0.

References: Zhang, Zhang, Lin, "Succinct and Robust Multi-Agent Communication With Temporal Message Control",
NeurIPS 2020; Kim, Cho, Sung, "Message-Dropout: An Efficient Training Method for Multi-Agent Deep
Reinforcement Learning", AAAI 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from marl.rng import Rng
from marl.talk import MessageConfig, TalkingTeam
from marl.types import EnvSpec


@dataclass(kw_only=True)
class Config(MessageConfig):
    """AC has no hyper-parameters of its own."""

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> TalkingTeam:
        return TalkingTeam(spec, self, rng=rng, device=device)
