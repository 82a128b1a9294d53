"""Where every weight of a grouped layer lies: permutations, offsets and the packed vector.

A weight is kept where its input and its output are in one group. Sorted by group, the kept weights are
one block per group, ragged, and perhaps empty; the blocks after each other are the packed vector.

| symbol | meaning |
|---|---|
| I, O | inputs, outputs |
| G | groups |
| m_g, n_g | inputs and outputs of group g |
| nnz | sum over g of m_g n_g, the kept weights |
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.errors import require


@dataclass(frozen=True, eq=False)
class Layout:
    """The layout of one grouped layer; all tensors are int64 and lie on one device.

    Group-major position p of the inputs holds input `order_in_I[p]`; the inputs of group g are the
    positions start_in[g] to start_in[g + 1]. The same holds for outputs. Block g of the packed weights is
    n_g x m_g (outputs x inputs), row-major, and lies at start_block[g] to start_block[g + 1].

    Args:
        group_in_I: group of every input, 0 to G - 1.
        group_out_O: group of every output, 0 to G - 1.
        groups: G; some may be empty.
        order_in_I: input at every group-major position: sorted by group, stable.
        order_out_O: output at every group-major position.
        start_in: (G + 1,) first position of every group's inputs, and I.
        start_out: (G + 1,) first position of every group's outputs, and O.
        start_block: (G + 1,) first packed weight of every group, and nnz.
    """

    group_in_I: Tensor
    group_out_O: Tensor
    groups: int
    order_in_I: Tensor
    order_out_O: Tensor
    start_in: Tensor
    start_out: Tensor
    start_block: Tensor

    @classmethod
    def of(cls, group_in_I: Tensor, group_out_O: Tensor, groups: int) -> Layout:
        """The layout of these group indices.

        Args:
            group_in_I: group of every input.
            group_out_O: group of every output.
            groups: G >= 1.

        Raises:
            FieldError: an index is outside 0 to G - 1, or not one per feature.
        """
        require(groups >= 1, "groups", groups, "give at least 1")
        for name, group in (("group_in_I", group_in_I), ("group_out_O", group_out_O)):
            one_each = group.dim() == 1 and len(group) > 0
            require(one_each, name, tuple(group.shape), "give one group per feature")
            low, high = int(group.min()), int(group.max())
            require(low >= 0 and high < groups, name, [low, high], f"give groups from 0 to {groups - 1}")
        group_in_I, group_out_O = group_in_I.long(), group_out_O.long()
        (order_in, count_in), (order_out, count_out) = _sort(group_in_I, groups), _sort(group_out_O, groups)
        starts = _starts(count_in), _starts(count_out), _starts(count_in * count_out)
        return cls(group_in_I, group_out_O, groups, order_in, order_out, *starts)

    @property
    def inputs(self) -> int:
        """I."""
        return len(self.group_in_I)

    @property
    def outputs(self) -> int:
        """O."""
        return len(self.group_out_O)

    @functools.cached_property
    def nnz(self) -> int:
        """Number of kept weights."""
        return int(self.start_block[-1])

    @property
    def density(self) -> float:
        """Share of the weights that are kept: nnz / (I O)."""
        return self.nnz / (self.inputs * self.outputs)

    @functools.cached_property
    def sizes_in(self) -> tuple[int, ...]:
        """m_g of every group."""
        return tuple(self.start_in.diff().tolist())

    @functools.cached_property
    def sizes_out(self) -> tuple[int, ...]:
        """n_g of every group."""
        return tuple(self.start_out.diff().tolist())

    @functools.cached_property
    def place_out_O(self) -> Tensor:
        """Group-major position of every output."""
        return self.order_out_O.argsort()

    @functools.cached_property
    def sorted_in(self) -> bool:
        """Whether the inputs stand in group-major order as they are, so that nothing has to be gathered."""
        return not bool((self.order_in_I.diff() != 1).any())

    @functools.cached_property
    def sorted_out(self) -> bool:
        """The same for the outputs."""
        return not bool((self.order_out_O.diff() != 1).any())

    def settle(self) -> Layout:
        """Read from the tensors what products need as plain numbers: a tracer must find them there."""
        _ = self.sizes_in, self.sizes_out, self.sorted_in, self.sorted_out, self.place_out_O
        return self

    @functools.cached_property
    def output_of_packed(self) -> Tensor:
        """(nnz,) output that every packed weight belongs to."""
        return self.order_out_O[self._row_of_packed]

    @functools.cached_property
    def input_of_packed(self) -> Tensor:
        """(nnz,) input that every packed weight belongs to."""
        row = self._row_of_packed
        width_O = self._width_O
        first_O = width_O.cumsum(0) - width_O  # packed position of every row's first weight
        column = torch.arange(self.nnz, device=row.device) - first_O[row]
        return self.order_in_I[self.start_in[self.group_out_O[self.order_out_O]][row] + column]

    @functools.cached_property
    def index_of_packed(self) -> Tensor:
        """(nnz,) position of every packed weight in the flattened (O, I) weight."""
        return self.output_of_packed * self.inputs + self.input_of_packed

    @property
    def _width_O(self) -> Tensor:
        """Weights of the output at every group-major position: m_g of its group."""
        return self.start_in.diff()[self.group_out_O[self.order_out_O]]

    @functools.cached_property
    def _row_of_packed(self) -> Tensor:
        """(nnz,) group-major position of the output of every packed weight."""
        rows = torch.arange(self.outputs, device=self.order_out_O.device)
        return torch.repeat_interleave(rows, self._width_O, output_size=self.nnz)

    def mask_OI(self) -> Tensor:
        """Bool, true where a weight is kept."""
        return self.group_out_O[:, None] == self.group_in_I[None, :]

    def pack(self, weight_OI: Tensor) -> Tensor:
        """The kept weights as (nnz,), differentiable."""
        return weight_OI.reshape(-1)[self.index_of_packed]

    def unpack(self, packed: Tensor, fill: Tensor | None = None) -> Tensor:
        """The dense weight (O, I), differentiable.

        Args:
            packed: (nnz,) kept weights.
            fill: (O, I) what stands where no weight is kept; None: zeros.
        """
        base = packed.new_zeros(self.outputs * self.inputs) if fill is None else fill.reshape(-1)
        return base.index_put((self.index_of_packed,), packed).view(self.outputs, self.inputs)

    def sums(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column sums of packed values: (I,) over the outputs, (O,) over the inputs."""
        sum_I = values.new_zeros(self.inputs).index_add(0, self.input_of_packed, values)
        sum_O = values.new_zeros(self.outputs).index_add(0, self.output_of_packed, values)
        return sum_I, sum_O

    def after(self, before: Layout) -> Layout:
        """The same layer reading the group-major outputs of the layer before; packed weights stay valid.

        Args:
            before: layout with as many outputs as this one has inputs.
        """
        require(
            before.outputs == self.inputs, "inputs", self.inputs, f"give {before.outputs}, the outputs before"
        )
        order_in_I = before.place_out_O[self.order_in_I]
        return dataclasses.replace(
            self, group_in_I=self.group_in_I[before.order_out_O], order_in_I=order_in_I
        )

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if field.name != "groups"
        }
        return Layout(groups=self.groups, **moved)


def _sort(group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Features in the order of their groups, and the size of every group."""
    return group.argsort(stable=True), torch.bincount(group, minlength=groups)


def _starts(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
