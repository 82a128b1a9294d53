"""Native (C++) forms of PPO's small steps; torch forms in losses.py, heads.py and normalise.py.

They serve what `marl.nets.kernels.usable` says. Legend: R rows of any shape, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.nets import kernels


def sample(logits_BNA: Tensor, avail_BNA: Tensor, key_B: Tensor | None) -> Tensor:
    """`marl.policy.heads.sample`, or without keys the available action of the largest logit."""
    B, N, A = logits_BNA.shape
    actions_BN = torch.empty(B, N, dtype=torch.int64)
    key_B = None if key_B is None else key_B.contiguous()
    arrays = logits_BNA.contiguous(), avail_BNA.contiguous(), key_B, actions_BN
    kernels.call("marl_sample", B, N, A, *arrays)
    return actions_BN


def policy_loss(
    logits_RA: Tensor,
    avail_RA: Tensor,
    actions_R: Tensor,
    old_log_prob_R: Tensor,
    advantage_R: Tensor,
    mask_R: Tensor,
    *,
    clip: float,
    entropy: float,
) -> tuple[Tensor, Tensor]:
    """Policy loss, mean entropy and mean of old minus new log-probability, as (3,); and the gradient of
    the loss less `entropy` times the mean entropy.
    """
    A = logits_RA.shape[-1]
    arrays = (logits_RA, avail_RA, actions_R, old_log_prob_R, advantage_R, mask_R)
    whole = [x.contiguous() for x in arrays]
    gradient_RA, out_3 = torch.empty_like(whole[0]), torch.empty(3)
    results = gradient_RA, out_3, kernels.threads()
    kernels.call("marl_policy_loss", mask_R.numel(), A, *whole, clip, entropy, *results)
    return out_3, gradient_RA


def value_loss(
    value_R: Tensor,
    old_value_R: Tensor,
    return_R: Tensor,
    mask_R: Tensor,
    *,
    moments: tuple[float, float],
    clip: float,
    huber: float,
) -> tuple[Tensor, Tensor]:
    """The value loss for targets (return - mean) / deviation, moments being both; and its gradient."""
    whole = [x.contiguous() for x in (value_R, old_value_R, return_R, mask_R)]
    gradient_R, out = torch.empty_like(whole[0]), torch.empty(())
    kernels.call("marl_value_loss", mask_R.numel(), *whole, *moments, clip, huber, gradient_R, out)
    return out, gradient_R


def moments(x: Tensor, mask: Tensor) -> Tensor:
    """Mean, mean square and number of the entries where mask is True; float64 (3,)."""
    x, mask, out_3 = x.contiguous(), mask.contiguous(), torch.empty(3, dtype=torch.float64)
    kernels.call("marl_moments", x.numel(), x, mask, out_3)
    return out_3
