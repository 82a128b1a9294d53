"""A plain picture of a game from above: blue discs are the agents, orange ones the enemy, bars their hp."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.canvas import Canvas, Colour
from marl.envs.starcraft.frame import Dot

_FIELD, _HEAD = 576, 32  # pixels of the map's longer side and of the strip above it; even, as MP4 needs
_PAPER: Colour = (30, 36, 34)
_TEXT: Colour = (235, 238, 242)
_TEAM: tuple[Colour, Colour] = ((74, 144, 226), (232, 119, 46))
_FULL: Colour = (110, 215, 120)
_EMPTY: Colour = (90, 40, 40)


def draw(title: str, size: tuple[float, float], dots: Sequence[Dot]) -> np.ndarray:
    """RGB picture (H, W, 3), uint8.

    Args:
        title: text above the map.
        size: of the map, map units.
        dots: the units; north is up.
    """
    scale = _FIELD / max(size)
    width, height = (round(side * scale / 2) * 2 for side in size)
    canvas = Canvas(_HEAD + height, width, _PAPER)
    canvas.text(width / 2, 9, title, _TEXT, scale=2, anchor=0.5)
    for dot in dots:
        x, y, radius = dot.x * scale, _HEAD + height - dot.y * scale, dot.radius * scale
        canvas.disc(x, y, radius, _TEAM[dot.side])
        left, top = x - radius, y - radius - 5
        canvas.box(left, top, x + radius, top + 3, _EMPTY)
        canvas.box(left, top, left + 2 * radius * dot.hp, top + 3, _FULL)
    return canvas.image()
