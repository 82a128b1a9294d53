"""Small changes of observations that a network answers wrongly: FGSM, iterative targeted FGSM, PGD.

| symbol | name here | meaning |
|---|---|---|
| x, x' | x, returned | observations (..., O), clean and perturbed; every leading dimension is a batch |
| Q | scores(x) | action values or logits (..., A), differentiable in x |
| t | target | action that the attacker wants |
| J | aim.gain(scores) | what the attacker raises, one number per row |
| eta | x' - x | perturbation |
| eps | budget | bounds of eta per observation: L0, L1, L2, L-infinity; all given ones hold at once |

    limits = Limits.of(env.spec, device)               # which features may change, and their ranges (N, O)
    scores = lambda obs_BNO: agent.scores(replace(ts, obs_BNO=obs_BNO), carry)
    aim = away(best_BN, ts.avail_BNA)                  # or towards(target_BN, ts.avail_BNA), or Aim(gain=...)
    obs_BNO = pgd(scores, ts.obs_BNO, aim, limits, Budget(linf=0.05), step=0.02, iterations=5)

Rows must not depend on each other's observations for a row's gradient to be its own. Where they do (teams
that talk), free the features of one agent only: scores may have fewer leading dimensions than x, such as
those of one agent (B, A) for x (B, N, O).
Steps ASCEND the gain: a targeted attack moves towards its target.
A feature that already lies outside its range may stay there, but moves no further out: a budget of 0 changes
no bit.

References: Goodfellow et al., ICLR 2015 (FGSM); Kurakin et al., 2017 (iterative, targeted); Madry et al.,
ICLR 2018 (PGD); Lin et al., "On the Robustness of Cooperative Multi-Agent Reinforcement Learning", 2020 (the
target's Q-value itself as the gain); Duchi et al., ICML 2008 (projection onto the L1 ball).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from marl.errors import require
from marl.types import EnvSpec

Scores = Callable[[Tensor], Tensor]  # observations (..., O) -> scores (..., A)
Kind = Literal["real", "binary", "onehot"]
Norm = Literal["linf", "l2", "l1"]
_KINDS: tuple[Kind, ...] = ("real", "binary", "onehot")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which features may change and within what; tensors that broadcast against x."""

    free: Tensor  # bool
    low: Tensor
    high: Tensor

    @classmethod
    def of(
        cls,
        spec: EnvSpec,
        device: torch.device,
        *,
        agents: Collection[int] | None = None,
        kinds: Collection[Kind] = _KINDS,
    ) -> Limits:
        """Those of a world (N, O); features that padding alone fills are not free.

        Args:
            spec: the world; `obs_slices` says what every feature is.
            device: of the tensors.
            agents: whose features are free; None: everybody's.
            kinds: kinds of features that are free.
        """
        N, O = spec.n_agents, spec.obs_size  # noqa: E741
        free = torch.zeros(N, O, dtype=torch.bool)
        low, high = torch.full((N, O), -math.inf), torch.full((N, O), math.inf)
        for n, kind in enumerate(spec.agent_types):
            for part in spec.obs_slices.get(kind, ()):
                at = slice(part.start, part.stop)
                low[n, at], high[n, at] = part.low, part.high
                free[n, at] = part.kind in kinds and (agents is None or n in agents)
        return cls(free=free.to(device), low=low.to(device), high=high.to(device))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Largest perturbation of one observation (the last dimension of x)."""

    linf: float = math.inf  # of any feature, >= 0, in the feature's own unit
    l2: float = math.inf  # >= 0
    l1: float = math.inf  # >= 0
    l0: int | None = None  # features changed, >= 0; None: any number

    def __post_init__(self) -> None:
        for name in ("linf", "l2", "l1"):
            value = getattr(self, name)
            require(value >= 0, name, value, "give a number >= 0")
        require(self.l0 is None or self.l0 >= 0, "l0", self.l0, "give null or a whole number of 0 or more")


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the attacker raises, and when it has what it wanted."""

    gain: Callable[[Tensor], Tensor]  # of scores (..., A): one number per row (...)
    reached: Callable[[Tensor], Tensor] | None = None  # of scores: bool (...); None: never enough


def chosen(scores: Tensor, avail: Tensor) -> Tensor:
    """The greedy action among the available ones (...)."""
    return scores.masked_fill(~avail, -torch.inf).argmax(-1)


def towards(
    target: Tensor, avail: Tensor, *, gain: Literal["score", "margin", "cross_entropy"] = "score"
) -> Aim:
    """Make an action the greedy one.

    Args:
        target: int64 (...), an available action.
        avail: bool (..., A).
        gain: the target's score itself (Lin et al.), its lead over the best other available action, or its
            log-probability among the available ones.
    """

    def of(scores: Tensor) -> Tensor:
        at = target[..., None]
        if gain == "cross_entropy":
            return scores.masked_fill(~avail, -torch.inf).log_softmax(-1).gather(-1, at).squeeze(-1)
        score = scores.gather(-1, at).squeeze(-1)
        if gain == "score":
            return score
        others = avail & ~torch.zeros_like(avail).scatter(-1, at, True)
        return score - scores.masked_fill(~others, -torch.inf).amax(-1)

    return Aim(gain=of, reached=lambda scores: chosen(scores, avail) == target)


def away(action: Tensor, avail: Tensor, *, gain: Literal["margin", "cross_entropy"] = "cross_entropy") -> Aim:
    """Make any other action the greedy one. Args: as `towards`; action: the one not to be taken."""
    there = towards(action, avail, gain=gain)
    return Aim(gain=lambda s: -there.gain(s), reached=lambda s: chosen(s, avail) != action)


