"""The network of actors and critics: two layers, a GRU, a head, with LayerNorms between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marl.nets import GRU
from marl.nets.tower import Activation, Tower


class SequenceNet(nn.Module):
    """LayerNorm - Linear act LayerNorm - Linear act LayerNorm - [GRU LayerNorm] - Linear.

    Weights are orthogonal (gain sqrt 2 with ReLU, 5/3 with tanh, of the head `head_gain`), biases zero.
    CHOICE: the GRU keeps its default initial weights; the code of Yu et al. makes them orthogonal.

    Args:
        inputs, outputs: features.
        hidden: features of every layer and of the state.
        recurrent: with the GRU or without.
        activation: after the two layers.
        layer_norm: with the LayerNorms or without.
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
        activation: Activation = "relu",
        layer_norm: bool = True,
        copies: int | None,
        head_gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes, acts = [inputs, hidden, hidden], [activation, activation]
        gains = [nn.init.calculate_gain(activation)] * 2
        self.core: GRU | None = None
        self.head: Tower | None = None

        def tower(sizes: list[int], acts: list[Activation | None], gains: list[float], after: bool) -> Tower:
            return Tower(
                sizes,
                activations=acts,
                gains=gains,
                norm=layer_norm,
                norm_after=after,
                copies=copies,
                generator=generator,
            )

        if recurrent:
            self.body = tower(sizes, [*acts], gains, layer_norm)
            self.core = GRU(hidden, hidden, generator=generator, copies=copies)
            self.head = tower([hidden, outputs], [None], [head_gain], False)
        else:
            self.body = tower([*sizes, outputs], [*acts, None], [*gains, head_gain], False)

    def forward(self, x_BTNI: Tensor, start_BT: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, N, .) of whole sequences, and the states after every entry (B, T, N, H).

        Args:
            x_BTNI: inputs.
            start_BT: bool; True where the state before the entry is zero.
            h_BNH: state before entry 0; returned for every entry where there is no GRU.
        """
        y = self.body(x_BTNI)
        if self.core is None or self.head is None:
            return y, h_BNH[:, None].expand(-1, y.shape[1], -1, -1)
        h_BTNH = self.core(y, start_BT, h_BNH)
        return self.head(h_BTNH), h_BTNH

    def step(self, x_BNI: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, N, .) of one entry, and the state after it."""
        y = self.body(x_BNI)
        if self.core is None or self.head is None:
            return y, h_BNH
        h_BNH = self.core.step(y, h_BNH)
        return self.head(h_BNH), h_BNH

    def view(self, x_BTNI: Tensor, start_BT: Tensor | None, h_BNH: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs, and the features before the last layer, each (B, T, N, .). Args: as `learn`."""
        if self.core is None:
            return self.body.view(x_BTNI)
        assert start_BT is not None
        assert h_BNH is not None
        return self(x_BTNI, start_BT, h_BNH)

    def learn(
        self,
        x_BTNI: Tensor,
        start_BT: Tensor | None,
        h_BNH: Tensor | None,
        loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Add a loss's gradient to the parameters'.

        Args:
            x_BTNI, start_BT, h_BNH: as `forward`; the latter two None where there is no GRU.
            loss: from the outputs, values and the gradient (B, T, N, .) of what shall become smaller.

        Returns:
            The loss's values.
        """
        if self.core is None and self.body.native(x_BTNI):
            return self.body.learn(x_BTNI, loss)
        if self.core is None:
            y = self.body(x_BTNI)
        else:
            assert start_BT is not None
            assert h_BNH is not None
            y = self(x_BTNI, start_BT, h_BNH)[0]
        values, dy = loss(y.detach())
        torch.autograd.backward(y, dy)
        return values
