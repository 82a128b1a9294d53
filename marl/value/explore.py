"""Epsilon-greedy actions from counter-based streams."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.nets import kernels
from marl.rng import Stream


def epsilon_greedy(q_BNA: Tensor, avail_BNA: Tensor, rng: Stream, epsilon: float) -> Tensor:
    """The best available action, or with probability epsilon a uniformly random available one.

    Args:
        q_BNA: action values.
        avail_BNA: bool, at least one True per agent.
        rng: one stream per row B; 2N numbers of each are used (a coin and a choice per agent).
        epsilon: probability of a random action of each agent, [0, 1].

    Returns:
        int64 (B, N).
    """
    if kernels.usable(q_BNA):
        return kernels.epsilon_greedy(q_BNA, avail_BNA, rng.key_B, epsilon)
    return epsilon_greedy_torch(q_BNA, avail_BNA, rng, epsilon)


def epsilon_greedy_torch(q_BNA: Tensor, avail_BNA: Tensor, rng: Stream, epsilon: float) -> Tensor:
    """The torch form: the reference of the native one, and what other devices run."""
    greedy_BN = q_BNA.masked_fill(~avail_BNA, -torch.inf).argmax(-1)
    if epsilon <= 0:
        return greedy_BN
    coin_BN, choice_BN = rng.uniform(2, q_BNA.shape[1]).unbind(1)
    order_BNA = avail_BNA.cumsum(-1)  # 1 at the first available action, 2 at the second, ...
    rank_BN1 = (choice_BN[..., None] * order_BNA[..., -1:]).floor()
    random_BN = (order_BNA > rank_BN1).to(torch.uint8).argmax(-1)
    return torch.where(coin_BN < epsilon, random_BN, greedy_BN)
