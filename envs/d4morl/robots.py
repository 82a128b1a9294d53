"""The robots: models, observations, rewards and ends, each as one row of a table.

| symbol | name here | meaning |
|---|---|---|
| vx, vy | speed_B2 | velocity of the root: change of its position in a step, divided by the step's time |
| abs(a)^2 | effort_B | sum of squared action components |
| h, h0 | height_B, 1.25 | height of the hopper's torso, and its start |

Reference: Zhu, Dang, Grover, "Scaling Pareto-Efficient Decision Making via Offline Multi-Objective RL"
(D4MORL), ICLR 2023, and the environments of its code, after Xu et al., "Prediction-Guided Multi-Objective
RL" (PGMORL), ICML 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_DEGREES = np.pi / 180


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What a step of B robots was like: velocities (B, 2), efforts (B,), positions (B, nq) after it."""

    speed_B2: Array
    effort_B: Array
    qpos_BQ: Array
    qvel_BV: Array


@dataclass(frozen=True, kw_only=True)
class Robot:
    """One robot.

    Args:
        model: XML file among gymnasium's assets.
        frame_skip: simulator steps per step.
        hidden: leading entries of qpos that the robot does not see.
        objectives: names, in the order of `reward`.
        reward: from a step to (B, K).
        fallen: from a step to bool (B,); states that are not finite end an episode always.
        bounds: of the actions, where they are not [-1, 1].
        clip: qvel is seen within +- this.
        top: seen from above, else from the side.
    """

    model: str
    frame_skip: int
    hidden: int
    objectives: tuple[str, ...]
    reward: Callable[[Motion], Array]
    fallen: Callable[[Motion], Array]
    bounds: tuple[float, ...] = ()
    clip: float = np.inf
    top: bool = False


def _stack(*parts: Array) -> Array:
    return np.stack(parts, -1)


def _never(m: Motion) -> Array:
    return np.zeros(len(m.effort_B), bool)


def _hopper_fallen(m: Motion) -> Array:
    low = m.qpos_BQ[:, 1] <= 0.4
    return low | (np.abs(m.qpos_BQ[:, 2:6]) >= 90 * _DEGREES).any(-1)


def _hopper(m: Motion) -> Array:
    alive_B = 1 - 2e-4 * m.effort_B
    return _stack(1.5 * m.speed_B2[:, 0] + alive_B, 12 * (m.qpos_BQ[:, 1] - 1.25) + alive_B)


def _hopper_3(m: Motion) -> Array:
    jump_B = 12 * (m.qpos_BQ[:, 1] - 1.25) + 1
    return _stack(1.5 * m.speed_B2[:, 0] + 1, jump_B, 4 - m.effort_B + 1)


def _walker_fallen(m: Motion) -> Array:
    z_B = m.qpos_BQ[:, 1]
    return ~((z_B > 0.8) & (z_B < 2.0)) | (np.abs(m.qpos_BQ[:, 2]) >= 1.0)


# Actions of the hoppers reach beyond the model's own limits, which are widened to these. CHOICE: the models
# are gymnasium's; the originals ship their own.
_HOPPER_BOUNDS = (2.0, 2.0, 4.0)

ROBOTS = {
    "ant": Robot(
        model="ant.xml",
        frame_skip=5,
        hidden=2,
        objectives=("x_speed", "y_speed"),
        reward=lambda m: m.speed_B2 + 1 - 0.5 * m.effort_B[:, None],
        fallen=_never,
        top=True,
    ),
    "halfcheetah": Robot(
        model="half_cheetah.xml",
        frame_skip=5,
        hidden=1,
        objectives=("speed", "energy"),
        reward=lambda m: _stack(np.minimum(4, m.speed_B2[:, 0]) + 1, 4 - m.effort_B + 1),
        fallen=lambda m: np.abs(m.qpos_BQ[:, 2]) >= 50 * _DEGREES,
    ),
    "hopper": Robot(
        model="hopper.xml",
        frame_skip=5,
        hidden=1,
        objectives=("speed", "height"),
        reward=_hopper,
        fallen=_hopper_fallen,
        bounds=_HOPPER_BOUNDS,
        clip=10.0,
    ),
    "hopper_3obj": Robot(
        model="hopper.xml",
        frame_skip=5,
        hidden=1,
        objectives=("speed", "height", "energy"),
        reward=_hopper_3,
        fallen=_hopper_fallen,
        bounds=_HOPPER_BOUNDS,
        clip=10.0,
    ),
    "swimmer": Robot(
        model="swimmer.xml",
        frame_skip=4,
        hidden=2,
        objectives=("speed", "energy"),
        reward=lambda m: _stack(m.speed_B2[:, 0], 0.3 - 0.15 * m.effort_B),
        fallen=_never,
        top=True,
    ),
    "walker2d": Robot(
        model="walker2d_v5.xml",
        frame_skip=4,
        hidden=1,
        objectives=("speed", "energy"),
        reward=lambda m: _stack(m.speed_B2[:, 0] + 1, 4 - m.effort_B + 1),
        fallen=_walker_fallen,
        clip=10.0,
    ),
}
