"""Ground: which cells can be walked, how high they are, and which way leads round an obstacle.

A terrain is a 32x32 grid of unit cells with rectangular obstacles. Ways are precomputed: `way[a, b]` is
the cell to head for when walking from cell a to cell b. It is b itself where the straight line is free,
else the farthest cell on the shortest path from a that can be reached in a straight line.
CHOICE: shapes of the choke and the cliff; SMAC's map files are not used.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from marl.envs.battle.maps import SIZE

GROUND, CLIFF = 1, 2  # bits of walk_XY: ground units, cliff walkers (colossi); flyers ignore it
_MARGIN = 0.45  # a line is free if it is free from this far to each side of the two cells' centres
_CORNERS = ((-_MARGIN, -_MARGIN), (-_MARGIN, _MARGIN), (_MARGIN, -_MARGIN), (_MARGIN, _MARGIN))
_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True, kw_only=True)
class Block:
    """An obstacle: cells x0 <= x < x1, y0 <= y < y1; `walkers` may stand on it (0 = nobody)."""

    x0: int
    y0: int
    x1: int
    y1: int
    walkers: int = 0


# corridor: two rooms joined by a passage 2 wide and 6 long, level with the spawns.
# cliff: a ridge that colossi step over and zerglings walk round, 4 free cells at either end.
BLOCKS: dict[str, tuple[Block, ...]] = {
    "flat": (),
    "corridor": (Block(x0=13, y0=0, x1=19, y1=15), Block(x0=13, y0=17, x1=19, y1=32)),
    "cliff": (Block(x0=15, y0=4, x1=17, y1=28, walkers=CLIFF),),
}


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """What the simulation reads of a map's ground.

    Args:
        walk_XY: uint8 (SIZE, SIZE), bits GROUND and CLIFF.
        height_XY: float32 (SIZE, SIZE), terrain height in [0, 1].
        way: int16 (cells, cells) for ground units, cell = x * SIZE + y; None on flat ground.
    """

    walk_XY: np.ndarray
    height_XY: np.ndarray
    way: np.ndarray | None

    @property
    def flat(self) -> bool:
        return self.way is None


@functools.cache
def build(name: str) -> Terrain:
    """The terrain of this name (computed once; a terrain with obstacles takes about a second)."""
    walk = np.full((SIZE, SIZE), GROUND | CLIFF, np.uint8)
    height = np.full((SIZE, SIZE), 0.5, np.float32)  # CHOICE: level ground at 0.5, obstacles at 1
    for block in BLOCKS[name]:
        walk[block.x0 : block.x1, block.y0 : block.y1] = block.walkers
        height[block.x0 : block.x1, block.y0 : block.y1] = 1.0
    way = _ways((walk & GROUND) > 0, BLOCKS[name]) if BLOCKS[name] else None
    return Terrain(walk_XY=walk, height_XY=height, way=way)


def _ways(free_XY: np.ndarray, blocks: tuple[Block, ...]) -> np.ndarray:
    """`way` for every pair of cells: the shortest path, cut short where a straight line is free."""
    cells = SIZE * SIZE
    here = np.arange(cells)[:, None]
    there = np.broadcast_to(np.arange(cells)[None, :], (cells, cells))
    step = _next_cells(free_XY)
    free = _free_lines(blocks)
    way = np.where(free, there, step)
    growing = way != there
    while growing.any():
        onward = step[way, there]
        growing &= free[here, onward] & (onward != way)
        way = np.where(growing, onward, way)
        growing &= way != there
    return way.astype(np.int16)


def _next_cells(free_XY: np.ndarray) -> np.ndarray:
    """First cell of the shortest 8-neighbour path, (from, to); `to` itself where there is no path."""
    cells = SIZE * SIZE
    pad = ((0, 0), (1, 1), (1, 1))
    distance = np.full((cells, SIZE, SIZE), np.inf, np.float32)  # (to, x, y)
    distance.reshape(cells, cells)[np.arange(cells), np.arange(cells)] = 0.0
    target = distance == 0.0
    while True:
        wide = np.pad(distance, pad, constant_values=np.inf)
        options = np.stack([_shifted(wide, free_XY, dx, dy) for dx, dy in _NEIGHBOURS])
        best = np.where(free_XY, np.minimum(distance, options.min(0)), distance)
        if np.array_equal(best, distance):
            break
        distance = best
    choice = options.argmin(0)  # (to, x, y)
    dx, dy = np.array(_NEIGHBOURS).T
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    step = (x + dx[choice]) * SIZE + (y + dy[choice])
    stuck = target | ~np.isfinite(options.min(0))
    step = np.where(stuck, np.arange(cells)[:, None, None], step)
    return step.reshape(cells, cells).T


def _shifted(wide: np.ndarray, free_XY: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Path length through the neighbour (dx, dy); a diagonal needs both cells beside it free."""
    moved = wide[:, 1 + dx : 1 + dx + SIZE, 1 + dy : 1 + dy + SIZE]
    if not (dx and dy):
        return moved + np.float32(1.0)
    padded = np.pad(free_XY, 1)
    beside = padded[1 + dx : 1 + dx + SIZE, 1:-1] & padded[1:-1, 1 + dy : 1 + dy + SIZE]
    return np.where(beside, moved + np.float32(2**0.5), np.float32(np.inf))


def _free_lines(blocks: tuple[Block, ...]) -> np.ndarray:
    """bool (from, to): no obstacle on the lines between the four inner corners of the two cells."""
    x, y = np.divmod(np.arange(SIZE * SIZE), SIZE)
    free = np.ones((SIZE * SIZE, SIZE * SIZE), bool)
    for ox, oy in _CORNERS:
        px, py = (x + 0.5 + ox).astype(np.float32), (y + 0.5 + oy).astype(np.float32)
        for block in blocks:
            near_x, far_x = _slab(px, block.x0, block.x1)
            near_y, far_y = _slab(py, block.y0, block.y1)
            enter, leave = np.maximum(near_x, near_y), np.minimum(far_x, far_y)
            free &= (enter >= leave) | (leave <= 0) | (enter >= 1)
    return free


def _slab(p: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Where along the lines p[a] -> p[b] (as fractions) low < p < high holds, (from, to) each."""
    delta = p[None, :] - p[:, None]
    with np.errstate(divide="ignore"):
        first, second = (low - p[:, None]) / delta, (high - p[:, None]) / delta
    level = delta == 0
    inside = (p > low) & (p < high)
    near = np.where(level, np.where(inside, -np.inf, np.inf)[:, None], np.minimum(first, second))
    far = np.where(level, np.where(inside, np.inf, -np.inf)[:, None], np.maximum(first, second))
    return near, far
