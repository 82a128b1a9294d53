"""Grouped layers by torch's own operations: any device and dtype, differentiable as often as one likes."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from marl.sparse.backends import choose
from marl.sparse.layout import Layout


def grouped_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, layout: Layout, *, relu: bool, gather: bool, scatter: bool
) -> Tensor:
    """`marl.sparse.linear.grouped_linear` by padded bmm or a loop over groups, whichever is faster."""
    rows_RI = x.reshape(-1, layout.inputs)
    if gather:
        rows_RI = rows_RI.index_select(1, layout.order_in_I)
    # What is traced cannot be measured, and must not leave its tensors in `_shapes`.
    form = "loop" if torch.compiler.is_compiling() else _faster(rows_RI, packed, layout)
    y_RO = (padded_bmm if form == "padded_bmm" else loop)(rows_RI, packed, layout)
    if scatter:
        y_RO = y_RO.index_select(1, layout.place_out_O)
    if bias is not None:
        y_RO = y_RO + (bias if scatter else bias[layout.order_out_O])
    y = y_RO.view(*x.shape[:-1], layout.outputs)
    return torch.relu(y) if relu else y


@torch.no_grad()
def _faster(rows_RI: Tensor, packed: Tensor, layout: Layout) -> str:
    """Name of the form that is faster for this shape."""
    forms = {
        form.__name__: functools.partial(form, rows_RI.detach(), packed.detach(), layout)
        for form in (padded_bmm, loop)
    }
    shape = f"torch {layout.inputs}x{layout.outputs} nnz {layout.nnz} of {layout.groups} groups"
    key = f"{shape}; 2^{choose.size_of(len(rows_RI))} rows; {rows_RI.dtype} on {rows_RI.device.type}"
    return choose.fastest(key, forms)


def loop(x_RI: Tensor, packed: Tensor, layout: Layout) -> Tensor:
    """Group-major to group-major, one product per group."""
    parts = []
    rows = x_RI.split(layout.sizes_in, 1)
    blocks = packed.split([m * n for m, n in zip(layout.sizes_in, layout.sizes_out, strict=True)])
    for x_Rm, block, m, n in zip(rows, blocks, layout.sizes_in, layout.sizes_out, strict=True):
        if n or not torch.compiler.is_compiling():  # other programs know no products without outputs
            parts.append(x_Rm @ block.view(n, m).T if m else x_Rm.new_zeros(x_RI.shape[0], n))
    return torch.cat(parts, 1)


def padded_bmm(x_RI: Tensor, packed: Tensor, layout: Layout) -> Tensor:
    """Group-major to group-major, one batched product with every group padded to the largest."""
    shape = _shape(layout)
    x_RGm = _take(x_RI, shape.input_Gm, 1)
    weight_Gnm = _take(packed, shape.packed_Gnm, 0)
    y_GRn = torch.bmm(x_RGm.transpose(0, 1), weight_Gnm.transpose(1, 2))
    return y_GRn.transpose(0, 1).reshape(len(x_RI), -1).index_select(1, shape.output_O)


def _take(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """Values at index along a dimension; zero where the index is one past the end."""
    zero = values.new_zeros([1 if d == dim else size for d, size in enumerate(values.shape)])
    taken = torch.cat([values, zero], dim).index_select(dim, index.reshape(-1))
    return taken.view(*values.shape[:dim], *index.shape)


@dataclass(frozen=True)
class _Shape:
    """Index tensors of a layout; the index one past the end stands for a zero."""

    input_Gm: Tensor
    packed_Gnm: Tensor
    output_O: Tensor  # in the (G, n) rectangle


_shapes: weakref.WeakKeyDictionary[Layout, _Shape] = weakref.WeakKeyDictionary()


def _shape(layout: Layout) -> _Shape:
    found = _shapes.get(layout)
    if found is None:
        found = _shapes[layout] = _make_shape(layout)
    return found


def _make_shape(layout: Layout) -> _Shape:
    device = layout.order_in_I.device
    m_G, n_G = layout.start_in.diff()[:, None], layout.start_out.diff()[:, None]
    column_m = torch.arange(max(layout.sizes_in), device=device)
    row_n = torch.arange(max(layout.sizes_out), device=device)
    input_Gm = torch.where(column_m < m_G, layout.start_in[:-1, None] + column_m, layout.inputs)
    inside_Gnm = (row_n < n_G)[:, :, None] & (column_m < m_G)[:, None, :]
    at_Gnm = layout.start_block[:-1, None, None] + row_n[:, None] * m_G[:, :, None] + column_m
    packed_Gnm = torch.where(inside_Gnm, at_Gnm, layout.nnz)
    output_O = (row_n < n_G).reshape(-1).nonzero().squeeze(1)
    return _Shape(input_Gm, packed_Gnm, output_O)
