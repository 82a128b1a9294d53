"""Local action values, messages made of the local state, and their sum.

| symbol | name here | meaning |
|---|---|---|
| h_n | h_BTNH | state of agent n's GRU |
| Q_loc^n | local_BTNA | its values, before it heard anybody: a linear function of h_n |
| m_n | message_BTNA | what it says: one number per action |
| val_ij | valid_BTNN | message of j counts at i |
| Q_glb^i | q_BTNA | Q_loc^i + 1 / (N - 1) sum_{j != i} val_ij m_j, or without the divisor |

Reference: Zhang, Zhang, Lin, "Succinct and Robust Multi-Agent Communication With Temporal Message Control",
NeurIPS 2020, and its released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import GRU, linear
from marl.talk.config import MessageConfig
from marl.types import EnvSpec
from marl.value import RecurrentQ


class RecurrentSpeaker(nn.Module):
    """Linear, ELU, GRU of A features: its state, each entry within (-1, 1), is the message."""

    def __init__(self, hidden: int, actions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = linear(hidden, actions, generator=generator)
        self.core = GRU(actions, actions, generator=generator)

    def forward(self, h_BTNH: Tensor, start_BT: Tensor) -> Tensor:
        """Messages of whole sequences; the state is zero before entries that start."""
        said: Tensor = self.core(F.elu(self.encoder(h_BTNH)), start_BT)
        return said

    def step(self, h_BNH: Tensor, before_BNA: Tensor) -> Tensor:
        """The message after one entry. Args: before_BNA: the message before."""
        return self.core.step(F.elu(self.encoder(h_BNH)), before_BNA)


class MlpSpeaker(nn.Module):
    """Linear, ELU, Linear: the message depends on the state alone."""

    def __init__(self, hidden: int, between: int, actions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(hidden, between, generator=generator)
        self.second = linear(between, actions, generator=generator)

    def forward(self, h_BTNH: Tensor, start_BT: Tensor) -> Tensor:
        """Messages of whole sequences."""
        said: Tensor = self.second(F.elu(self.first(h_BTNH)))
        return said

    def step(self, h_BNH: Tensor, before_BNA: Tensor) -> Tensor:
        """The message of one entry; what was said before does not matter."""
        return self.forward(h_BNH, before_BNA)


class TalkingQ(RecurrentQ):
    """The local network of PyMARL, a speaker on its state, and the combining block.

    Args:
        spec: sizes of the world.
        config: hidden size, which encoder, how messages are combined.
        generator: source of the initial weights.
    """

    def __init__(self, spec: EnvSpec, config: MessageConfig, generator: torch.Generator) -> None:
        super().__init__(spec, config, generator)
        H, A = config.hidden, spec.n_actions
        self.divisor = max(spec.n_agents - 1, 1) if config.combine == "mean" else 1
        self.speaker: RecurrentSpeaker | MlpSpeaker
        if config.encoder == "recurrent":
            self.speaker = RecurrentSpeaker(H, A, generator)
        else:
            self.speaker = MlpSpeaker(H, config.encoder_hidden, A, generator)

    def listen(self, x_BTNI: Tensor, start_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q_loc and messages of whole sequences, each (B, T, N, A), and the states (B, T, N, H)."""
        h_BTNH = self.states(x_BTNI, start_BT)
        return self.head(h_BTNH), self.speaker(h_BTNH, start_BT), h_BTNH

    def listen_step(self, x_BNI: Tensor, h_BNH: Tensor, before_BNA: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q_loc (B, N, A), the state after one entry (B, N, H) and the message (B, N, A).

        Args:
            x_BNI: of `inputs`.
            h_BNH: state before it.
            before_BNA: message before it.
        """
        h_BNH = self.core.step(self.encoder(x_BNI, relu=True), h_BNH)
        return self.head(h_BNH), h_BNH, self.speaker.step(h_BNH, before_BNA)

    def combine(self, local: Tensor, message: Tensor, valid: Tensor) -> Tensor:
        """Q_glb of messages that everybody has as they were said.

        Args:
            local, message: (..., N, A).
            valid: bool (..., receiver, sender).
        """
        return local + valid.to(message.dtype) @ message / self.divisor

    def combine_kept(self, local: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
        """Q_glb of messages as receivers keep them.

        Args:
            local: (..., N, A).
            kept: (..., receiver, sender, A).
            valid: bool (..., receiver, sender); others count 0.
        """
        return local + torch.where(valid[..., None], kept, 0.0).sum(-2) / self.divisor
