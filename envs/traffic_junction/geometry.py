"""Roads, routes and cell numbers of the three junctions, made once when a world is built.

| symbol | name here | meaning |
|---|---|---|
| D | size | the grid has D x D cells, addressed (row, column) from the top left |
| P | points | arrival points, in the order in which cars arrive |
| K | per_point | routes of each arrival point |
| R | len(routes) | P K routes; route p K + k is choice k of point p |
| C | len(cells) | road cells, row by row |
| B | codes | count of cell numbers in the released code |

Traffic keeps to the right. Where two roads cross, a car goes straight on, turns right at the first cell of
the crossing, or turns left at the second. It chooses at its first two crossings and then goes straight.

Reference: Singh, Jain, Sukhbaatar, "Learning when to Communicate at Scale in Multiagent Cooperative and
Competitive Tasks" (IC3Net), ICLR 2019, and its released code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import chain, product

Cell = tuple[int, int]  # row, column
Path = tuple[Cell, ...]

_STRAIGHT, _RIGHT, _LEFT = range(3)  # a choice at a crossing, in the order in which routes are listed


@dataclass(frozen=True, kw_only=True)
class Level:
    """One of the three tasks.

    Args:
        size: D.
        rows, columns: the lanes of each road, northern or western lane first; two lanes are two-way.
        points: where cars arrive.
        codes: B, of the released code; the one-hot of a cell has B + 2 places.
        turns: whether cars may turn; else each point has the one route straight on.
        cars: most cars at a time, N.
        limit: steps of an episode.
        p_start, p_end: rate of arrival per point and step, before and after the curriculum.
    """

    size: int
    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    points: Path
    codes: int
    turns: bool
    cars: int
    limit: int
    p_start: float
    p_end: float


# Geometry, limits, N and rates: released code of IC3Net and the commands of its README, but for p_end of
# medium, there 0.02 (below p_start); 0.2 is the paper's, as MAGIC's authors give it. CHOICE: the hard task
# lasts 80 steps as in IC3Net and MAGIC; DICG has 60, CommNet 40.
LEVELS = {
    "easy": Level(
        size=7, rows=((3,),), columns=((3,),), points=((0, 3), (3, 0)), codes=12, turns=False,
        cars=5, limit=20, p_start=0.1, p_end=0.3,
    ),
    "medium": Level(
        size=14, rows=((6, 7),), columns=((6, 7),), points=((0, 6), (13, 7), (7, 0), (6, 13)), codes=56,
        turns=True, cars=10, limit=40, p_start=0.05, p_end=0.2,
    ),
    "hard": Level(
        size=18, rows=((4, 5), (12, 13)), columns=((4, 5), (12, 13)), codes=144, turns=True,
        points=((0, 4), (0, 12), (5, 0), (13, 0), (17, 5), (17, 13), (4, 17), (12, 17)),
        cars=20, limit=80, p_start=0.02, p_end=0.05,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Roads:
    """The road net of a level.

    Args:
        size: D.
        cells: road cells, row by row.
        numbers: of every road cell, the place of the 1 in its one-hot, below codes + 2.
        codes: B.
        outside: the same for every cell that is no road; no road cell has it.
        routes: the cells of every route, first to last.
        per_point: K.
    """

    size: int
    cells: Path
    numbers: tuple[int, ...]
    codes: int
    outside: int
    routes: tuple[Path, ...]
    per_point: int


@functools.cache
def roads(name: str) -> Roads:
    """The road net of "easy", "medium" or "hard"."""
    level = LEVELS[name]
    number = _numbers(level)
    routes = [_routes(level, point) for point in level.points]
    cells, taken = tuple(sorted(number)), set(number.values())
    # DEVIATION: on the easy grid the released code gives the outside the number of a road cell (12). Here it
    # has the number that the crossing gave up there (3): one-hots differ, the observation keeps its size.
    outside = level.codes if level.codes not in taken else min(set(range(level.codes)) - taken)
    return Roads(
        size=level.size,
        cells=cells,
        numbers=tuple(number[cell] for cell in cells),
        codes=level.codes,
        outside=outside,
        routes=tuple(path for paths in routes for path in paths),
        per_point=len(routes[0]),
    )


def _numbers(level: Level) -> dict[Cell, int]:
    """Cells numbered road by road, horizontal roads first, row by row; a crossing keeps the later number."""
    across = range(level.size)
    blocks = [product(road, across) for road in level.rows]
    blocks += [product(across, road) for road in level.columns]
    return {cell: number for number, cell in enumerate(chain.from_iterable(blocks))}


def _routes(level: Level, point: Cell) -> list[Path]:
    """All routes of an arrival point: first choice straight, right, left; for each the second choice."""
    choices = (_STRAIGHT, _RIGHT, _LEFT) if level.turns else (_STRAIGHT,)
    paths: list[Path] = []
    for first in choices:
        for second in choices:
            path, crossings = _drive(level, point, (first, second))
            paths.append(path)
            if crossings == 1:  # it leads straight out: there is no second choice
                break
    return paths


def _drive(level: Level, point: Cell, choices: tuple[int, int]) -> tuple[Path, int]:
    """The cells from an arrival point to the grid's edge, and how many crossings lie on them."""
    rows, columns = set(chain(*level.rows)), set(chain(*level.columns))
    (row, column), (down, right) = point, _inwards(point, level.size)
    path: list[Cell] = []
    crossings = depth = 0  # depth: cells of the present crossing so far
    choice = _STRAIGHT
    while 0 <= row < level.size and 0 <= column < level.size:
        path.append((row, column))
        depth = depth + 1 if row in rows and column in columns else 0
        if depth == 1:
            choice = choices[crossings] if crossings < len(choices) else _STRAIGHT
            crossings += 1
        if choice == _RIGHT and depth == 1:
            down, right = right, -down
        if choice == _LEFT and depth == 2:
            down, right = -right, down
        row, column = row + down, column + right
    return tuple(path), crossings


def _inwards(point: Cell, size: int) -> Cell:
    """Direction (down, right) in which a car leaves the grid's edge."""
    row, column = point
    if row in (0, size - 1):
        return (1 if row == 0 else -1), 0
    return 0, (1 if column == 0 else -1)
