"""Pictures of hunts: predators with their numbers, what they see, the prey, who has reached it."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from marl.canvas import Canvas, Colour

if TYPE_CHECKING:
    from marl.envs.predator_prey.continuous import ContinuousPredatorPrey
    from marl.envs.predator_prey.env import PredatorPrey

# Colours and sizes. CHOICE
_PAPER, _GROUND, _LINES, _INK = (245, 243, 238), (232, 229, 220), (214, 210, 199), (40, 40, 48)
_PREDATOR, _SEEN, _CAUGHT = (62, 96, 168), (198, 213, 237), (84, 150, 92)
_PREY, _WHITE = (206, 82, 62), (255, 255, 255)
_SIDE, _MARGIN, _HEADER = 480, 12, 34  # pixels: about the grid's side, its margin, the text above it


def draw(env: PredatorPrey, index: int) -> np.ndarray:
    """One env as it stands, RGB uint8 (H, W, 3).

    Cells that some predator sees are tinted; a predator on the prey is green, another one blue. Predators on
    one cell stand around its centre.
    """
    level, D = env.level, env.level.size
    cells, prey = env.cell_BN[index].tolist(), int(env.prey_B[index])
    unit = max(16, _SIDE // D // 2 * 2)  # even sides, as MP4 needs
    canvas = Canvas(D * unit + _HEADER + _MARGIN, D * unit + 2 * _MARGIN, _PAPER)
    _grid(canvas, D, unit, seen=set(env.tables.near_CW[env.cell_BN[index]].flatten().tolist()))
    x, y = _centre(prey, D, unit)
    canvas.box(x - unit / 2 + 1, y - unit / 2 + 1, x + unit / 2, y + unit / 2, _PREY, alpha=0.45)
    crowd, drawn = Counter(cells), Counter[int]()
    for i, cell in enumerate(cells):
        dx, dy, radius = _stand(drawn[cell], crowd[cell], unit, around=cell == prey)
        drawn[cell] += 1
        x, y = _centre(cell, D, unit)
        _predator(canvas, x + dx, y + dy, radius, str(i), _CAUGHT if cell == prey else _PREDATOR)
    x, y = _centre(prey, D, unit)
    canvas.disc(x, y, (0.16 if crowd[prey] else 0.3) * unit, _PREY)
    canvas.disc(x, y, (0.06 if crowd[prey] else 0.12) * unit, _WHITE)
    _header(canvas, f"STEP {int(env.t_B[index])}/{level.limit}", crowd[prey], level.n_agents)
    return canvas.image()


def _centre(cell: int, D: int, unit: int) -> tuple[float, float]:
    return _MARGIN + (cell % D + 0.5) * unit, _HEADER + (cell // D + 0.5) * unit


def _grid(canvas: Canvas, D: int, unit: int, *, seen: set[int]) -> None:
    for cell in range(D * D):
        x, y = _centre(cell, D, unit)
        left, top = x - unit / 2, y - unit / 2
        canvas.box(left, top, left + unit, top + unit, _LINES)
        canvas.box(left + 1, top + 1, left + unit, top + unit, _SEEN if cell in seen else _GROUND)


def _stand(k: int, crowd: int, unit: int, *, around: bool) -> tuple[float, float, float]:
    """Where the k-th of a crowd stands from its cell's centre, and its radius; all in pixels."""
    if crowd == 1 and not around:
        return 0.0, 0.0, 0.34 * unit
    angle = 2 * math.pi * k / crowd - (math.pi / 2 if crowd > 2 else math.pi)
    radius = min(0.2, 0.27 * math.sin(math.pi / max(crowd, 2))) * unit
    return 0.27 * unit * math.cos(angle), 0.27 * unit * math.sin(angle), max(radius, 3.0)


def _predator(canvas: Canvas, x: float, y: float, radius: float, name: str, colour: Colour) -> None:
    canvas.disc(x, y, radius + 1.0, _WHITE)
    canvas.disc(x, y, radius, colour)
    scale = int(radius // 8) or (1 if radius >= 5 else 0)
    if scale:
        canvas.text(x + scale / 2, y - 3.5 * scale, name, _WHITE, scale=scale, anchor=0.5)


def draw_continuous(env: ContinuousPredatorPrey, index: int) -> np.ndarray:
    """One env of the continuous variant as it stands, RGB uint8 (H, W, 3).

    A faint disc shows how near the prey a predator's centre must come to touch it; lines show where
    predators will be in three steps at their velocity.
    """
    from marl.envs.predator_prey import continuous as c

    half, wall = _SIDE / 2, 0.1  # pixels of a unit of length; a predator's disc reaches beyond [-1, 1]
    half /= 1 + wall

    def at(point: list[float]) -> tuple[float, float]:
        return _MARGIN + half * (1 + wall + point[0]), _HEADER + half * (1 + wall - point[1])

    canvas = Canvas(_SIDE + _HEADER + _MARGIN, _SIDE + 2 * _MARGIN, _PAPER)
    canvas.box(_MARGIN, _HEADER, _MARGIN + _SIDE, _HEADER + _SIDE, _LINES)
    canvas.box(_MARGIN + 2, _HEADER + 2, _MARGIN + _SIDE - 2, _HEADER + _SIDE - 2, _GROUND)
    prey_2, vel_N2, pos_N2 = env.prey_B2[index], env.vel_BN2[index], env.pos_BN2[index]
    x, y = at(prey_2.tolist())
    canvas.disc(x, y, c.CONTACT * half, _PREY, alpha=0.25)
    canvas.disc(x, y, c.PREY_RADIUS * half, _PREY)
    ahead_N2 = (pos_N2 + 3 * c.STEP_LENGTH * vel_N2).clamp(-1.0, 1.0)
    touching_N = (pos_N2 - prey_2).square().sum(-1) < c.CONTACT**2
    rows = zip(pos_N2.tolist(), ahead_N2.tolist(), touching_N.tolist(), strict=True)
    for i, (here, ahead, touching) in enumerate(rows):
        colour = _CAUGHT if touching else _PREDATOR
        canvas.line(*at(here), *at(ahead), 3.0, colour, alpha=0.5)
        _predator(canvas, *at(here), c.PREDATOR_RADIUS * half, str(i), colour)
    canvas.disc(x, y, 0.4 * c.PREY_RADIUS * half, _WHITE)
    touching = int(touching_N.sum())
    _header(canvas, f"STEP {int(env.t_B[index])}/{env.config.limit}", touching, env.config.n_agents)
    return canvas.image()


def _header(canvas: Canvas, step: str, there: int, n_agents: int) -> None:
    canvas.text(_MARGIN, 12, step, _INK, scale=2)
    colour = _CAUGHT if there else _INK
    canvas.text(canvas.width - _MARGIN, 12, f"{there}/{n_agents} ON PREY", colour, scale=2, anchor=1.0)