def gradient(scores: Scores, x: Tensor, aim: Aim) -> tuple[Tensor, Tensor]:
    """Gradient of the gain in x, and the scores at x, both constants."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        at_x = scores(x)
        (slope,) = torch.autograd.grad(aim.gain(at_x).sum(), x)
    return slope, at_x.detach()


def fgsm(scores: Scores, x: Tensor, aim: Aim, limits: Limits, budget: Budget) -> Tensor:
    """x + eps sign(dJ/dx), cut to the budget and the range: one gradient.

    Args:
        scores: see the module's text.
        x: clean observations (..., O).
        aim: what to raise.
        limits, budget: what may change, and how much; budget.linf is the step and must be finite.
    """
    require(math.isfinite(budget.linf), "linf", budget.linf, "give a finite number: it is FGSM's step")
    slope, _ = gradient(scores, x, aim)
    return project(x, budget.linf * slope.sign(), limits, budget)


def iterative_fgsm(
    scores: Scores, x: Tensor, aim: Aim, limits: Limits, budget: Budget, *, step: float, iterations: int
) -> Tensor:
    """x <- cut(x + step sign(dJ/dx)), until the aim is reached: `pgd` in L-infinity from x itself.

    Args:
        others: as `fgsm`; no budget need be finite.
        step: change of every free feature per iteration, > 0.
        iterations: most gradients, >= 0.
    """
    return pgd(scores, x, aim, limits, budget, step=step, iterations=iterations)


def pgd(
    scores: Scores,
    x: Tensor,
    aim: Aim,
    limits: Limits,
    budget: Budget,
    *,
    step: float,
    iterations: int,
    norm: Norm = "linf",
    start: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent; a row stops as soon as its aim is reached, if that can be.

    CHOICE: steps in L1 move the one feature with the largest slope that can still move: the steepest ascent
    of that norm.

    Args:
        scores, x, aim, limits, budget: as `fgsm`; no budget need be finite.
        step: length of a step in `norm`, > 0.
        iterations: most gradients, >= 0.
        norm: in which a step is steepest.
        start: a first change of x, cut as all are; None starts at x.
    """
    point = x if start is None else project(x, start, limits, budget)
    for _ in range(iterations):
        slope, at_point = gradient(scores, point, aim)
        move = _steepest(slope, x, point, limits, budget, norm)
        after = project(x, point - x + step * move, limits, budget)
        if aim.reached is None:
            point = after
            continue
        reached = aim.reached(at_point)
        point = torch.where(reached.view(*reached.shape, *[1] * (x.dim() - reached.dim())), point, after)
        if reached.all():
            break
    return point


def _steepest(slope: Tensor, x: Tensor, point: Tensor, limits: Limits, budget: Budget, norm: Norm) -> Tensor:
    """The step of length 1 along which the gain grows fastest, of the features that can move that way."""
    low, high = _range(x, limits, budget)
    can = limits.free & torch.where(slope > 0, point < high, point > low)
    slope = torch.where(can, slope, 0.0)
    if norm == "linf":
        return slope.sign()
    if norm == "l2":
        return slope / slope.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    largest = torch.zeros_like(slope).scatter(-1, slope.abs().argmax(-1, keepdim=True), 1.0)
    return largest * slope.sign()


def _range(x: Tensor, limits: Limits, budget: Budget) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of every feature: its range, widened to x, within eps of x."""
    low, high = torch.minimum(limits.low, x), torch.maximum(limits.high, x)
    if math.isfinite(budget.linf):
        low, high = torch.maximum(low, x - budget.linf), torch.minimum(high, x + budget.linf)
    return low, high


def project(x: Tensor, delta: Tensor, limits: Limits, budget: Budget) -> Tensor:
    """x + delta, cut so that the range and every budget hold.

    First the range and L-infinity (feature by feature, exact), then the l0 largest changes are kept, then
    L1 and L2 (each the nearest point of its ball). Later cuts only shrink changes, so that all hold.

    Args:
        x: clean observations (..., O).
        delta: wanted change.
        limits, budget: what may change, and how much.
    """
    low, high = _range(x, limits, budget)
    delta = torch.where(limits.free, (x + delta).clamp(low, high) - x, 0.0)
    if budget.l0 is not None and budget.l0 < x.shape[-1]:
        kept = delta.abs().topk(budget.l0, dim=-1).indices
        delta = torch.zeros_like(delta).scatter(-1, kept, delta.gather(-1, kept))
    if math.isfinite(budget.l1):
        delta = _onto_l1(delta, budget.l1)
    if math.isfinite(budget.l2):
        norm = delta.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(delta.dtype).tiny)
        delta = delta * (budget.l2 / norm).clamp(max=1.0)
    return torch.where(delta == 0, x, (x + delta).clamp(low, high))


def _onto_l1(delta: Tensor, radius: float) -> Tensor:
    """The nearest point of the L1 ball: sign(delta) max(|delta| - theta, 0) (Duchi et al., figure 1)."""
    if radius == 0:
        return torch.zeros_like(delta)
    size = delta.abs()
    sorted_, count = size.sort(-1, descending=True).values, torch.arange(1, delta.shape[-1] + 1)
    excess = (sorted_.cumsum(-1) - radius) / count.to(delta)
    last = (sorted_ > excess).sum(-1, keepdim=True).clamp(min=1) - 1
    theta = excess.gather(-1, last).clamp(min=0)
    return delta.sign() * (size - theta).clamp(min=0)
