"""A map's pathing grid and terrain height from the game's `start_raw`, indexed [x, y] as SMAC reads them.

Kept as SMAC (oxwhirl/smac d6aab33) has it: one-bit grids are read as rows from the south, with 1 = can be
walked; eight-bit grids of old versions of the game as rows from the north, with 0 = can be walked; heights as
rows from the north in every version. So in new versions heights are mirrored against the pathing.
DEVIATION: SMAC swaps width and height, which only square maps bear; here a map may be oblong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from marl.envs.battle.observe import Ground
from marl.envs.battle.terrain import GROUND


def read(start_raw: Any) -> Ground:
    """Pathing, height and size of a map.

    Args:
        start_raw: SC2APIProtocol.StartRaw of ResponseGameInfo.
    """
    low, high = start_raw.playable_area.p0, start_raw.playable_area.p1
    width, height = start_raw.map_size.x, start_raw.map_size.y
    grid = start_raw.pathing_grid
    pixels = np.frombuffer(grid.data, np.uint8)
    if grid.bits_per_pixel == 1:
        bits = np.unpackbits(pixels)[: width * height]
        free_XY = bits.reshape(height, width).T > 0
    else:
        free_XY = np.flip(pixels.reshape(height, width).T, 1) == 0
    heights = np.frombuffer(start_raw.terrain_height.data, np.uint8).reshape(height, width)
    return Ground(
        walk_XY=free_XY.astype(np.uint8) * GROUND,
        height_XY=np.flip(heights.T, 1).astype(np.float32) / np.float32(255),
        extent=(high.x - low.x, high.y - low.y),
    )
