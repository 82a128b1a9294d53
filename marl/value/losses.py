"""What is learned from targets: the double-Q choice of actions, and the TD loss.

| symbol | name here | meaning |
|---|---|---|
| Q | value_BTM | value of the actions taken, M per entry |
| G | target_BTM | learning target, `marl.returns` |
| f | filled_BT | entries that have an action |

Reference: Hasselt, Guez, Silver, "Deep Reinforcement Learning with Double Q-learning", AAAI 2016.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.nets import kernels


def double_q_actions(q_BTNA: Tensor, avail_BTNA: Tensor) -> Tensor:
    """argmax_a Q_i(a) over available actions, int64 (B, T, N).

    The masked value -inf is used only inside the argmax and never reaches a target.
    """
    q_BTNA = q_BTNA.detach()
    if kernels.usable(q_BTNA):
        rows = q_BTNA.flatten(0, 1), avail_BTNA.flatten(0, 1)
        return kernels.epsilon_greedy(*rows, None, 0.0).view(q_BTNA.shape[:-1])
    return q_BTNA.masked_fill(~avail_BTNA, -torch.inf).argmax(-1)


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
