"""Pictures of finite worlds: the rooms with their goals, or states on a circle with where they lead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from marl.canvas import Canvas, Colour
from marl.envs.momdp.config import FOUR_ROOMS

if TYPE_CHECKING:
    from marl.envs.momdp.env import FiniteWorld

# Colours and sizes. CHOICE
_PAPER, _WALL, _FLOOR, _LINES, _INK = (
    (245, 243, 238),
    (92, 92, 104),
    (232, 229, 220),
    (214, 210, 199),
    (40, 40, 48),
)
_WALKER, _WHITE = (40, 40, 48), (255, 255, 255)
_GOALS: tuple[Colour, ...] = (
    (206, 82, 62),
    (62, 96, 168),
    (84, 150, 92),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
_UNIT, _MARGIN, _HEADER, _SIDE = 34, 12, 34, 460  # pixels


def draw(world: FiniteWorld, index: int) -> np.ndarray:
    """One walker's world as it stands, RGB uint8 (H, W, 3)."""
    canvas = _rooms(world, index) if world.tables.cells else _circle(world, index)
    state, t = int(world.state_B[index]), int(world.t_B[index])
    canvas.text(_MARGIN, 10, f"STEP {t}/{world.config.limit}   STATE {state}", _INK, scale=2)
    return canvas.image()


def _rooms(world: FiniteWorld, index: int) -> Canvas:
    rows, columns = len(FOUR_ROOMS), len(FOUR_ROOMS[0])
    canvas = Canvas(rows * _UNIT + _HEADER + _MARGIN, columns * _UNIT + 2 * _MARGIN, _PAPER)

    def corner(cell: tuple[int, int]) -> tuple[float, float]:
        return _MARGIN + cell[1] * _UNIT, _HEADER + cell[0] * _UNIT

    for i, row in enumerate(FOUR_ROOMS):
        for j, mark in enumerate(row):
            x, y = corner((i, j))
            canvas.box(x, y, x + _UNIT, y + _UNIT, _WALL if mark == "#" else _LINES)
            if mark == " ":
                canvas.box(x + 1, y + 1, x + _UNIT, y + _UNIT, _FLOOR)
    for k, goal in enumerate(world.tables.goals):
        x, y = corner(world.tables.cells[goal])
        canvas.box(x + 1, y + 1, x + _UNIT, y + _UNIT, _GOALS[k % len(_GOALS)])
        canvas.text(x + _UNIT / 2 + 1, y + _UNIT / 2 - 7, str(k), _WHITE, scale=2, anchor=0.5)
    x, y = corner(world.tables.cells[int(world.state_B[index])])
    canvas.disc(x + _UNIT / 2, y + _UNIT / 2, 0.36 * _UNIT, _WHITE)
    canvas.disc(x + _UNIT / 2, y + _UNIT / 2, 0.3 * _UNIT, _WALKER)
    return canvas


def _circle(world: FiniteWorld, index: int) -> Canvas:
    """States on a circle; lines from the walker's state to where it may lead, the wider the likelier."""
    canvas = Canvas(_SIDE + _HEADER, _SIDE, _PAPER)
    S = world.spec.state_size
    radius, dot = _SIDE / 2 - 2 * _MARGIN, max(3.0, min(9.0, 0.35 * math.pi * _SIDE / S))

    def place(state: int) -> tuple[float, float]:
        angle = 2 * math.pi * state / S - math.pi / 2
        return _SIDE / 2 + radius * math.cos(angle), _HEADER + _SIDE / 2 + radius * math.sin(angle)

    here = int(world.state_B[index])
    share_S = world.tables.model.next_SAS[here].mean(0)
    for to in share_S.nonzero().flatten().tolist():
        canvas.line(*place(here), *place(to), 1.0 + 14 * float(share_S[to]), _LINES)
    for state in range(S):
        canvas.disc(*place(state), dot, _WALL)
    for k, goal in enumerate(world.tables.goals):
        canvas.disc(*place(goal), 1.5 * dot, _GOALS[k % len(_GOALS)])
    canvas.disc(*place(here), 1.1 * dot, _WHITE)
    canvas.disc(*place(here), 0.8 * dot, _WALKER)
    return canvas
