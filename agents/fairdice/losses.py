"""FairDICE's losses as pure functions of tensors.

| symbol | name here | meaning |
|---|---|---|
| nu(s), nu(s'), nu(s0) | nu_X, next_nu_X, nu0_Y | values of a transition's states, and of first states |
| mu | mu_K | weights of the objectives |
| e | e_X | mu . r + gamma nu(s') - nu(s) |
| w | weight_X | max(0, (f')^-1(e / beta)) |
| m | keep_X | transitions that count |

    L(nu, mu) = (1 - gamma) E_p0[nu(s0)] + E_D[beta f*0(e / beta)] + sum_i u*(-mu_i)
    policy    = -E_D[w log pi(a|s)]

Every factor of a product over transitions has the shape (X,), and that is checked: a (X, 1) among them
would turn the product into an (X, X) matrix whose mean is that of unweighted cloning.

DEVIATION: where transitions do not count (ends=official), the largest e and the mean of the policy's weights
are those of the rows that count; the code takes them over the whole batch. With soft-chi2 and KL this is a
factor of the batch, with chi2 it changes which weights are 0.

Reference: Kim et al., "FairDICE", NeurIPS 2025, and its released code; the replication (Adema et al., TMLR
2026) for the fault of its first revisions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from marl import masks
from marl.agents.fairdice.divergence import Divergence
from marl.agents.fairdice.welfare import Welfare

PENALTY_LIMIT = 5.0  # of |grad nu|; released code
PolicyLoss = Literal["fixed", "wrong_broadcast", "behaviour_cloning"]


def same_shape(**parts: Tensor) -> None:
    """Raise ValueError unless all are one-dimensional and of one length."""
    shapes = {name: tuple(value.shape) for name, value in parts.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"factors of one product must all have the shape (X,): {shapes}")


def masked_mean(x: Tensor, keep_X: Tensor) -> Tensor:
    """Mean over the rows that count; 0 where none does."""
    same_shape(x=x, keep=keep_X)
    return masks.masked_mean(x, keep_X)


def advantage(
    reward_XK: Tensor, mu_K: Tensor, nu_X: Tensor, next_nu_X: Tensor, ends_X: Tensor, *, gamma: float
) -> Tensor:
    """e (X,); a state behind an end (bool ends_X) is worth nothing."""
    scalar_X = (reward_XK * mu_K).sum(-1)
    same_shape(reward=scalar_X, nu=nu_X, next_nu=next_nu_X, ends=ends_X)
    return scalar_X + gamma * torch.where(ends_X, 0.0, next_nu_X) - nu_X


def alike(state_XS: Tensor, actions_XN: Tensor) -> Tensor:
    """Number of the group of each row (int64 X): rows of equal state and actions share one."""
    rows = torch.cat([state_XS, actions_XN.flatten(1).to(state_XS.dtype)], -1)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def group_mean(x: Tensor, group_X: Tensor, keep_X: Tensor) -> Tensor:
    """Every row's value replaced by the mean of those rows of its group that count; 0 where none does."""
    same_shape(x=x, group=group_X, keep=keep_X)
    groups = int(group_X.max()) + 1
    total_G = x.new_zeros(groups).index_add(0, group_X, torch.where(keep_X, x, 0.0))
    count_G = torch.bincount(group_X[keep_X], minlength=groups)
    return (total_G / count_G.clamp(min=1))[group_X]


def flow(ratio_X: Tensor, keep_X: Tensor, ends_X: Tensor, *, gamma: float) -> Tensor:
    """What leaves all states over what enters them, E_D[w (1 - gamma)] / (1 - gamma), with gamma = 0 at ends.

    It is 1 at the optimum, where L does not change as nu is raised everywhere; without ends it is E_D[w].
    """
    same_shape(ratio=ratio_X, keep=keep_X, ends=ends_X)
    return masked_mean(ratio_X * (1 - gamma * (~ends_X).to(ratio_X.dtype)), keep_X) / (1 - gamma)


def dual_loss(
    e_X: Tensor,
    keep_X: Tensor,
    nu0_Y: Tensor,
    mu_K: Tensor | None,
    *,
    gamma: float,
    beta: float,
    f: Divergence,
    welfare: Welfare,
) -> Tensor:
    """L(nu, mu), to be minimised. Args: mu_K: None where the weights are fixed."""
    loss = (1 - gamma) * nu0_Y.mean() + masked_mean(beta * f.conjugate(e_X / beta), keep_X)
    return loss if mu_K is None else loss + welfare.conjugate(mu_K).sum()


def policy_weights(e_X: Tensor, keep_X: Tensor, *, beta: float, f: Divergence, shift: bool) -> Tensor:
    """w (X,) with mean 1 over the rows that count, a constant.

    Args:
        shift: subtract the largest e of the batch first (released code, not in the paper): with soft-chi2
            and KL the weights are then a softmax over the batch with temperature beta.
    """
    same_shape(e=e_X, keep=keep_X)
    e_X = e_X.detach()
    if shift:
        e_X = e_X - torch.where(keep_X, e_X, -torch.inf).max()
    weight_X = torch.where(keep_X, f.weight(e_X / beta), 0.0)
    return weight_X / masked_mean(weight_X, keep_X).clamp(min=1e-8)


def policy_loss(weight_X: Tensor, log_prob_X: Tensor, keep_X: Tensor, *, kind: PolicyLoss) -> Tensor:
    """Weighted behaviour cloning.

    Args:
        weight_X: constants.
        log_prob_X: log pi of the data's actions.
        kind: fixed: what the paper means. behaviour_cloning: all weights 1. wrong_broadcast: the product of
            the released code's first revisions, (X, 1) times (X,); for comparison alone.
    """
    if kind == "wrong_broadcast":
        factors_X1 = torch.where(keep_X, weight_X, 0.0)[:, None]
        return -(factors_X1 * log_prob_X).mean()
    if kind == "behaviour_cloning":
        weight_X = torch.ones_like(weight_X)
    same_shape(weight=weight_X, log_prob=log_prob_X, keep=keep_X)
    return -masked_mean(weight_X * log_prob_X, keep_X)


def gradient_penalty(gradient_XS: Tensor) -> Tensor:
    """E[max(0, |grad nu| - limit)^2]."""
    return (gradient_XS.norm(dim=-1) - PENALTY_LIMIT).clamp(min=0).square().mean()
