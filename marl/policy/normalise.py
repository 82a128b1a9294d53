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
        chosen = returns[mask].to(torch.float64)
        if chosen.numel():
            new = torch.stack([chosen.mean(), chosen.square().mean(), chosen.new_ones(())])
            self.statistics.lerp_(new, 1.0 - BETA)

    def _moments(self) -> tuple[float, float]:
        mean, square, weight = self.statistics.tolist()
        weight = max(weight, _WEIGHT_FLOOR)
        mean, square = mean / weight, square / weight
        return mean, max(square - mean * mean, _VARIANCE_FLOOR) ** 0.5

    def normalise(self, returns: Tensor) -> Tensor:
        """(R - mean) / deviation."""
        if not self.enabled:
            return returns
        mean, deviation = self._moments()
        return (returns - mean) / deviation

    def restore(self, values: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        if not self.enabled:
            return values
        mean, deviation = self._moments()
        return values * deviation + mean
