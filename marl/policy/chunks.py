"""A rollout cut into chunks: what an epoch of PPO shuffles and learns from.

Legend: B envs, T entries, L entries of a chunk, X = B ceil(T / L) chunks, N agents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.errors import require


def cut(x: Tensor, length: int) -> Tensor:
    """(B, T, ...) to (X, L, ...); the last chunk of an env is padded with zeros (False)."""
    B, T = x.shape[:2]
    missing = -T % length
    if missing:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
    return x.reshape(B * ((T + missing) // length), length, *x.shape[2:])


def states_before(h_BTNH: Tensor, first_BNH: Tensor, length: int) -> Tensor:
    """The recurrent state before every chunk, (X, N, H).

    Args:
        h_BTNH: states after every entry.
        first_BNH: states before entry 0.
        length: L.
    """
    before = torch.cat([first_BNH[:, None], h_BTNH[:, length - 1 : -1 : length]], 1)
    return before.flatten(0, 1)


def minibatches(chunks: dict[str, Tensor], order_X: Tensor, count: int) -> list[dict[str, Tensor]]:
    """The chunks in this order, dealt into `count` parts of nearly equal size.

    Raises:
        FieldError: there are fewer chunks than that.
    """
    X = len(order_X)
    fix = f"a rollout gives {X} chunks to learn from; give at most {X}, or more envs or a shorter agent.chunk"
    require(count <= X, "agent.minibatches", count, fix)
    parts = order_X.tensor_split(count)
    return [{name: x.index_select(0, part) for name, x in chunks.items()} for part in parts]
