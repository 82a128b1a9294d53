"""The network of actors and critics: LayerNorm, two layers, a GRU, a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import GRU, linear


class _Norm(nn.Module):
    """LayerNorm over the last dimension, with one scale and shift for all agents or one each."""

    def __init__(self, size: int, copies: int | None) -> None:
        super().__init__()
        shape = (size,) if copies is None else (copies, size)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class SequenceNet(nn.Module):
    """LayerNorm - Linear ReLU LayerNorm - Linear ReLU LayerNorm - [GRU LayerNorm] - Linear.

    Weights are orthogonal (gain sqrt 2, of the head `head_gain`), biases zero.
    CHOICE: the GRU keeps its default initial weights; the code of Yu et al. makes them orthogonal.

    Args:
        inputs, outputs: features.
        hidden: features of every layer and of the state.
        recurrent: with the GRU or without.
        copies: None for one set of weights, or the number of agents.
        head_gain: 0.01 for actors, 1 for critics (Yu et al.).
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int,
        recurrent: bool,
        copies: int | None,
        head_gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        gain = nn.init.calculate_gain("relu")
        self.norm_in = _Norm(inputs, copies)
        self.first = linear(inputs, hidden, generator=generator, copies=copies, gain=gain)
        self.norm_first = _Norm(hidden, copies)
        self.second = linear(hidden, hidden, generator=generator, copies=copies, gain=gain)
        self.norm_second = _Norm(hidden, copies)
        self.core = GRU(hidden, hidden, generator=generator, copies=copies) if recurrent else None
        self.norm_core = _Norm(hidden, copies) if recurrent else None
        self.head = linear(hidden, outputs, generator=generator, copies=copies, gain=head_gain)

    def _encode(self, x: Tensor) -> Tensor:
        x = self.norm_first(self.first(self.norm_in(x), relu=True))
        return self.norm_second(self.second(x, relu=True))

    def forward(self, x_BTNI: Tensor, start_BT: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, N, .) of whole sequences, and the states after every entry (B, T, N, H).

        Args:
            x_BTNI: inputs.
            start_BT: bool; True where the state before the entry is zero.
            h_BNH: state before entry 0; returned for every entry where there is no GRU.
        """
        y = self._encode(x_BTNI)
        if self.core is None or self.norm_core is None:
            return self.head(y), h_BNH[:, None].expand(-1, y.shape[1], -1, -1)
        h_BTNH = self.core(y, start_BT, h_BNH)
        return self.head(self.norm_core(h_BTNH)), h_BTNH

    def step(self, x_BNI: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, N, .) of one entry, and the state after it."""
        y = self._encode(x_BNI)
        if self.core is None or self.norm_core is None:
            return self.head(y), h_BNH
        h_BNH = self.core.step(y, h_BNH)
        return self.head(self.norm_core(h_BNH)), h_BNH
