"""Welfare of the objectives' returns: concave utilities u, and their conjugates.

| symbol | name here | meaning |
|---|---|---|
| k_i | k | return of objective i, discounted and times (1 - gamma) |
| mu_i | mu | weight of objective i; at the optimum mu_i = u'(k_i) |
| u(k) | utility | welfare is sum_i u(k_i) |
| u'(k) | slope | decreasing |
| k*(mu) | best | argmax over k of u(k) - mu k |
| u*(-mu) | conjugate | max over k of u(k) - mu k; its derivative in mu is -k*(mu) |
| | curvature | second derivative of the conjugate, > 0 |

| k0 | k0 | unit of returns |

All functions work element by element on tensors.

CHOICE: returns may be measured in a unit k0, as k0 u(k / k0). Weights are then u'(k / k0), about 1 where k is
near k0, whatever alpha; without beta the best policy of an alpha-fair welfare is the same for every k0, and a
patched log is the logarithm from k0 on instead of from 1 on.

Reference: Kim et al., "FairDICE", NeurIPS 2025 (alpha-fairness); the patched utility is from the
replication (Adema et al., TMLR 2026).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from marl.errors import MarlError, require


class Welfare(Protocol):
    """A concave, increasing utility."""

    @property
    def learns_weights(self) -> bool:
        """Whether mu is a variable; False where the welfare is a sum, whose weights are all 1."""
        ...

    @property
    def needs_reward(self) -> bool:
        """Whether u' is unbounded at 0: an objective that earns nothing drives its weight to infinity."""
        ...

    def utility(self, k: Tensor) -> Tensor: ...

    def slope(self, k: Tensor) -> Tensor: ...

    def best(self, mu: Tensor) -> Tensor: ...

    def conjugate(self, mu: Tensor) -> Tensor: ...

    def curvature(self, mu: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class AlphaFair:
    """u(k) = k^(1 - alpha) / (1 - alpha), and log k for alpha = 1.

    0 is utilitarian (the sum), 1 is Nash welfare, and the larger alpha, the nearer to max-min.

    Args:
        alpha: >= 0.
    """

    alpha: float

    def __post_init__(self) -> None:
        require(0 <= self.alpha < math.inf, "alpha", self.alpha, "give a finite number >= 0")

    @property
    def learns_weights(self) -> bool:
        return self.alpha > 0

    @property
    def needs_reward(self) -> bool:
        return self.alpha > 0

    def utility(self, k: Tensor) -> Tensor:
        """-inf where alpha >= 1 and k = 0; NaN below 0 unless alpha is 0."""
        if self.alpha == 1:
            return k.log()
        return k ** (1 - self.alpha) / (1 - self.alpha)

    def slope(self, k: Tensor) -> Tensor:
        return k**-self.alpha

    def best(self, mu: Tensor) -> Tensor:
        self._needs_weights()
        return mu ** (-1 / self.alpha)

    def conjugate(self, mu: Tensor) -> Tensor:
        self._needs_weights()
        if self.alpha == 1:
            return -mu.log() - 1
        return self.alpha / (1 - self.alpha) * mu ** ((self.alpha - 1) / self.alpha)

    def curvature(self, mu: Tensor) -> Tensor:
        self._needs_weights()
        return mu ** (-1 / self.alpha - 1) / self.alpha

    def _needs_weights(self) -> None:
        if not self.learns_weights:
            raise MarlError("alpha=0 has a conjugate at mu = 1 alone: hold the weights fixed at 1")


@dataclass(frozen=True)
class PatchedLog:
    """log k for k >= 1, and -(k - 2)^2 / 2 + 1/2 below: Nash welfare that bears returns of 0 and less."""

    @property
    def learns_weights(self) -> bool:
        return True

    @property
    def needs_reward(self) -> bool:
        return False

    def utility(self, k: Tensor) -> Tensor:
        return torch.where(k >= 1, k.clamp(min=1).log(), 0.5 - 0.5 * (k - 2).square())

    def slope(self, k: Tensor) -> Tensor:
        return torch.where(k >= 1, 1 / k.clamp(min=1), 2 - k)

    def best(self, mu: Tensor) -> Tensor:
        return torch.where(mu <= 1, 1 / mu, 2 - mu)

    def conjugate(self, mu: Tensor) -> Tensor:
        return torch.where(mu <= 1, -mu.log() - 1, 0.5 * mu.square() - 2 * mu + 0.5)

    def curvature(self, mu: Tensor) -> Tensor:
        return torch.where(mu <= 1, mu**-2, torch.ones_like(mu))


@dataclass(frozen=True)
class InUnit:
    """k0 u(k / k0): another utility, of returns in the unit k0.

    Args:
        whole: u.
        k0: > 0.
    """

    whole: AlphaFair | PatchedLog
    k0: float

    def __post_init__(self) -> None:
        require(0 < self.k0 < math.inf, "k0", self.k0, "give a finite number above 0")

    @property
    def learns_weights(self) -> bool:
        return self.whole.learns_weights

    @property
    def needs_reward(self) -> bool:
        return self.whole.needs_reward

    def utility(self, k: Tensor) -> Tensor:
        return self.k0 * self.whole.utility(k / self.k0)

    def slope(self, k: Tensor) -> Tensor:
        return self.whole.slope(k / self.k0)

    def best(self, mu: Tensor) -> Tensor:
        return self.k0 * self.whole.best(mu)

    def conjugate(self, mu: Tensor) -> Tensor:
        return self.k0 * self.whole.conjugate(mu)

    def curvature(self, mu: Tensor) -> Tensor:
        return self.k0 * self.whole.curvature(mu)


def make_welfare(name: str, alpha: float, k0: float | None = None) -> Welfare:
    """The welfare of a config: "alpha" (with its alpha) or "patched_log"; None: in the paper's unit, 1."""
    whole = PatchedLog() if name == "patched_log" else AlphaFair(alpha)
    return whole if k0 is None else InUnit(whole, k0)
