"""Pictures of navigation: who goes where, which landmarks are covered, who touches whom.

A disc is an agent in its colour, with the arrow of its velocity; a cross-hair is a landmark with the
circle that an agent's centre must reach, filled once one has. A red rim is a contact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marl.canvas import Canvas, Colour
from marl.envs.navigation.torch_form import COVER, REACH

if TYPE_CHECKING:
    from marl.envs.navigation.env import Navigation

_SIZE, _HEAD = 480, 40  # pixels of the window's sides and of the strip above it; even, as MP4 needs
_NEAR = 1.25  # half the window's width in units of length, unless somebody is further out
_RADIUS = REACH / 2
_AHEAD = 0.25  # units of time that the arrow of a velocity looks ahead

_PAPER: Colour = (24, 27, 33)
_FIELD: Colour = (38, 43, 51)
_GRID: Colour = (50, 56, 66)
_HOME: Colour = (72, 80, 92)  # the square in which everything starts
_TEXT: Colour = (235, 238, 242)
_MUTED: Colour = (150, 157, 168)
_MARK: Colour = (242, 205, 96)
_TOUCH: Colour = (240, 80, 72)
_TEAM: tuple[Colour, ...] = (
    (74, 144, 226), (232, 119, 46), (64, 178, 140), (190, 120, 220), (220, 100, 150), (120, 170, 60),
)  # fmt: skip


class _Window:
    """Maps the world to pixels; the scale is that of the outermost agent."""

    def __init__(self, pos_N2: np.ndarray) -> None:
        self.half = max(_NEAR, float(np.abs(pos_N2).max()) + _RADIUS)
        self.scale = _SIZE / (2 * self.half)

    def at(self, place_2: np.ndarray) -> tuple[float, float]:
        x, y = place_2.tolist()
        return (x + self.half) * self.scale, _HEAD + (self.half - y) * self.scale


def draw(env: Navigation, index: int = 0) -> np.ndarray:
    """One env as it stands now.

    Args:
        env: the batch of worlds.
        index: which of them, 0 to num_envs - 1.

    Returns:
        uint8 (520, 480, 3).
    """
    pos_N2, vel_N2, mark_N2 = (
        env.state[name][index].cpu().numpy() for name in ("pos_BN2", "vel_BN2", "landmark_BN2")
    )
    window = _Window(pos_N2)
    canvas = Canvas(_HEAD + _SIZE, _SIZE, _PAPER)
    _ground(canvas, window)
    gap_NN = np.linalg.norm(pos_N2[:, None] - mark_N2[None], axis=-1)  # agent, landmark
    covered_N = (gap_NN < COVER).any(0)
    for place_2, covered in zip(mark_N2, covered_N, strict=True):
        _landmark(canvas, window, place_2, bool(covered))
    between_NN = np.linalg.norm(pos_N2[:, None] - pos_N2[None], axis=-1) + 9.0 * np.eye(len(pos_N2))
    for i in range(len(pos_N2)):
        _agent(canvas, window, i, pos_N2[i], vel_N2[i], touches=bool((between_NN[i] < REACH).any()))
    t, collisions = int(env.state["t_B"][index]), int(env.state["collisions_B"][index])
    canvas.box(0, 0, _SIZE, _HEAD, _PAPER)  # arrows end at the strip
    canvas.text(14, 13, f"STEP {t}", _TEXT, scale=2)
    canvas.text(_SIZE / 2, 13, f"COVERED {covered_N.sum()}/{len(mark_N2)}", _MARK, scale=2, anchor=0.5)
    canvas.text(
        _SIZE - 14, 13, f"CONTACTS {collisions}", _TOUCH if collisions else _MUTED, scale=2, anchor=1.0
    )
    return canvas.image()


def _ground(canvas: Canvas, window: _Window) -> None:
    canvas.box(0, _HEAD, _SIZE, _HEAD + _SIZE, _FIELD)
    for k in np.arange(-np.floor(window.half * 2) / 2, window.half, 0.5):
        x, y = window.at(np.array([k, k]))
        canvas.line(x, _HEAD, x, _HEAD + _SIZE, 1, _GRID)
        canvas.line(0, y, _SIZE, y, 1, _GRID)
    left, top = window.at(np.array([-1.0, 1.0]))
    right, bottom = window.at(np.array([1.0, -1.0]))
    for x0, y0, x1, y1 in (
        (left, top, right, top), (left, bottom, right, bottom), (left, top, left, bottom),
        (right, top, right, bottom),
    ):  # fmt: skip
        canvas.line(x0, y0, x1, y1, 2, _HOME)


def _landmark(canvas: Canvas, window: _Window, place_2: np.ndarray, covered: bool) -> None:
    x, y = window.at(place_2)
    reach = COVER * window.scale
    canvas.disc(x, y, reach, _MARK, alpha=0.55 if covered else 0.12)
    canvas.ring(x, y, reach, 2, _MARK)
    for dx, dy in ((1.0, 0.0), (0.0, 1.0)):
        canvas.line(x - dx * reach, y - dy * reach, x + dx * reach, y + dy * reach, 1.5, _MARK)


def _agent(
    canvas: Canvas, window: _Window, i: int, place_2: np.ndarray, vel_2: np.ndarray, *, touches: bool
) -> None:
    x, y = window.at(place_2)
    radius, colour = _RADIUS * window.scale, _TEAM[i % len(_TEAM)]
    canvas.disc(x, y, radius, colour, alpha=0.72)  # what lies below stays to be seen
    canvas.ring(x, y, radius - 1, 3 if touches else 2, _TOUCH if touches else colour)
    tip_x, tip_y = window.at(place_2 + _AHEAD * vel_2)
    if np.hypot(tip_x - x, tip_y - y) > 2:
        canvas.line(x, y, tip_x, tip_y, 2.5, _TEXT)
        canvas.disc(tip_x, tip_y, 3.5, _TEXT)
    canvas.text(x - radius * 0.55, y - radius * 0.7, str(i), _TEXT, anchor=0.5)
