"""Losses of the regularisers: pure functions of tensors.

| symbol | name here | meaning |
|---|---|---|
| D(pi, pi~) | returned by the distances | how far scores of a perturbed observation are from the clean ones |
| z_i, z~_i | clean, perturbed | features of decision i, of length 1 |
| tau | temperature | of the contrastive loss |

References: Bukharin et al., "Robust Multi-Agent Reinforcement Learning via Adversarial Regularization"
(ERNIE), NeurIPS 2023, arXiv 2310.10810 (the distances); van den Oord et al., "Representation Learning with
Contrastive Predictive Coding", 2018 (InfoNCE).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e10  # logit of an unavailable action, as in marl/policy


def squared_distance(clean: Tensor, perturbed: Tensor, avail: Tensor) -> Tensor:
    """Mean over available actions of (Q(o) - Q(o~))^2, (...).

    Args:
        clean, perturbed: action values (..., A), differentiable.
        avail: bool (..., A); without any the distance is 0.
    """
    squares = torch.where(avail, clean - perturbed, 0.0).square()
    return squares.sum(-1) / avail.sum(-1).clamp(min=1)


def categorical_kl(clean: Tensor, perturbed: Tensor, avail: Tensor) -> Tensor:
    """KL(pi(. | o) || pi(. | o~)) of choices among the available actions, (...).

    Args:
        clean, perturbed: logits (..., A), differentiable.
        avail: bool (..., A).
    """
    log_p = clean.masked_fill(~avail, _NEVER).log_softmax(-1)
    log_q = perturbed.masked_fill(~avail, _NEVER).log_softmax(-1)
    return torch.where(avail, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


def gaussian_kl(clean: Tensor, perturbed: Tensor, log_std: Tensor, real: Tensor) -> Tensor:
    """KL of Gaussians of one deviation: sum_d (mu_d - mu~_d)^2 / (2 sigma_d^2), (...).

    Args:
        clean, perturbed: means (..., A), differentiable.
        log_std: broadcasts against them.
        real: bool, likewise; other dimensions do not count.
    """
    each = 0.5 * ((clean - perturbed) * (-log_std).exp()).square()
    return torch.where(real, each, 0.0).sum(-1)


def alignment(clean_XD: Tensor, perturbed_XD: Tensor, decision_X: Tensor, temperature: float) -> Tensor:
    """InfoNCE of every perturbed feature: -log exp(z~_i z_i / tau) / sum_j exp(z~_i z_j / tau), (X,).

    The sum is over i itself and the decisions that differ from it: others that come to the same action are
    neither drawn near (their values differ) nor pushed away (they are no wrong answer).

    Args:
        clean_XD, perturbed_XD: features, differentiable; of any length.
        decision_X: int64, what the team does there.
        temperature: tau, > 0.
    """
    clean_XD, perturbed_XD = F.normalize(clean_XD, dim=-1), F.normalize(perturbed_XD, dim=-1)
    logits_XX = perturbed_XD @ clean_XD.t() / temperature
    itself_XX = torch.eye(len(decision_X), dtype=torch.bool, device=decision_X.device)
    same_XX = (decision_X[:, None] == decision_X) & ~itself_XX
    return -logits_XX.masked_fill(same_XX, -torch.inf).log_softmax(-1).diagonal()
