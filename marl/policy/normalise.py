"""Running mean and deviation of returns, so that critics learn numbers near 1.

| symbol | name here | meaning |
|---|---|---|
| beta | BETA | decay of the statistics per update |
| m, q, c | statistics[0..2] | running mean, mean square, and the weight they have gathered (debiasing) |

Reference: Yu et al., NeurIPS 2022, released code (`ValueNorm`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.nets import kernels
from marl.policy import kernels as native

BETA = 0.99999  # released code
_WEIGHT_FLOOR, _VARIANCE_FLOOR = 1e-5, 1e-2  # released code


class ValueNorm(nn.Module):
    """Statistics of returns; the identity when `enabled` is False."""

    statistics: Tensor

    def __init__(self, *, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self.register_buffer("statistics", torch.zeros(3, dtype=torch.float64))  # beta is near 1 in float32

    def update(self, returns: Tensor, mask: Tensor) -> None:
        """Take in the returns where mask is True (any shape)."""
        if kernels.usable(returns):
            new, count = native.moments(returns, mask).split((2, 1))
        else:
            chosen = returns[mask].to(torch.float64)
            count = chosen.new_tensor([chosen.numel()])
            new = torch.stack([chosen.mean(), chosen.square().mean()])
        if count:
            self.statistics.lerp_(torch.cat([new, torch.ones_like(count)]), 1.0 - BETA)

    def moments(self) -> tuple[float, float]:
        """Mean and deviation of returns; 0 and 1 where values are not normalised."""
        if not self.enabled:
            return 0.0, 1.0
        mean, square, weight = self.statistics.tolist()
        weight = max(weight, _WEIGHT_FLOOR)
        mean, square = mean / weight, square / weight
        return mean, max(square - mean * mean, _VARIANCE_FLOOR) ** 0.5

    def normalise(self, returns: Tensor) -> Tensor:
        """(R - mean) / deviation."""
        mean, deviation = self.moments()
        return (returns - mean) / deviation

    def restore(self, values: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, deviation = self.moments()
        return values * deviation + mean
