"""Divergences of occupancies: convex generators f, and their conjugates over x >= 0.

| symbol | name here | meaning |
|---|---|---|
| x | x | density ratio d / dD >= 0 |
| f(x) | generator | f(1) = 0; the penalty is E_D[f(d / dD)] |
| w(y) | weight | argmax over x >= 0 of x y - f(x): max(0, (f')^-1(y)) |
| f*0(y) | conjugate | max over x >= 0 of x y - f(x); its derivative is w(y) |
| w'(y) | slope | derivative of the weight, >= 0 |

Reference: Kim et al., "FairDICE", NeurIPS 2025, released code (chi2, soft-chi2, KL).
"""

from __future__ import annotations

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


class KL:
    """f(x) = x log x."""

    def generator(self, x: Tensor) -> Tensor:
        return torch.xlogy(x, x)

    def weight(self, y: Tensor) -> Tensor:
        return (y - 1).exp()

    def conjugate(self, y: Tensor) -> Tensor:
        return (y - 1).exp()

    def slope(self, y: Tensor) -> Tensor:
        return (y - 1).exp()


DIVERGENCES: dict[str, Divergence] = {"chi2": Chi2(), "soft_chi2": SoftChi2(), "kl": KL()}
