"""Pictures of a junction from above.

Every car has its slot's number and colour; the faint line ahead is the rest of its route, red lights at its
tail mean that it braked. Cars that share a cell stand side by side in a red burst: they crashed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marl.canvas import GLYPH_HEIGHT, Canvas, Colour
from marl.envs.traffic_junction.geometry import Level, Path

if TYPE_CHECKING:
    from marl.envs.traffic_junction.env import TrafficJunction

_FIELD, _HEAD = 588, 44  # pixels of the grid at most, and of the strip above it; sides are even, as MP4 needs
_GRASS: Colour = (112, 146, 96)
_TUFT: Colour = (104, 138, 89)
_ROAD: Colour = (70, 74, 82)
_KERB: Colour = (205, 203, 192)
_PAINT: Colour = (226, 214, 170)
_PAPER: Colour = (24, 27, 33)
_TEXT: Colour = (235, 238, 242)
_MUTED: Colour = (150, 157, 168)
_ALARM: Colour = (240, 80, 60)
_FLAME: Colour = (255, 190, 70)
_BRAKE: Colour = (255, 60, 50)
_GLASS: Colour = (28, 34, 44)
_BODIES: tuple[Colour, ...] = (
    (86, 160, 235), (240, 150, 60), (170, 125, 230), (90, 200, 150), (235, 205, 85),
    (235, 125, 165), (110, 205, 215), (195, 165, 130), (165, 205, 85), (205, 210, 220),
)  # fmt: skip


class _Car(NamedTuple):
    """A car as it is drawn; x, y and the direction (right, down) in pixels of the picture."""

    slot: int
    x: float
    y: float
    right: float
    down: float
    ahead: list[tuple[float, float]]
    braked: bool
    crashed: bool


def draw(env: TrafficJunction, index: int = 0) -> np.ndarray:
    """One env as it stands now.

    Args:
        env: the batch of junctions.
        index: which of them, 0 to num_envs - 1.

    Returns:
        uint8 (H, W, 3), at most 632 x 588.
    """
    size = 2 * (_FIELD // 2 // env.level.size)  # pixels of a cell
    canvas = Canvas(_HEAD + size * env.level.size, size * env.level.size, _GRASS)
    _ground(canvas, env.level, size)
    cars = _cars(env, index, size)
    for car in cars:
        _way(canvas, car, size)
    for car in cars:
        if car.crashed:
            canvas.disc(*car.ahead[0], 0.75 * size, _ALARM, alpha=0.4)
            canvas.ring(*car.ahead[0], 0.75 * size, max(2.0, 0.07 * size), _FLAME, alpha=0.9)
    for car in cars:
        _body(canvas, car, size)
    _head(canvas, env, index, len(cars))
    return canvas.image()


def _ground(canvas: Canvas, level: Level, size: int) -> None:
    """Grass in a faint chequer, roads with kerbs, dashes between lanes, an arrow at every arrival point."""
    D, width = level.size, canvas.width
    for row in range(D):
        for column in range(row % 2, D, 2):
            x, y = column * size, _HEAD + row * size
            canvas.box(x, y, x + size, y + size, _TUFT)
    kerb = max(2, size // 14)
    spans = [(road[0] * size, (road[-1] + 1) * size) for road in level.rows]
    columns = [(road[0] * size, (road[-1] + 1) * size) for road in level.columns]
    for grow, colour in ((kerb, _KERB), (0, _ROAD)):
        for low, high in spans:
            canvas.box(0, _HEAD + low - grow, width, _HEAD + high + grow, colour)
        for low, high in columns:
            canvas.box(low - grow, _HEAD, high + grow, canvas.height, colour)
    crossing_rows = {lane for road in level.rows for lane in road}
    crossing_columns = {lane for road in level.columns for lane in road}
    for i in range(D):
        a, b = (i + 0.25) * size, (i + 0.75) * size
        for road in level.rows if i not in crossing_columns else ():
            for lane in road[1:]:
                canvas.box(a, _HEAD + lane * size - 1, b, _HEAD + lane * size + 1, _PAINT)
        for road in level.columns if i not in crossing_rows else ():
            for lane in road[1:]:
                canvas.box(lane * size - 1, _HEAD + a, lane * size + 1, _HEAD + b, _PAINT)
    for row, column in level.points:
        _arrow(canvas, (row, column), D, size)


def _arrow(canvas: Canvas, point: tuple[int, int], D: int, size: int) -> None:
    """A painted chevron where cars come in."""
    row, column = point
    right, down = (0, 1 if row == 0 else -1) if row in (0, D - 1) else (1 if column == 0 else -1, 0)
    x, y = (column + 0.5) * size, _HEAD + (row + 0.5) * size
    tip, wing = 0.18 * size, 0.16 * size
    for side in (-1, 1):
        x0, y0 = x - right * tip + side * down * wing, y - down * tip + side * right * wing
        canvas.line(x0, y0, x + right * tip, y + down * tip, max(2.0, size / 16), _PAINT, alpha=0.55)


def _cars(env: TrafficJunction, index: int, size: int) -> list[_Car]:
    """All cars; those that share a cell moved apart."""
    fields = (env.alive_BN, env.route_BN, env.way_BN, env.last_BN)
    alive, routes, ways, last = (value[index].tolist() for value in fields)
    slots = [n for n, here in enumerate(alive) if here]
    cell = {n: env.roads.routes[routes[n]][ways[n]] for n in slots}
    out = []
    for n in slots:
        path, way = env.roads.routes[routes[n]], ways[n]
        right, down = _direction(path, way)
        together = [m for m in slots if cell[m] == cell[n]]
        aside = (together.index(n) - (len(together) - 1) / 2) * 0.34 * size
        ahead = [((c + 0.5) * size, _HEAD + (r + 0.5) * size) for r, c in path[way:]]
        x, y = ahead[0]
        out.append(_Car(n, x + aside, y - aside, right, down, ahead, bool(last[n]), len(together) > 1))
    return out


def _direction(path: Path, way: int) -> tuple[int, int]:
    """(right, down) towards the next cell; on the last cell, from the one before."""
    (r0, c0), (r1, c1) = path[max(0, min(way, len(path) - 2)) :][:2]
    return c1 - c0, r1 - r0


def _way(canvas: Canvas, car: _Car, size: int) -> None:
    """The rest of the route, to its last cell; straight parts in one piece."""
    colour, width = _BODIES[car.slot % len(_BODIES)], max(2.0, size / 14)
    inner = zip(car.ahead, car.ahead[1:], car.ahead[2:], strict=False)
    corners = [b for a, b, c in inner if (a[0] == b[0]) != (b[0] == c[0])]
    points = [car.ahead[0], *corners, car.ahead[-1]]
    for (x0, y0), (x1, y1) in pairwise(points):
        canvas.line(x0, y0, x1, y1, width, colour, alpha=0.28)


def _body(canvas: Canvas, car: _Car, size: int) -> None:
    """Shadow, body, windscreen, lights and the slot's number."""
    colour = _BODIES[car.slot % len(_BODIES)]
    half, width = (
        0.19 * size,
        (0.34 if car.crashed else 0.46) * size,
    )  # of the body's line: half length, width

    def at(ahead: float, aside: float) -> tuple[float, float]:
        return (
            car.x + car.right * ahead - car.down * aside,
            car.y + car.down * ahead + car.right * aside,
        )

    nose, tail = at(half, 0), at(-half, 0)
    shift = 0.05 * size
    shadow = (nose[0] + shift, nose[1] + shift, tail[0] + shift, tail[1] + shift)
    canvas.line(*shadow, width, (0, 0, 0), alpha=0.3)
    canvas.line(*nose, *tail, width + max(2.0, size / 24), _GLASS)
    canvas.line(*nose, *tail, width, colour)
    glass = 0.56 * width / 2
    canvas.line(*at(1.05 * half, -glass), *at(1.05 * half, glass), max(2.0, 0.08 * size), _GLASS)
    if car.braked:
        for side in (-1, 1):
            canvas.disc(*at(-half - 0.36 * width, side * 0.3 * width), max(1.8, 0.06 * size), _BRAKE)
    scale = 2 if size >= 60 else 1
    x, y = at(-0.2 * half, 0)
    canvas.text(x + 0.5, y - GLYPH_HEIGHT * scale / 2, str(car.slot), _GLASS, scale=scale, anchor=0.5)


def _head(canvas: Canvas, env: TrafficJunction, index: int, cars: int) -> None:
    """Name and step; cars on the road, cars that got through, and whether there was a crash."""
    canvas.box(0, 0, canvas.width, _HEAD, _PAPER)
    crashes, through = int(env.crashes_B[index]), int(env.throughput_B[index])
    canvas.text(12, 8, f"JUNCTION {env.config.level}", _TEXT, scale=2)
    canvas.text(12, 28, f"STEP {int(env.t_B[index])}/{env.config.steps}", _MUTED)
    right = canvas.width - 12
    verdict = "NO CRASH" if not crashes else f"CRASHES {crashes}"
    canvas.text(right, 8, verdict, _ALARM if crashes else _TEXT, scale=2, anchor=1)
    canvas.text(right, 28, f"CARS {cars}/{env.level.cars}   THROUGH {through}", _MUTED, anchor=1)
