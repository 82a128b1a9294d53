"""Divergences of occupancies: convex generators f, and their conjugates over x >= 0.

| symbol | name here | meaning |
|---|---|---|
| x | x | density ratio d / dD >= 0 |
| f(x) | generator | f(1) = 0; the penalty is E_D[f(d / dD)] |
| w(y) | weight | argmax over x >= 0 of x y - f(x): max(0, (f')^-1(y)) |
| f*0(y) | conjugate | max over x >= 0 of x y - f(x); its derivative is w(y) |
| w'(y) | slope | derivative of the weight, >= 0 |

DEVIATION: the learner's KL allows no ratio above 20, so that its conjugate is a line from there on
(`LEARNED`); the tables' is exact. The exponential of the first advantages, some tens of beta, filled Adam's
mean square with numbers that took thousands of updates to fade: the learner stood still at a wrong policy,
and the loss overflowed at beta 0.01.

Reference: Kim et al., "FairDICE", NeurIPS 2025, released code (chi2, soft-chi2, KL).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Divergence(Protocol):
    """A generator f, element by element on tensors."""

    def generator(self, x: Tensor) -> Tensor: ...

    def weight(self, y: Tensor) -> Tensor: ...

    def conjugate(self, y: Tensor) -> Tensor: ...

    def slope(self, y: Tensor) -> Tensor: ...


class Chi2:
    """f(x) = (x - 1)^2 / 2."""

    def generator(self, x: Tensor) -> Tensor:
        return 0.5 * (x - 1).square()

    def weight(self, y: Tensor) -> Tensor:
        return (1 + y).clamp(min=0)

    def conjugate(self, y: Tensor) -> Tensor:
        return 0.5 * self.weight(y).square() - 0.5  # y + y^2 / 2 for y >= -1, else -1/2

    def slope(self, y: Tensor) -> Tensor:
        return (y > -1).to(y.dtype)


class SoftChi2:
    """f(x) = x log x - x + 1 for x < 1, and (x - 1)^2 / 2 from 1 on: a weight that is never 0."""

    def generator(self, x: Tensor) -> Tensor:
        return torch.where(x < 1, torch.xlogy(x, x) - x + 1, 0.5 * (x - 1).square())

    def weight(self, y: Tensor) -> Tensor:
        return torch.where(y < 0, y.clamp(max=0).exp(), 1 + y)

    def conjugate(self, y: Tensor) -> Tensor:
        return torch.where(y < 0, y.clamp(max=0).expm1(), y + 0.5 * y.square())

    def slope(self, y: Tensor) -> Tensor:
        return torch.where(y < 0, y.clamp(max=0).exp(), torch.ones_like(y))


@dataclass(frozen=True)
class KL:
    """f(x) = x log x up to the ratio `most`, and infinite beyond: the weight stops there."""

    most: float = math.inf

    @property
    def _top(self) -> float:
        """The y at which the weight is `most`."""
        return 1 + math.log(self.most)

    def generator(self, x: Tensor) -> Tensor:
        return torch.where(x <= self.most, torch.xlogy(x, x), torch.inf)

    def weight(self, y: Tensor) -> Tensor:
        return (y.clamp(max=self._top) - 1).exp()

    def conjugate(self, y: Tensor) -> Tensor:
        return self.weight(y) * (1 + (y - self._top).clamp(min=0))

    def slope(self, y: Tensor) -> Tensor:
        return torch.where(y < self._top, self.weight(y), 0.0)


DIVERGENCES: dict[str, Divergence] = {"chi2": Chi2(), "soft_chi2": SoftChi2(), "kl": KL()}
# The learner's. CHOICE: 20; at 150 nu was still far from its optimum after 400 updates.
LEARNED: dict[str, Divergence] = {**DIVERGENCES, "kl": KL(most=20.0)}
