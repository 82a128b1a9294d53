"""Targets and the loss of REINFORCE with a baseline: pure functions of tensors.

| symbol | name here | meaning |
|---|---|---|
| r_t | reward_BTN | reward of the transition t -> t+1, per agent |
| V | value_BTN | the agent's own value |
| G | returned by own_returns | return of an agent, cut where it leaves |
| A | gain | what an action was worth: G - V, or Q of a central critic |
| pi(a, g) | log_prob | probability of action and gate together |

Reference: Singh et al., "Learning when to Communicate at Scale in Multiagent Cooperative and Competitive
Tasks" (IC3Net), ICLR 2019, released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.returns import lambda_returns


def departures(alive_BTN: Tensor, left_BTN: Tensor, filled_BT: Tensor) -> Tensor:
    """bool (B, T, N): who acted at entry t is gone at entry t + 1 of the same episode.

    Args:
        alive_BTN: bool.
        left_BTN: bool; at entry t: whoever was in the slot before has left (a new one may have come).
        filled_BT: bool. Not seen: who leaves in an episode's very last step (its last entry repeats who was
            alive), and who is replaced in a rollout's last one (`left` is stored with the next action).
    """
    gone_BTN = ~alive_BTN | (left_BTN & filled_BT[..., None])
    return F.pad(gone_BTN[:, 1:], (0, 0, 0, 1)) & filled_BT[..., None]


def team_values(value_BTN: Tensor, alive_BTN: Tensor) -> Tensor:
    """V (B, T, N) for returns of the team's reward: the dead take the mean of the living.

    Their own values are in no loss, while the team's return goes on without them and the living ones' values
    estimate it. Where nobody is alive, values stay. CHOICE: Monte Carlo returns of whole episodes, which the
    papers use, need no value there.
    """
    count_BT1 = alive_BTN.sum(-1, keepdim=True)
    mean_BT1 = torch.where(alive_BTN, value_BTN, 0.0).sum(-1, keepdim=True) / count_BT1.clamp(min=1)
    return torch.where(alive_BTN | (count_BT1 == 0), value_BTN, mean_BT1)


def own_returns(
    reward_BTN: Tensor,
    value_BTN: Tensor,
    ended_BTN: Tensor,
    filled_BT: Tensor,
    *,
    gamma: float,
    trace: float,
) -> Tensor:
    """`marl.returns.lambda_returns` where every agent has an end of its own.

    Args:
        ended_BTN: bool; agent i's future is worth nothing after the transition t -> t + 1.
        others: as there, with M = N.

    Returns:
        (B, T, N) without a gradient.
    """
    B, _, N = reward_BTN.shape

    def rows(x_BTN: Tensor) -> Tensor:
        return x_BTN.transpose(1, 2).flatten(0, 1)

    G_RT1 = lambda_returns(
        rows(reward_BTN)[..., None],
        rows(value_BTN)[..., None],
        rows(ended_BTN),
        filled_BT.repeat_interleave(N, 0),
        gamma=gamma,
        trace=trace,
    )
    return G_RT1.view(B, N, -1).transpose(1, 2)


def reinforce_loss(
    log_prob: Tensor, value: Tensor, target: Tensor, gain: Tensor, live: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """-sum_i A log pi(a, g), and sum_i (V - G)^2, both per team step.

    Args:
        log_prob, value: float, any shape, differentiable.
        target: G, the same shape, constant.
        gain: A, the same shape, constant: G - V, or a critic's value of the actions taken.
        live: bool, the same shape: agents that could act.
        steps: how many team steps these are, > 0.
    """
    policy = -(torch.where(live, gain, 0.0) * torch.where(live, log_prob, 0.0)).sum()
    error = torch.where(live, target - value, 0.0)
    return policy / steps, error.square().sum() / steps
