"""Learning targets from rewards and values: pure functions on the Batch layout.

| symbol | name here | meaning |
|---|---|---|
| r_t | reward_BTM | reward of the transition t -> t+1 |
| V_t | value_BTM | value of entry t: a critic's, or a target network's at the greedy actions |
| d_t | terminated_BT | the transition t -> t+1 ended the task: the future is worth nothing |
| f_t | filled_BT | entry t has an action; its successor is then entry t + 1 |
| G_t | returned | learning target of entry t |
| gamma, lambda, n | gamma, trace, steps | discount, trace decay, number of steps |

M values are learned per entry: M = 1 for a joint value, M = N for one per agent.

A truncated episode ends with f_{t+1} = 0 and d_t = 0, so that its last target bootstraps from the
final observation; a window's last entry is cut off in the same way. d_t = 1 bootstraps from nothing.

G_t - V_t of the lambda returns is the generalised advantage estimate of Schulman et al. (ICLR 2016).

Reference: Peng and Williams, "Incremental Multi-Step Q-Learning", Machine Learning 22, 1996.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.nets import kernels


def lambda_returns(
    reward_BTM: Tensor,
    value_BTM: Tensor,
    terminated_BT: Tensor,
    filled_BT: Tensor,
    *,
    gamma: float,
    trace: float,
) -> Tensor:
    """G_t = r_t + gamma (1 - d_t) [V_{t+1} + lambda f_{t+1} (G_{t+1} - V_{t+1})].

    Args:
        reward_BTM: float.
        value_BTM: float; V of every entry, also of unfilled final ones.
        terminated_BT, filled_BT: bool.
        gamma: discount, [0, 1].
        trace: lambda, [0, 1]; 0 gives one-step targets.

    Returns:
        (B, T, M) without a gradient; the last entry, which is never filled, is 0.
    """
    reward_BTM, value_BTM = reward_BTM.detach(), value_BTM.detach()
    if kernels.usable(value_BTM):
        return kernels.lambda_returns(reward_BTM, value_BTM, (terminated_BT, filled_BT), gamma, trace)
    return lambda_returns_torch(reward_BTM, value_BTM, terminated_BT, filled_BT, gamma=gamma, trace=trace)


def lambda_returns_torch(
    reward_BTM: Tensor,
    value_BTM: Tensor,
    terminated_BT: Tensor,
    filled_BT: Tensor,
    *,
    gamma: float,
    trace: float,
) -> Tensor:
    """The torch form: the reference of the native one, and what other devices run."""
    next_BTM = value_BTM[:, 1:]
    future_BT1 = gamma * (~terminated_BT[:, :-1, None]).to(value_BTM.dtype)
    trace_BT1 = trace * filled_BT[:, 1:, None].to(value_BTM.dtype)
    base_BTM = reward_BTM[:, :-1] + future_BT1 * (1.0 - trace_BT1) * next_BTM
    base_BTM = torch.where(filled_BT[:, :-1, None], base_BTM, 0.0)  # 0 * NaN of padding would spread
    decay_BT1 = future_BT1 * trace_BT1
    returned = torch.zeros_like(value_BTM[:, 0])
    out = [returned]
    for base_BM, decay_B1 in zip(reversed(base_BTM.unbind(1)), reversed(decay_BT1.unbind(1)), strict=True):
        returned = torch.addcmul(base_BM, decay_B1, returned)
        out.append(returned)
    return torch.stack(out[::-1], 1)


def nstep_returns(
    reward_BTM: Tensor,
    value_BTM: Tensor,
    terminated_BT: Tensor,
    filled_BT: Tensor,
    *,
    gamma: float,
    steps: int,
) -> Tensor:
    """Sum of up to n discounted rewards, then gamma^n V; shorter where the episode or window ends.

    G^1_t = r_t + gamma (1 - d_t) V_{t+1};
    G^k_t = r_t + gamma (1 - d_t) (f_{t+1} ? G^{k-1}_{t+1} : V_{t+1}).

    Args and Returns: as `lambda_returns`, with steps = n >= 1.
    """
    reward_BTM, value_BTM = reward_BTM.detach(), value_BTM.detach()
    future_BT1 = gamma * (~terminated_BT[:, :-1, None]).to(value_BTM.dtype)
    ahead_BTM = value_BTM
    for _ in range(steps):
        next_BTM = torch.where(filled_BT[:, 1:, None], ahead_BTM[:, 1:], value_BTM[:, 1:])
        ahead_BTM = F.pad(torch.addcmul(reward_BTM[:, :-1], future_BT1, next_BTM), (0, 0, 0, 1))
    return ahead_BTM
