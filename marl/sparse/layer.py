"""A linear layer in groups that may change while it learns: storage, gradients, and the change itself.

| symbol | name here | meaning |
|---|---|---|
| W | weight | all O x I weights in the order of the layout: the kept ones, packed, then those that sleep |
| nnz | layout.nnz | kept weights; the first nnz of `weight` |
| X^T dY | leaf.grad | gradient of the packed weights (`selected`), or of all (`full`) |

One vector of constant size holds what is kept and what sleeps, so that optimisers, targets and checkpoints
see a parameter like any other. A change of the groups is a permutation of it and of the optimiser's
statistics. What sleeps is not touched: no product reads it, no gradient reaches it, no optimiser moves it.
The mask's gradient is linear in X^T dY, so that it is formed once per optimiser step, not once per product.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import kernels
from marl.sparse.grouping import Grouping, full_gradients, selected_gradients
from marl.sparse.layout import Layout
from marl.sparse.linear import grouped_linear


class GroupedLayer(nn.Module):
    """y = x (W * mask)^T + b.

    `bind` must be called where its parameters or buffers were moved or filled from outside;
    `marl.nets.FlatParameters` and `marl.nets.load_tensors` do.

    Args:
        weight_OI, bias_O: as the dense layer would start.
        groups: (group of every input, group of every output), int64, or a Grouping that learns them.
        count: G.
        full: keep the gradient of all weights, not of the kept ones only; products are dense then.
        whole: for now all features are in group 0, so that every weight counts, and no logit learns.
        backend: of `grouped_linear` where products are not dense.
    """

    group_in_I: Tensor
    group_out_O: Tensor
    layout: Layout
    leaf: Tensor  # what products differentiate: the packed weights, or with `full` W * mask (O, I)

    def __init__(
        self,
        weight_OI: Tensor,
        bias_O: Tensor,
        groups: Grouping | tuple[Tensor, Tensor],
        count: int,
        *,
        full: bool,
        whole: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.count, self.full, self.backend, self.whole = count, full, backend, whole
        self.grouping = groups if isinstance(groups, Grouping) else None
        group_in_I, group_out_O = groups.indices() if isinstance(groups, Grouping) else groups
        if whole:
            group_in_I, group_out_O = torch.zeros_like(group_in_I), torch.zeros_like(group_out_O)
        self.register_buffer("group_in_I", group_in_I)
        self.register_buffer("group_out_O", group_out_O)
        order = order_of(Layout.of(group_in_I, group_out_O, count))
        self.weight = nn.Parameter(weight_OI.detach().reshape(-1)[order])
        self.bias = nn.Parameter(bias_O.detach().clone())
        self.bind()

    def bind(self) -> None:
        """Take layout and leaf from the parameters and buffers as they are now."""
        self.layout = Layout.of(self.group_in_I, self.group_out_O, self.count)
        self._make_leaf()

    def _make_leaf(self) -> None:
        self._known_order: Tensor | None = None
        nnz, gradient = self.layout.nnz, self.weight.grad
        packed = self.weight.data[:nnz]
        self.leaf = self.layout.unpack(packed) if self.full else packed
        if self.weight.requires_grad:
            self.leaf.requires_grad_()
            if self.full:
                self.leaf.grad = torch.zeros_like(self.leaf)
            elif gradient is not None:
                self.leaf.grad = gradient[:nnz]

    @property
    def _order(self) -> Tensor:
        """(O I,) position in the flattened (O, I) weight of what stands at every position of `weight`."""
        if self._known_order is None:
            self._known_order = order_of(self.layout)
        return self._known_order

    @property
    def packed(self) -> Tensor:
        """The kept weights (nnz,), without a gradient."""
        return self.weight.data[: self.layout.nnz]

    @property
    def dense_weight(self) -> Tensor | None:
        """W * mask (O, I) where products are dense; `marl.nets.dense_weight` asks for it."""
        return self.leaf if self.full else None

    def dense(self) -> Tensor:
        """All weights (O, I), sleeping ones too, without a gradient."""
        flat = torch.empty_like(self.weight.data)
        flat[self._order] = self.weight.data
        return flat.view(self.layout.outputs, self.layout.inputs)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Args: x: (..., I). Returns: (..., O), after max(., 0) if relu."""
        if not self.full:
            return grouped_linear(x, self.leaf, self.bias, self.layout, relu=relu, backend=self.backend)
        if kernels.usable(x):
            return kernels.linear(x, self.leaf, self.bias, relu=relu)
        y = F.linear(x, self.leaf, self.bias)
        return torch.relu(y) if relu else y

    # Around an optimiser step

    @torch.no_grad()
    def clear(self) -> None:
        """Forget the gradient of the leaf where it is not that of the parameter."""
        if self.full and self.leaf.grad is not None:
            self.leaf.grad.zero_()

    @torch.no_grad()
    def gradients(self) -> None:
        """Before a step: the gradients of weights and logits from that of the leaf."""
        gradient = self.leaf.grad
        assert gradient is not None
        if self.grouping is not None and not self.whole:
            if self.full:
                groups = self.group_in_I, self.group_out_O, self.count
                slopes = full_gradients(gradient, self.dense(), *groups)
            else:
                slopes = selected_gradients(gradient, self.leaf, self.layout)
            self.grouping.add_gradients(*slopes)
        if self.full:
            packed_grad = self.layout.pack(gradient)
            if self.weight.grad is None:
                self.weight.grad = torch.zeros_like(self.weight)
            self.weight.grad[: self.layout.nnz] += packed_grad
            gradient.zero_()

    @torch.no_grad()
    def renew(self) -> None:
        """After a step without a change of groups: the leaf holds what the parameter holds."""
        if self.full:
            self.leaf.reshape(-1)[self.layout.index_of_packed] = self.packed

    @torch.no_grad()
    def rescale(self) -> None:
        """Multiply all weights so that the kept ones have the sum of squares that all have now."""
        kept = self.packed.square().sum()
        if kept > 0:
            self.weight.data.mul_((self.weight.data.square().sum() / kept).sqrt())
            self.renew()

    @torch.no_grad()
    def regroup(self, group_in_I: Tensor, group_out_O: Tensor) -> Tensor | None:
        """Take these groups.

        Returns: None where they are those of before; else (O I,), the position before the change of what now
            stands at every position of `weight`. The parameter's gradient must be zero.
        """
        if torch.equal(group_in_I, self.group_in_I) and torch.equal(group_out_O, self.group_out_O):
            return None
        before = self._order
        self.group_in_I.copy_(group_in_I)
        self.group_out_O.copy_(group_out_O)
        place = torch.empty_like(before)
        place[before] = torch.arange(len(before), device=before.device)
        self.layout = Layout.of(self.group_in_I, self.group_out_O, self.count)
        moved = place[order_of(self.layout)]
        self.weight.data.copy_(self.weight.data[moved])
        self._make_leaf()
        return moved


