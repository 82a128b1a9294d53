"""The losses of PPO: pure functions of tensors.

| symbol | name here | meaning |
|---|---|---|
| rho | ratio | pi_new(u | tau) / pi_old(u | tau) |
| A | advantage | normalised advantage estimate |
| epsilon | clip | how far ratio and value may move before the gradient stops |
| V, V_old, R | value, old_value, target | critic's output now and at the rollout, its target; normalised |

Reference: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7; the value's clipping and
Huber loss as in the code of Yu et al., NeurIPS 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.masks import masked_mean


def policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor, *, clip: float
) -> Tensor:
    """-mean of min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A).

    Args:
        log_prob: float, any shape, differentiable: of the actions taken.
        old_log_prob, advantage: float, the same shape, constants.
        mask: bool, the same shape: agents that could act.
        clip: epsilon, > 0.
    """
    # A masked entry's log-probabilities may be anything: its ratio must not overflow into the gradient.
    ratio = torch.where(mask, log_prob - old_log_prob, 0.0).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -masked_mean(torch.minimum(ratio * advantage, clipped * advantage), mask)


def value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, mask: Tensor, *, clip: float, huber: float
) -> Tensor:
    """Mean of the larger of Huber(V - R) and Huber(V_old + clip(V - V_old) - R).

    Args:
        value: float, any shape, differentiable.
        old_value, target: float, the same shape, constants.
        mask: bool, the same shape.
        clip: largest change that still has a gradient, > 0.
        huber: threshold between square and line, > 0.
    """
    target = torch.where(mask, target, 0.0)  # 0 * NaN would reach the gradient
    near = old_value + (value - old_value).clamp(-clip, clip)
    losses = [F.huber_loss(v, target, reduction="none", delta=huber) for v in (value, near)]
    return masked_mean(torch.maximum(*losses), mask)


def entropy(log_probs_A: Tensor) -> Tensor:
    """-sum_a p(a) log p(a) over the last dimension; unavailable actions (log p = -1e10) count nothing."""
    return -(log_probs_A.exp() * log_probs_A).sum(-1)
