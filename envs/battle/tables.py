"""Constants of one map as flat arrays: the one source that both forms of the simulation read."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from marl.envs.battle import terrain
from marl.envs.battle.config import Config
from marl.envs.battle.maps import SIZE, Map, find
from marl.envs.battle.units import (
    ENERGY_MAX,
    ENERGY_REGENERATION,
    ENERGY_START,
    HEAL_PER_ENERGY,
    HEAL_RATE,
    HEAL_START_ENERGY,
    LOOPS_PER_SECOND,
    SHIELD_DELAY_LOOPS,
    SHIELD_REGENERATION,
    TYPE,
    UNITS,
    Unit,
)

TICKS = 8  # game loops in one step (SMAC's step_mul)
LOOKS = 12  # directions of the view cone (SMACv2's num_fov_actions)
DRAWS = 8  # random teams drawn before the rejection gives up; all fail with probability 0.1 ** 8 at most
SIGHT, SHOOT = 9.0, 6.0  # SMAC's ranges for every unit type, centre to centre
MIN_SHOOT = 2.0  # SMACv2's floor of true attack ranges
# Map units from the fighters to where scouts may be. CHOICE: far beyond sight (9); who goes straight has time
# for a fight, who searches all places has not.
SITE_DISTANCE = 14.0
PUSH_CAP = 0.25  # map units that collisions may move a unit in one tick. CHOICE: keeps crowds calm

COLUMNS = (
    "radius", "step", "range", "scan2", "cooldown", "hp", "shield", "armour", "regeneration", "air",
    "hits_air", "heals", "blast", "ahead", "across", "hits", "max_cooldown", "sight", "shoot", "layer",
    "energy",
)  # fmt: skip
REWARDS = ("abs", "clamp", "signed", "sparse")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the simulation needs to know of a map and its options.

    Args:
        map, terrain: the scenario and its ground.
        units: float32 (types, len(COLUMNS)), one row per unit type, per tick where it is a rate.
        damage: float32 (types, types), points per hit of attacker on victim.
        ally_bit, enemy_bit: int32 (types,), place in the type one-hot; -1 = none.
        places: float32 (U, 2), starting places (of scouts and their enemies from their site); on random teams
            offsets of a formation around a point.
        teams: int32 (U,), types of fixed teams; on random teams the three drawn types come first.
        cumulative: float32 (2,), cumulative weights of the first two drawn types.
        directions: float32 (LOOKS, 2), unit vectors of the view cone.
        sites: float32 (LOOKS, 2), places of which scouts and enemies start at one; of maps with scouts.
        scalars: named numbers of one tick.
    """

    map: Map
    terrain: terrain.Terrain
    units: np.ndarray
    damage: np.ndarray
    ally_bit: np.ndarray
    enemy_bit: np.ndarray
    places: np.ndarray
    teams: np.ndarray
    cumulative: np.ndarray
    directions: np.ndarray
    sites: np.ndarray
    scalars: dict[str, float]
    reward: str
    cone: bool
    attack_base: int  # first attack action
    n_actions: int
    has_healers: bool
    has_air: bool
    has_shields: bool


def build(config: Config) -> Tables:
    """The tables of a config."""
    scenario = find(config.map)
    tick = 1.0 / config.time_base  # seconds
    names = set(scenario.ally_units + scenario.enemy_units)
    attack_base = 6 + (LOOKS if config.cone else 0)
    reward = config.reward
    if reward == "auto":
        reward = "clamp" if scenario.random_teams else "abs"
    angle = 2 * math.pi / LOOKS
    turns = [(math.cos(k * angle), math.sin(k * angle)) for k in range(LOOKS)]
    weights = np.cumsum([w for _, w in scenario.weights])[:2] if scenario.random_teams else [0, 0]
    return Tables(
        map=scenario,
        terrain=terrain.build(scenario.terrain),
        units=np.array([_row(u, tick, scenario.random_teams) for u in UNITS], np.float32),
        damage=np.array([[_damage(a, v) for v in UNITS] for a in UNITS], np.float32),
        ally_bit=_bits(scenario.ally_types),
        enemy_bit=_bits(scenario.enemy_types),
        places=np.array(_places(scenario), np.float32),
        teams=_teams(scenario),
        cumulative=np.array(weights, np.float32),
        directions=np.array(turns, np.float32),
        sites=np.array([_site(scenario, turn) for turn in turns], np.float32),
        scalars={
            "loops": LOOPS_PER_SECOND * tick,
            "shield_step": SHIELD_REGENERATION * tick,
            "shield_delay": SHIELD_DELAY_LOOPS,
            "heal_step": HEAL_RATE * tick,
            "heal_per_energy": HEAL_PER_ENERGY,
            "heal_start": HEAL_START_ENERGY,
            "energy_step": ENERGY_REGENERATION * tick,
            "energy_max": ENERGY_MAX,
            "spawn_jitter": config.spawn_jitter,
            "cooldown_jitter": config.cooldown_jitter,
            "push_cap": PUSH_CAP,
            "goal_x": scenario.ally_spawn[0],
            "goal_y": scenario.ally_spawn[1],
            "cone_cosine": math.cos(angle / 2),
        },
        reward=reward,
        cone=config.cone,
        attack_base=attack_base,
        n_actions=attack_base + scenario.n_enemies,
        has_healers=any(UNITS[TYPE[name]].heals for name in names),
        has_air=any(UNITS[TYPE[name]].air for name in names),
        has_shields=any(UNITS[TYPE[name]].shield > 0 for name in names),
    )