class GroupedCopies(nn.Module):
    """One grouped layer per copy of the weights, each with groups of its own."""

    def __init__(self, layers: list[GroupedLayer]) -> None:
        super().__init__()
        self.copies = nn.ModuleList(layers)

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Args: x: (..., C, I). Returns: (..., C, O)."""
        return torch.stack([layer(x[..., c, :], relu=relu) for c, layer in enumerate(self.copies)], -2)


def grouped_layers(network: nn.Module) -> Iterator[tuple[str, GroupedLayer]]:
    """Every grouped layer with its name in the network."""
    for name, module in network.named_modules():
        if isinstance(module, GroupedLayer):
            yield name, module


def follow(target: nn.Module, online: nn.Module) -> None:
    """Give the layers of one network the groups of its twin, so that equal positions hold equal weights."""
    pairs = zip(grouped_layers(target), grouped_layers(online), strict=True)
    for (_, layer), (_, other) in pairs:
        layer.regroup(other.group_in_I, other.group_out_O)


def order_of(layout: Layout) -> Tensor:
    """(O I,) positions in the flattened (O, I) weight: the kept ones, packed, then the others, rising."""
    sleeping = (~layout.mask_OI()).reshape(-1).nonzero().squeeze(1)
    return torch.cat((layout.index_of_packed, sleeping))
