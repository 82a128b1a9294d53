"""Input rows of agents' networks: observation, last action and agent id side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.nets import kernels


def agent_inputs(obs: Tensor, last_action: Tensor | None, *, actions: int, ids: bool) -> Tensor:
    """[observation | last action one-hot | agent id one-hot], differentiable in the observation.

    Args:
        obs: float (..., N, O).
        last_action: int64 (..., N), -1 for none (all zeros); None leaves this part out.
        actions: number of actions A.
        ids: append the agent id.

    Returns:
        (..., N, O + A + N), or less where parts are left out.
    """
    if last_action is None and not ids:
        return obs
    if kernels.usable(obs) and not obs.requires_grad:
        return kernels.agent_inputs(obs, last_action, actions=actions, ids=ids)
    parts = [obs]
    if last_action is not None:  # index A of "none" falls off the end
        one_hot = F.one_hot(last_action.remainder(actions + 1), actions + 1)
        parts.append(one_hot[..., :actions].to(obs.dtype))
    if ids:
        N = obs.shape[-2]
        parts.append(torch.eye(N, dtype=obs.dtype, device=obs.device).expand(*obs.shape[:-1], N))
    return torch.cat(parts, -1)
