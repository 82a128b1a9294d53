"""The masked dense product: the meaning of a grouped layer, and the oracle of every other backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.sparse.layout import Layout


def grouped_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, layout: Layout, *, relu: bool, gather: bool, scatter: bool
) -> Tensor:
    """`marl.sparse.linear.grouped_linear` by the dense weight with zeros where nothing is kept."""
    weight_OI = layout.unpack(packed)
    if not gather:
        weight_OI = weight_OI[:, layout.order_in_I]
    if not scatter:
        weight_OI = weight_OI[layout.order_out_O]
        bias = None if bias is None else bias[layout.order_out_O]
    y = F.linear(x, weight_OI, bias)
    return torch.relu(y) if relu else y
