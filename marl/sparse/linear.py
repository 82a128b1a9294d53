"""Grouped linear layers: every output sees the inputs of its own group only."""

from __future__ import annotations

from torch import Tensor

from marl.errors import require
from marl.sparse.backends import native, reference
from marl.sparse.layout import Layout

BACKENDS = {"reference": reference.grouped_linear, "native": native.grouped_linear}  # by name


def grouped_linear(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    layout: Layout,
    *,
    relu: bool = False,
    gather: bool = True,
    scatter: bool = True,
    backend: str = "auto",
) -> Tensor:
    """y = x (W * mask)^T + b, differentiable in x, packed and bias.

    Args:
        x: (..., I) in feature order, or in group-major order if not gather.
        packed: (nnz,) kept weights, `Layout.pack`.
        bias: (O,) in feature order, or None. An output of a group without inputs is its bias.
        layout: on the device of x.
        relu: apply max(., 0).
        gather: x comes in feature order; else in group-major order, as a layer with scatter=False gave it.
        scatter: y is in feature order; else it stays in group-major order.
        backend: "auto" or a name of `BACKENDS`.

    Returns: (..., O).
    """
    name = backend
    if backend == "auto":
        name = "native" if native.usable(x) else "reference"
    require(name in BACKENDS, "backend", backend, f"give one of auto, {', '.join(BACKENDS)}")
    return BACKENDS[name](x, packed, bias, layout, relu=relu, gather=gather, scatter=scatter)