def _row(unit: Unit, tick: float, true_ranges: bool) -> list[float]:
    """One row in the order of COLUMNS."""
    layer = 0 if unit.air else terrain.CLIFF if unit.walks_cliffs else terrain.GROUND
    return [
        unit.radius,
        unit.speed * tick,
        unit.range,
        (unit.scan + unit.radius) ** 2,
        unit.cooldown * LOOPS_PER_SECOND,
        unit.hp,
        unit.shield,
        unit.armour,
        unit.regeneration * tick,
        unit.air,
        unit.hits_air,
        unit.heals,
        unit.blast,
        unit.splash_ahead / 2,
        unit.splash_across / 2,
        unit.hits,
        unit.max_cooldown,
        unit.sight if true_ranges else SIGHT,
        (max(unit.shoot_range, MIN_SHOOT) if true_ranges else SHOOT) if unit.armed else 0.0,
        layer,
        ENERGY_START if unit.heals else 0.0,
    ]


def _damage(attacker: Unit, victim: Unit) -> float:
    return attacker.damage + (attacker.bonus if attacker.bonus_against in victim.attributes else 0.0)


def _bits(types: tuple[str, ...]) -> np.ndarray:
    out = np.full(len(UNITS), -1, np.int32)
    for place, name in enumerate(types):
        out[TYPE[name]] = place
    return out


def _teams(scenario: Map) -> np.ndarray:
    out = np.zeros(scenario.n_allies + scenario.n_enemies, np.int32)
    if scenario.random_teams:
        out[:3] = [TYPE[name] for name, _ in scenario.weights]
    else:
        out[:] = [TYPE[n] for team in (scenario.allies, scenario.enemies) for n, k in team for _ in range(k)]
    return out


def _places(scenario: Map) -> list[tuple[float, float]]:
    """Starting places in order of creation; the allies face east, the enemies west."""
    if scenario.random_teams:
        names = [name for name, _ in scenario.weights]
        # CHOICE: places half the widest unit apart; most teams hold few of these, and collisions spread them
        gap = max(2 * UNITS[TYPE[name]].radius for name in names) / 2
        return list(_cluster(scenario.n_allies + scenario.n_enemies, gap))
    places: list[tuple[float, float]] = []
    for units, (cx, cy), facing in _groups(scenario):
        gap = max(2 * unit.radius for unit in units) + 0.125  # CHOICE: just wider than the widest unit
        rows = min(len(units), max(3, math.ceil(math.sqrt(len(units)))))
        columns = math.ceil(len(units) / rows)
        # short weapons in front; CHOICE: SMAC's files mix them, SMAClite's stand on a grid
        order = sorted(range(len(units)), key=lambda k: units[k].range if not units[k].heals else 99.0)
        spot = [(0.0, 0.0)] * len(units)
        for place, k in enumerate(order):
            column, row = divmod(place, rows)
            height = min(rows, len(units) - column * rows)
            x = cx + facing * gap * ((columns - 1) / 2 - column)
            spot[k] = (x, cy + gap * (row - (height - 1) / 2))
        places += spot
    return places


def _groups(scenario: Map) -> list[tuple[list[Unit], tuple[float, float], float]]:
    """Who starts together, around which point, facing east (1) or west (-1); in order of creation.

    Of groups that start at a drawn site, places are counted from it.
    """
    allies, enemies = (
        [UNITS[TYPE[name]] for name, count in team for _ in range(count)]
        for team in (scenario.allies, scenario.enemies)
    )
    if not scenario.scouts:
        return [(allies, scenario.ally_spawn, 1.0), (enemies, scenario.enemy_spawn, -1.0)]
    scouts, fighters = allies[: scenario.scouts], allies[scenario.scouts :]
    return [(scouts, (0.0, 0.0), 1.0), (fighters, scenario.ally_spawn, 1.0), (enemies, (0.0, 0.0), -1.0)]


def _site(scenario: Map, direction: tuple[float, float]) -> tuple[float, float]:
    """A place where scouts and enemies may start."""
    (x, y), (east, north) = scenario.ally_spawn, direction
    return x + SITE_DISTANCE * east, y + SITE_DISTANCE * north


@functools.cache
def _cluster(count: int, gap: float) -> tuple[tuple[float, float], ...]:
    """Offsets of a square grid, nearest to its centre first."""
    side = math.ceil(math.sqrt(count)) | 1
    half = side // 2
    grid = [(gap * i, gap * j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
    return tuple(sorted(grid, key=lambda p: (p[0] ** 2 + p[1] ** 2, p))[:count])


assert SIZE == 32  # the native form has it as a constant
