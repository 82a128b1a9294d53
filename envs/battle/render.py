"""Pictures of battles, seen from above: who stands where, how healthy, and who shoots whom.

Blue discs are the agents, orange ones the enemy; the letter names the type (legend below the map), the
bars above a disc its shield (blue), hit points (green to red) and a medivac's energy (violet). A bright
line is a shot of the last step, a faint one an aim, a green one healing, a cross a fallen unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marl.canvas import GLYPH_HEIGHT, GLYPH_WIDTH, Canvas, Colour
from marl.envs.battle.maps import SIZE
from marl.envs.battle.terrain import GROUND
from marl.envs.battle.units import ENERGY_MAX, LOOPS_PER_SECOND, UNITS

if TYPE_CHECKING:
    from marl.envs.battle.env import Battle

_WIDTH, _FIELD = 768, 576  # pixels of the map's window; all sides are even, as MP4 needs
_HEAD, _FOOT = 40, 24  # pixels of the strips above and below it
_NEAR = 36.0  # pixels per map unit at most; a marine is then 27 pixels wide
_GRID = 4  # map units between grid lines
_MARGIN = 2.5  # map units kept free around the outermost units
_TICKS = 8  # ticks in a step

_PAPER: Colour = (24, 27, 33)
_LOW: Colour = (44, 52, 48)  # ground at height 0
_HIGH: Colour = (80, 90, 82)  # ground at height 1
_CLIFF: Colour = (92, 80, 66)  # only cliff walkers pass
_ROCK: Colour = (34, 37, 42)
_EDGE: Colour = (122, 116, 104)
_TEXT: Colour = (235, 238, 242)
_MUTED: Colour = (150, 157, 168)
_TEAM: tuple[Colour, Colour] = ((74, 144, 226), (232, 119, 46))  # blue and orange: apart for every eye
_FLASH: tuple[Colour, Colour] = ((170, 215, 255), (255, 205, 120))
_SHIELD: Colour = (110, 190, 255)
_ENERGY: Colour = (190, 130, 255)
_HEAL: Colour = (110, 235, 130)
_BLACK: Colour = (0, 0, 0)

_LETTERS = {
    "marine": "M", "marauder": "R", "medivac": "+", "stalker": "S", "zealot": "Z", "colossus": "C",
    "zergling": "G", "baneling": "B", "hydralisk": "H", "spine_crawler": "#",
}  # fmt: skip


class _View(NamedTuple):
    """One battle as arrays; x, y and radius are pixels of the picture."""

    scale: float  # pixels per map unit
    west: float  # map coordinates of the window's lower left corner
    south: float
    x_U: np.ndarray
    y_U: np.ndarray
    radius_U: np.ndarray
    team_U: np.ndarray  # 0 agents, 1 enemies
    alive_U: np.ndarray
    target_U: np.ndarray  # unit index, -1 = none
    fired_U: np.ndarray  # shot or hit within the last step
    type_U: np.ndarray
    hp_U: np.ndarray  # fractions of the full value
    shield_U: np.ndarray
    energy_U: np.ndarray


def draw(env: Battle, index: int = 0) -> np.ndarray:
    """The battle of one env as it stands now.

    Args:
        env: the batch of battles.
        index: which of them, 0 to num_envs - 1.

    Returns:
        uint8 (640, 768, 3).
    """
    view = _view(env, index)
    canvas = _ground(env, view)
    for u in np.flatnonzero(~view.alive_U).tolist():
        _cross(canvas, view, u)
    for u in np.flatnonzero(view.alive_U & (view.target_U >= 0)).tolist():
        _aim(canvas, view, u)
    air_U = np.array([UNITS[t].air for t in view.type_U])
    order = np.lexsort((view.y_U, air_U))  # flyers above walkers, the nearer (lower) above the farther
    living = [u for u in order.tolist() if view.alive_U[u]]
    for u in living:
        _disc(canvas, view, u)
    for u in living:
        _bars(canvas, view, u)
    _head(canvas, env, view, index)
    _foot(canvas, env, view)
    return canvas.image()


def _view(env: Battle, index: int) -> _View:
    state = {name: value[index].cpu().numpy() for name, value in env.state.items()}
    types = state["type_BU"]
    full_hp, full_shield, cooldown = (_column(types, name) for name in ("hp", "shield", "cooldown"))
    loops = _TICKS * LOOPS_PER_SECOND / env.config.time_base  # game loops in a step
    fired_U = state["cooldown_BU"] > cooldown * LOOPS_PER_SECOND - loops
    n_allies = env.map.n_allies
    scale, west, south = _camera(state["pos_BU2"])
    return _View(
        scale=scale,
        west=west,
        south=south,
        x_U=(state["pos_BU2"][:, 0] - west) * scale,
        y_U=_HEAD + _FIELD - (state["pos_BU2"][:, 1] - south) * scale,
        radius_U=_column(types, "radius") * scale,
        team_U=(np.arange(len(types)) >= n_allies).astype(int),
        alive_U=state["hp_BU"] > 0,
        target_U=state["target_BU"],
        fired_U=fired_U & (state["t_B"] > 0),  # at the start a cooldown is only the jitter
        type_U=types,
        hp_U=state["hp_BU"] / full_hp,
        shield_U=state["shield_BU"] / np.maximum(full_shield, 1.0),
        energy_U=state["energy_BU"] / ENERGY_MAX,
    )


def _camera(pos_U2: np.ndarray) -> tuple[float, float, float]:
    """Pixels per map unit and the window's lower left corner, so that all units, also the fallen, are in it.

    A continuous function of the positions, so that a film does not jump; never farther than the whole map.
    """
    low, high = pos_U2.min(0) - _MARGIN, pos_U2.max(0) + _MARGIN
    width, height = high - low
    scale = float(np.clip(min(_WIDTH / width, _FIELD / height), _FIELD / SIZE, _NEAR))
    corner = []
    for middle, pixels in zip((low + high) / 2, (_WIDTH, _FIELD), strict=True):
        span = pixels / scale
        start = middle - span / 2
        # within the map while it fills the window, else the map in the middle
        corner.append(float(np.clip(start, 0, SIZE - span)) if span <= SIZE else (SIZE - span) / 2)
    return scale, corner[0], corner[1]


def _column(types_U: np.ndarray, name: str) -> np.ndarray:
    """A number of the unit table for every unit, float32 (U,)."""
    return np.array([getattr(UNITS[t], name) for t in types_U], np.float32)


def _ground(env: Battle, view: _View) -> Canvas:
    """Terrain: higher ground lighter, cliffs brown, rock dark, each with a bright edge; a grid."""
    canvas = Canvas(_HEAD + _FIELD + _FOOT, _WIDTH, _PAPER)
    walk_YX, height_YX = env.terrain.walk_XY.T, env.terrain.height_XY.T
    colour_YX3 = np.asarray(_LOW, np.float32) + height_YX[..., None] * np.subtract(_HIGH, _LOW)
    colour_YX3[(walk_YX & GROUND) == 0] = _CLIFF
    colour_YX3[walk_YX == 0] = _ROCK
    x_W = np.floor(view.west + (np.arange(_WIDTH) + 0.5) / view.scale).astype(int)  # cell of every column
    y_F = np.floor(view.south + (_FIELD - np.arange(_FIELD) - 0.5) / view.scale).astype(int)  # and row
    columns, rows = np.flatnonzero((x_W >= 0) & (x_W < SIZE)), np.flatnonzero((y_F >= 0) & (y_F < SIZE))
    x_W, y_F = x_W[columns], y_F[rows]
    part = canvas.pixels_HW3[_HEAD + rows[0] : _HEAD + rows[-1] + 1, columns[0] : columns[-1] + 1]
    line_YW3, level_YW = colour_YX3[:, x_W], walk_YX[:, x_W]  # a line of pixels for every row of cells
    line_YW3[:, 1:][level_YW[:, 1:] != level_YW[:, :-1]] = _EDGE
    part[:] = line_YW3[y_F]
    for i in np.flatnonzero(y_F[1:] != y_F[:-1]).tolist():
        part[i + 1][level_YW[y_F[i + 1]] != level_YW[y_F[i]]] = _EDGE
    bottom = _HEAD + _FIELD
    for i in range(0, SIZE + 1, _GRID):
        x, y = (i - view.west) * view.scale, bottom - (i - view.south) * view.scale
        canvas.box(x, _HEAD, x + 1, bottom, _TEXT, alpha=0.05)
        if _HEAD <= y < bottom:
            canvas.box(columns[0], y, columns[-1] + 1, y + 1, _TEXT, alpha=0.05)
    return canvas


def _cross(canvas: Canvas, view: _View, u: int) -> None:
    x, y, r = view.x_U[u], view.y_U[u], 0.55 * view.radius_U[u]
    for sign in (-1, 1):
        canvas.line(x - r, y - sign * r, x + r, y + sign * r, 2.5, _BLACK, alpha=0.5)
        canvas.line(x - r, y - sign * r, x + r, y + sign * r, 1.5, _TEAM[view.team_U[u]], alpha=0.6)


def _aim(canvas: Canvas, view: _View, u: int) -> None:
    """A line from the edge of u to its target's centre."""
    v = view.target_U[u]
    heals = UNITS[view.type_U[u]].heals
    x0, y0, x1, y1 = view.x_U[u], view.y_U[u], view.x_U[v], view.y_U[v]
    if heals:
        canvas.line(x0, y0, x1, y1, 2.5, _HEAL, alpha=0.8)
    elif view.fired_U[u]:
        colour = _FLASH[view.team_U[u]]
        canvas.line(x0, y0, x1, y1, 2.0, colour, alpha=0.9)
        canvas.ring(x1, y1, view.radius_U[v] + 2.5, 2.0, colour, alpha=0.8)
    else:
        canvas.line(x0, y0, x1, y1, 1.0, _FLASH[view.team_U[u]], alpha=0.3)


