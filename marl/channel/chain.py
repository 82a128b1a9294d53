"""Burst losses as a Markov chain: how often, and how many in a row.

| symbol | name here | meaning |
|---|---|---|
| K | len(back) | states |
| state 0, state i | - | the packet arrives; it is the i-th lost in a row (the last state: or a later one) |
| p_s | back[s] | probability that state s is followed by state 0; else by min(s + 1, K - 1) |
| pi_s | stationary | share of time spent in state s |

K = 2 is the model of Gilbert and Elliott, p_0 = p_1 independent losses.

References: Zhang, Zhang, Lin, "Succinct and Robust Multi-Agent Communication With Temporal Message Control",
NeurIPS 2020 (the chain); Gilbert, "Capacity of a burst-noise channel", Bell System Technical Journal, 1960.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stationary(back: Sequence[float]) -> list[float]:
    """pi, reached from state 0; from the balance of the flow up the chain, state by state."""
    share = [1.0]
    for p in back[:-1]:
        share.append(share[-1] * (1 - p))
    if share[-1] > 0 and back[-1] == 0:  # the last state is reached and never left
        return [0.0] * (len(back) - 1) + [1.0]
    share[-1] = share[-1] / back[-1] if share[-1] > 0 else 0.0
    total = sum(share)
    return [s / total for s in share]


def stationary_loss(back: Sequence[float]) -> float:
    """Share of packets that is lost in the long run: 1 - pi_0."""
    return 1.0 - stationary(back)[0]


def mean_burst(back: Sequence[float]) -> float:
    """Packets lost in a row, on average: time in loss per entry into loss. 0 where nothing is lost."""
    arrives, enters = stationary(back)[0], 1 - back[0]
    if enters == 0:
        return 0.0
    return (1 - arrives) / (arrives * enters) if arrives > 0 else float("inf")


def cumulative(back: Sequence[float], start: Sequence[float]) -> Tensor:
    """Cumulative probabilities of the next state, float32 (K + 1, K): row 0 begins, row 1 + s follows s."""
    K = len(back)
    rows = torch.zeros(K + 1, K, dtype=torch.float64)
    rows[0] = torch.tensor(list(start), dtype=torch.float64)
    for s, p in enumerate(back):
        rows[1 + s, 0] += p
        rows[1 + s, min(s + 1, K - 1)] += 1 - p
    return rows.cumsum(-1).to(torch.float32)


def advance(state: Tensor, u: Tensor, cumulative_SK: Tensor) -> Tensor:
    """The next state of every chain, int64 counted from 1; state 0 has not begun.

    Args:
        state: int64, any shape.
        u: uniform on [0, 1), same shape.
        cumulative_SK: of `cumulative`.
    """
    above = u[..., None] >= cumulative_SK[state]
    return 1 + above[..., :-1].sum(-1)  # the last column is 1 but for rounding: no state lies beyond it
