"""A term of a learner's loss under the perturbation that is worst for it: smoothness, or aligned features.

| symbol | name here | meaning |
|---|---|---|
| o, o~ | obs, returned by `_worst` | observations, and what is worst within epsilon of them |
| R(o; theta) | term | max over |o~ - o| <= epsilon of a distance of what networks make of o and o~ |
| lambda | weight | of the term in the loss |

loss + lambda E[R(o; theta)]. The maximum is found by a few steps of projected gradient ascent from a random
point of the ball, where the distance has a gradient (at o it has none), and is held fixed while theta learns.

smooth: R is the distance of scores: KL of policies, mean squared difference of action values (ERNIE).
align: R is InfoNCE of the features before the last layer: the perturbed one of a decision shall be nearer to
its own clean one than to those of decisions that differ (`losses.alignment`).

CHOICE: all entries of a sequence and all agents are perturbed at once, the recurrent state is that of the
perturbed sequence, and what teams say to each other changes with what they see: the term asks that a whole
perturbed history leads to the same decision. ERNIE's policies see one observation.
CHOICE: the clean side has a gradient, too, as in ERNIE's code; of `align` it is a constant, the anchor.
What is not here of ERNIE: its Stackelberg form (the gradient through the attack's own steps) and its
extension to mean-field games.
DEVIATION from adversarial feature alignment of images: labels are the team's own decisions, and the only
positive of a feature is its own clean twin, since states that share an action do not share a value.

References: Bukharin et al. (ERNIE), NeurIPS 2023, arXiv 2310.10810; Park et al., "Adversarial Feature
Alignment", 2024, arXiv 2402.12187, and Jiang et al., "Robust Pre-Training by Adversarial Contrastive
Learning", NeurIPS 2020 (alignment).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.errors import MarlError
from marl.masks import masked_mean
from marl.rng import Stream
from marl.robust.config import Align, Defence, Smooth
from marl.robust.losses import alignment
from marl.robust.perturbation import Aim, Budget, Limits, pgd
from marl.types import EnvSpec


class View(NamedTuple):
    """What a team's networks make of observations (..., N, O)."""

    scores: Tensor  # (..., N, A)
    features: Tensor  # (..., N, D); before the last layer


Look = Callable[[Tensor], View]  # differentiable
Distance = Callable[[Tensor, Tensor], Tensor]  # clean and perturbed scores (..., A) to (...)


class Regulariser:
    """Computes the term.

    Args:
        config: which, and its settings.
        limits: what may change of the observations; (N, O).
        inputs: features that follow the observation in what `look` takes and that stay as they are.
    """

    def __init__(self, config: Smooth | Align, limits: Limits, *, inputs: int = 0) -> None:
        self.config, self.weight, self.name = config, config.weight, config.name
        pad = (0, inputs)
        self.limits = Limits(
            free=F.pad(limits.free, pad), low=F.pad(limits.low, pad), high=F.pad(limits.high, pad)
        )

    def term(
        self,
        look: Look,
        obs: Tensor,
        clean: View,
        *,
        distance: Distance,
        decision: Tensor,
        mask: Tensor,
        rng: Stream,
    ) -> Tensor:
        """E[R], differentiable in the parameters.

        Args:
            look: the networks.
            obs: clean observations (..., N, O), constants.
            clean: what the networks make of them, differentiable.
            distance: of scores.
            decision: int64 (..., N): what the team does.
            mask: bool (..., N): decisions that count.
            rng: of the update, one row.
        """
        if isinstance(self.config, Align):
            within = compare = self._alignment(self.config, clean.features.detach(), decision, mask, rng)
        else:
            within = _smoothness(distance, clean.scores.detach(), mask)
            compare = _smoothness(distance, clean.scores, mask)
        return compare(look(self._worst(look, obs, within, rng)))

    def _worst(self, look: Look, obs: Tensor, compare: Callable[[View], Tensor], rng: Stream) -> Tensor:
        """o~: what `compare` likes least of all within the ball."""
        c, u = self.config, rng.fold("start").uniform(*obs.shape)[0]
        return pgd(
            lambda x: compare(look(x)),
            obs,
            Aim(gain=lambda term: term),
            self.limits,
            Budget(linf=c.epsilon),
            step=c.step_size,
            iterations=c.iterations,
            start=random_start(obs, self.limits, c.epsilon, u),
        ).detach()

    def _alignment(
        self, c: Align, clean: Tensor, decision: Tensor, mask: Tensor, rng: Stream
    ) -> Callable[[View], Tensor]:
        at_X = mask.flatten().nonzero().flatten()
        order_X = rng.fold("rows").bits(len(at_X))[0].argsort()
        at_X = at_X[order_X[: c.rows]]
        clean_XD, decision_X = clean.flatten(0, -2)[at_X], decision.flatten()[at_X]

        def compare(other: View) -> Tensor:
            perturbed_XD = other.features.flatten(0, -2)[at_X]
            each_X = alignment(clean_XD, perturbed_XD, decision_X, c.temperature)
            return each_X.sum() / max(len(at_X), 1)

        return compare


def random_start(obs: Tensor, limits: Limits, epsilon: float, u: Tensor) -> Tensor:
    """A change drawn evenly from those within epsilon and the range: a feature at its end moves inwards.

    Args:
        obs: clean observations (..., O).
        limits: ranges of the features.
        epsilon: L-infinity budget.
        u: uniform on [0, 1), as obs.
    """
    low = torch.minimum(limits.low, obs).clamp(min=obs - epsilon)
    high = torch.maximum(limits.high, obs).clamp(max=obs + epsilon)
    return low + (high - low) * u - obs


def _smoothness(distance: Distance, clean: Tensor, mask: Tensor) -> Callable[[View], Tensor]:
    return lambda other: masked_mean(distance(clean, other.scores), mask)


def limits_of(spec: EnvSpec, device: torch.device) -> Limits:
    """What a defence may change of the observations.

    Raises:
        MarlError: the world does not say.
    """
    limits = Limits.of(spec, device)
    if not limits.free.any():
        raise MarlError(
            f"env={spec.name} does not say what its observations hold (obs_slices), so that they cannot be "
            "perturbed: leave defence out, or give byzantine"
        )
    return limits


def regulariser(
    defence: Defence | None, spec: EnvSpec, device: torch.device, *, inputs: int = 0
) -> Regulariser | None:
    """That of a team's defence, or None. Args: inputs: as of `Regulariser`.

    Raises:
        MarlError: the world does not say what its observations hold.
    """
    if not isinstance(defence, Smooth | Align):
        return None
    return Regulariser(defence, limits_of(spec, device), inputs=inputs)