def _disc(canvas: Canvas, view: _View, u: int) -> None:
    x, y, r = view.x_U[u], view.y_U[u], view.radius_U[u]
    colour = _TEAM[view.team_U[u]]
    if UNITS[view.type_U[u]].air:
        canvas.disc(x + 4, y + 8, r, _BLACK, alpha=0.3)  # its shadow on the ground
    canvas.disc(x, y, r, _BLACK, alpha=0.85)
    canvas.disc(x, y, r - 1.2, colour)
    letter = _LETTERS[UNITS[view.type_U[u]].name]
    scale = 2 if r >= 2 * GLYPH_HEIGHT * 0.75 else 1
    left, top = x - GLYPH_WIDTH * scale / 2, y - GLYPH_HEIGHT * scale / 2
    canvas.text(left, top, letter, (255, 255, 255), scale=scale)


def _bars(canvas: Canvas, view: _View, u: int) -> None:
    """Fractions of shield, hit points and energy above the disc."""
    unit = UNITS[view.type_U[u]]
    half = float(view.radius_U[u])
    left, right = view.x_U[u] - half, view.x_U[u] + half
    bottom = view.y_U[u] - view.radius_U[u] - 2
    hp = float(view.hp_U[u])
    rows = [(hp, (round(230 * min(1.0, 2 - 2 * hp)), round(205 * min(1.0, 2 * hp)), 60), 3)]
    if unit.shield > 0:
        rows.append((float(view.shield_U[u]), _SHIELD, 2))
    if unit.heals:
        rows.append((float(view.energy_U[u]), _ENERGY, 2))
    for fraction, colour, height in rows:
        canvas.box(left - 1, bottom - height - 1, right + 1, bottom + 1, _BLACK, alpha=0.75)
        canvas.box(left, bottom - height, left + (right - left) * fraction, bottom, colour)
        bottom -= height + 1


