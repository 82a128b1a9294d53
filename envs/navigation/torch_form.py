"""The torch form of cooperative navigation: oracle of the C++ form, and what runs on other devices.

| symbol | name here | meaning |
|---|---|---|
| p_i, v_i | pos_BN2, vel_BN2 | position and velocity of agent i |
| l_j | landmark_BN2 | position of landmark j |
| u_i | push_BN2 | force that agent i chose, 5 along an axis |
| F_i | force_BN2 | u_i + sum_j 100 (p_i - p_j)/d_ij k log(1 + exp(-(d_ij - 0.3)/k)), k = 0.001 |
| D | distance_B | sum over landmarks of the distance to the nearest agent |

A step is p += v dt, then v = 0.75 v + F dt, with F at the old positions. Reward of agent i:
-(1 - local_ratio) D - local_ratio (number of agents nearer than 0.3 to it), at the new positions.

Reference: Lowe et al., "Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments",
NeurIPS 2017; physics, reward and observation as in MPE2 1.1.1 (simple_spread_v3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.envs.navigation.config import Config
from marl.rng import Stream

DT = 0.1  # time of a step; MPE2
KEEP = 0.75  # share of the velocity that is left after a step: 1 - damping of 0.25; MPE2
PUSH = 5.0  # force of an action; MPE2's sensitivity
REACH = 0.3  # distance at which two agents touch: twice their radius of 0.15; MPE2
STIFFNESS = 100.0  # MPE2's contact_force
MARGIN = 1e-3  # k: width of the contact's soft edge; MPE2's contact_margin
COVER = 0.1  # a landmark is covered by an agent nearer than this; MPE2's CAPTURE_RADIUS
TINY = 1e-12  # DEVIATION: agents in the very same place do not push each other; MPE2 divides by zero there


class Outcome(NamedTuple):
    """What a step led to."""

    agent_reward_BN: Tensor  # float32
    covered_B: Tensor  # int64; landmarks that are covered
    touching_B: Tensor  # int64; pairs of agents in contact


def draw(config: Config, key_B: Tensor, episode_B: Tensor) -> tuple[Tensor, Tensor]:
    """Starting places of agents and landmarks, (B, N, 2) each, uniform in [-1, 1)^2."""
    place_BM2 = Stream(key_B).fold(episode_B).uniform(2 * config.n_agents, 2) * 2.0 - 1.0
    return place_BM2[:, : config.n_agents], place_BM2[:, config.n_agents :]


def pushes(config: Config, actions: Tensor) -> Tensor:
    """Forces (B, N, 2) of actions: 0 none, 1 left, 2 right, 3 down, 4 up; other numbers are none.

    Args:
        actions: int64 (B, N), or float32 (B, N, 5) with the strength of each, clipped to [0, 1].
    """
    if config.actions == "discrete":
        strength_BN5 = (actions[..., None] == torch.arange(5, device=actions.device)).to(torch.float32)
    else:
        strength_BN5 = actions.clamp(0.0, 1.0)
    return PUSH * (strength_BN5[..., 2::2] - strength_BN5[..., 1::2])


def contact_force(pos_BN2: Tensor) -> Tensor:
    """Sum of what all others do to each agent, (B, N, 2)."""
    delta_BNN2 = pos_BN2[:, :, None] - pos_BN2[:, None]
    d_BNN = delta_BNN2.square().sum(-1).sqrt()
    depth_BNN = MARGIN * F.softplus((REACH - d_BNN) / MARGIN)
    return (delta_BNN2 * (STIFFNESS * depth_BNN / d_BNN.clamp(min=TINY))[..., None]).sum(2)


def move(pos_BN2: Tensor, vel_BN2: Tensor, push_BN2: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and velocities one step later."""
    force_BN2 = push_BN2 + contact_force(pos_BN2)
    return pos_BN2 + vel_BN2 * DT, vel_BN2 * KEEP + force_BN2 * DT


def judge(config: Config, pos_BN2: Tensor, landmark_BN2: Tensor) -> Outcome:
    """Rewards, covered landmarks and contacts of the positions."""
    gap2_BNN = (pos_BN2[:, :, None] - landmark_BN2[:, None]).square().sum(-1)  # agent, landmark
    nearest2_BN = gap2_BNN.amin(1)
    distance_B = nearest2_BN.sqrt().sum(-1)
    between2_BNN = (pos_BN2[:, :, None] - pos_BN2[:, None]).square().sum(-1)
    touch_BN = (between2_BNN < REACH * REACH).sum(-1) - 1  # without itself
    team, own = 1.0 - config.local_ratio, config.local_ratio
    return Outcome(
        agent_reward_BN=-team * distance_B[:, None] - own * touch_BN,
        covered_B=(nearest2_BN < COVER * COVER).sum(-1),
        touching_B=touch_BN.sum(-1) // 2,
    )


def own_reward(obs_BNO: Tensor) -> Tensor:
    """Of the reward `own` (B, N), read off observations: - distance to the nearest landmark - contacts."""
    N = obs_BNO.shape[1]
    marks_BNM, others_BNM = obs_BNO[..., 4 : 4 + 2 * N], obs_BNO[..., 4 + 2 * N : 2 + 4 * N]
    distance_BN = marks_BNM.unflatten(-1, (N, 2)).norm(dim=-1).amin(-1)
    gap2_BNM = others_BNM.unflatten(-1, (N - 1, 2)).square().sum(-1)
    return -distance_BN - (gap2_BNM < REACH * REACH).sum(-1)


def look(pos_BN2: Tensor, vel_BN2: Tensor, landmark_BN2: Tensor) -> Tensor:
    """Observations (B, N, 6N): own velocity and position, landmarks and others relative to it, silence."""
    N, device = pos_BN2.shape[1], pos_BN2.device
    marks_BNM = (landmark_BN2[:, None] - pos_BN2[:, :, None]).flatten(2)
    before = torch.arange(N - 1, device=device)
    others_NM = before + (
        before >= torch.arange(N, device=device)[:, None]
    )  # all indices but the agent's own
    others_BNM = (pos_BN2[:, others_NM] - pos_BN2[:, :, None]).flatten(2)
    return torch.cat([vel_BN2, pos_BN2, marks_BNM, others_BNM, torch.zeros_like(others_BNM)], -1)
