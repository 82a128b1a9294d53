"""Targets and losses of value-based teams: pure functions on the Batch layout.

| symbol | name here | meaning |
|---|---|---|
| r_t | reward_BTM | reward of the transition t -> t+1 |
| V_t | value_BTM | target network's joint value at entry t, at its greedy (double-Q) actions |
| d_t | terminated_BT | the transition t -> t+1 ended the task: the future is worth nothing |
| f_t | filled_BT | entry t has an action; its successor is then entry t + 1 |
| G_t | returned | learning target of entry t |
| gamma, lambda, n | gamma, trace, steps | discount, trace decay, number of steps |

M values are learned per entry: M = 1 for a joint value, M = N for one per agent.

A truncated episode ends with f_{t+1} = 0 and d_t = 0, so that its last target bootstraps from the
final observation; a window's last entry is cut off in the same way. d_t = 1 bootstraps from nothing.

Reference: Hasselt, Guez, Silver, "Deep Reinforcement Learning with Double Q-learning", AAAI 2016;
Peng and Williams, "Incremental Multi-Step Q-Learning", Machine Learning 22, 1996 (lambda returns).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def double_q_actions(q_BTNA: Tensor, avail_BTNA: Tensor) -> Tensor:
    """argmax_a Q_i(a) over available actions, int64 (B, T, N).

    The masked value -inf is used only inside the argmax and never reaches a target.
    """
    return q_BTNA.detach().masked_fill(~avail_BTNA, -torch.inf).argmax(-1)


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
        (B, T, M); the last entry, which is never filled, is 0.
    """
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
    future_BT1 = gamma * (~terminated_BT[:, :-1, None]).to(value_BTM.dtype)
    ahead_BTM = value_BTM
    for _ in range(steps):
        next_BTM = torch.where(filled_BT[:, 1:, None], ahead_BTM[:, 1:], value_BTM[:, 1:])
        ahead_BTM = F.pad(torch.addcmul(reward_BTM[:, :-1], future_BT1, next_BTM), (0, 0, 0, 1))
    return ahead_BTM


def td_loss(
    value_BTM: Tensor, target_BTM: Tensor, filled_BT: Tensor, *, kind: Literal["squared", "huber"]
) -> Tensor:
    """Mean over filled entries and M of (Q - G)^2, or of Huber's loss with threshold 1.

    CHOICE: squared errors carry no factor 1/2 (PyMARL and QPLEX's code; PyMARL2 halves QPLEX's only).

    Args:
        value_BTM: float, differentiable.
        target_BTM: float, constant.
        filled_BT: bool; other entries do not count, whatever they hold.
    """
    mask_BT1 = filled_BT[:, :, None]
    error_BTM = torch.where(mask_BT1, value_BTM - target_BTM, 0.0)
    if kind == "squared":
        total = error_BTM.square().sum()
    else:
        total = F.huber_loss(error_BTM, torch.zeros_like(error_BTM), reduction="sum")
    return total / (mask_BT1.sum() * value_BTM.shape[-1]).clamp(min=1)