def _head(canvas: Canvas, env: Battle, view: _View, index: int) -> None:
    """Name and step in the middle; each side's living units and its share of hit points and shields."""
    middle, width = canvas.width / 2, 240
    hp_U, shield_U = _column(view.type_U, "hp"), _column(view.type_U, "shield")
    left_U = view.hp_U * hp_U + view.shield_U * shield_U
    step = int(env.state["t_B"][index])
    canvas.text(middle, 6, env.map.name, _TEXT, scale=2, anchor=0.5)
    canvas.text(middle, 26, f"STEP {step}/{env.map.limit}", _MUTED, anchor=0.5)
    for team, (start, sign, anchor) in enumerate(((10, 1, 0.0), (canvas.width - 10, -1, 1.0))):
        mine = view.team_U == team
        share = float(left_U[mine].sum() / (hp_U + shield_U)[mine].sum())
        alive = int((view.alive_U & mine).sum())
        name = "AGENTS" if team == 0 else "ENEMIES"
        canvas.text(start, 8, f"{name} {alive}/{int(mine.sum())}", _TEXT, anchor=anchor)
        for part, alpha in ((1.0, 0.25), (share, 1.0)):
            end = start + sign * width * part
            canvas.box(min(start, end), 22, max(start, end), 32, _TEAM[team], alpha=alpha)


def _foot(canvas: Canvas, env: Battle, view: _View) -> None:
    """What the letters mean."""
    names = [UNITS[t].name for t in sorted(set(view.type_U.tolist()))]
    legend = "   ".join(f"{_LETTERS[name]} {name.replace('_', ' ')}" for name in names)
    canvas.text(10, canvas.height - 16, legend, _MUTED)
