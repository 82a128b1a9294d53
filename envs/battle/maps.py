"""The battle maps by name: all 23 of SMAC, SMACv2's random teams, and a map that asks for messages.

Teams, limits, type orders: oxwhirl/smac d6aab33 and oxwhirl/smacv2 577ab5a. SMAC's map files are not
used: every map is 32x32 here.
CHOICE: groups start on a grid around (9, 16) and (23, 16), the places of SMAClite's flat maps, and the
enemy attack-moves to (9, 16).
1o_2r_vs_4r: Wang et al., "Learning Nearly Decomposable Value Functions via Communication Minimization" (NDQ),
ICLR 2020: the enemies and a scout start at a random place, the fighters elsewhere. Teams and the number of
type bits are NDQ's; its map file is not used.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from marl.envs.battle.units import TYPE, UNITS
from marl.errors import MarlError

SIZE = 32  # map units on each side
Team = tuple[tuple[str, int], ...]  # ((unit name, how many), ...), in order of creation


@dataclass(frozen=True, kw_only=True)
class Map:
    """One scenario.

    Args:
        allies, enemies: fixed teams; empty when teams are drawn anew each episode.
        n_allies, n_enemies: team sizes.
        limit: steps in an episode.
        ally_types, enemy_types: order of the type one-hot on each side; empty = no type bits.
        terrain: name in `marl.envs.battle.terrain`.
        ally_spawn, enemy_spawn: centres of the starting groups; the enemy attack-moves to ally_spawn.
        weights: (unit name, probability) of random teams (SMACv2), in order of the type one-hot; the last
            type must not make up a whole team.
        scouts: the first so many allies start beside the enemies, at a place that is drawn anew each episode
            (`tables.sites`); the enemies guard it. 0 on all maps of SMAC.
    """

    name: str
    n_allies: int
    n_enemies: int
    limit: int
    allies: Team = ()
    enemies: Team = ()
    ally_types: tuple[str, ...] = ()
    enemy_types: tuple[str, ...] = ()
    terrain: str = "flat"
    ally_spawn: tuple[float, float] = (9.0, 16.0)
    enemy_spawn: tuple[float, float] = (23.0, 16.0)
    weights: tuple[tuple[str, float], ...] = ()
    scouts: int = 0

    @property
    def random_teams(self) -> bool:
        """True for SMACv2's scenarios."""
        return bool(self.weights)

    @property
    def n_actions(self) -> int:
        """No-op, stop, four moves, one attack per enemy."""
        return 6 + self.n_enemies

    @property
    def type_bits(self) -> int:
        return len(self.ally_types)

    @property
    def ally_units(self) -> tuple[str, ...]:
        """Names of every type that an ally may have."""
        return tuple(name for name, _ in self.weights or self.allies)

    @property
    def enemy_units(self) -> tuple[str, ...]:
        """Names of every type that an enemy may have."""
        return tuple(name for name, _ in self.weights or self.enemies)

    @property
    def ally_shields(self) -> int:
        """1 if the allies are Protoss."""
        return int(any(UNITS[TYPE[name]].shield > 0 for name in self.ally_units))

    @property
    def enemy_shields(self) -> int:
        """1 if the enemies are Protoss."""
        return int(any(UNITS[TYPE[name]].shield > 0 for name in self.enemy_units))


_LETTERS = {
    "m": "marine", "M": "marauder", "V": "medivac", "s": "stalker", "z": "zealot", "c": "colossus",
    "g": "zergling", "b": "baneling", "h": "hydralisk", "S": "spine_crawler",
    "o": "overseer", "r": "roach", "p": "reaper",
}  # fmt: skip


def _team(text: str) -> Team:
    """Parse "2s 3z" into (("stalker", 2), ("zealot", 3))."""
    return tuple((_LETTERS[word[-1]], int(word[:-1])) for word in text.split())


def _map(
    name: str, allies: str, enemies: str, limit: int, types: tuple[str, str] = ("", ""), terrain: str = "flat"
) -> Map:
    """A fixed-team map; the allies stand in order of SMAC's unit types, the key it sorts agents by."""
    ours, theirs = _team(allies), _team(enemies)
    return Map(
        name=name, allies=ours, enemies=theirs, limit=limit, terrain=terrain,
        n_allies=sum(n for _, n in ours), n_enemies=sum(n for _, n in theirs),
        ally_types=tuple(_LETTERS[c] for c in types[0]), enemy_types=tuple(_LETTERS[c] for c in types[1]),
    )  # fmt: skip


_SZ = ("sz", "zs")  # SMAC's quirk: the same two bits mean different types on the two sides
_CSZ, _MMM, _BANE = ("csz", "csz"), ("MmV", "MmV"), ("bg", "bg")

_FIXED = (
    _map("3m", "3m", "3m", 60),
    _map("8m", "8m", "8m", 120),
    _map("25m", "25m", "25m", 150),
    _map("5m_vs_6m", "5m", "6m", 70),
    _map("8m_vs_9m", "8m", "9m", 120),
    _map("10m_vs_11m", "10m", "11m", 150),
    _map("27m_vs_30m", "27m", "30m", 180),
    _map("MMM", "2M 7m 1V", "2M 7m 1V", 150, _MMM),
    _map("MMM2", "2M 7m 1V", "3M 8m 1V", 180, _MMM),
    _map("2s3z", "2s 3z", "2s 3z", 120, _SZ),
    _map("3s5z", "3s 5z", "3s 5z", 150, _SZ),
    _map("3s5z_vs_3s6z", "3s 5z", "3s 6z", 170, _SZ),
    _map("3s_vs_3z", "3s", "3z", 150),
    _map("3s_vs_4z", "3s", "4z", 200),
    _map("3s_vs_5z", "3s", "5z", 250),
    _map("1c3s5z", "1c 3s 5z", "1c 3s 5z", 180, _CSZ),
    _map("2m_vs_1z", "2m", "1z", 150),
    _map("corridor", "6z", "24g", 400, terrain="corridor"),
    _map("6h_vs_8z", "6h", "8z", 150),
    _map("2s_vs_1sc", "2s", "1S", 300),
    _map("so_many_baneling", "7z", "32b", 100),
    _map("bane_vs_bane", "4b 20g", "4b 20g", 200, _BANE),
    _map("2c_vs_64zg", "2c", "64g", 400, terrain="cliff"),
)

_RACES = {  # SMACv2's types in one-hot order with their weights; the last is its exception type
    "terran": (("marine", 0.45), ("marauder", 0.45), ("medivac", 0.1)),
    "protoss": (("stalker", 0.45), ("zealot", 0.45), ("colossus", 0.1)),
    "zerg": (("zergling", 0.45), ("hydralisk", 0.45), ("baneling", 0.1)),
}
_SIZES = {"5v5": (5, 5), "10v10": (10, 10), "20v20": (20, 20), "10v11": (10, 11), "20v23": (20, 23)}
_V2_LIMIT = 200  # steps, every scenario of SMACv2


def _random_map(race: str, size: str) -> Map:
    weights = _RACES[race]
    types = tuple(name for name, _ in weights)
    n_allies, n_enemies = _SIZES[size]
    return Map(
        name=f"v2/{race}_{size}", n_allies=n_allies, n_enemies=n_enemies, limit=_V2_LIMIT, weights=weights,
        ally_types=types, enemy_types=types, ally_spawn=(16.0, 16.0),
    )  # fmt: skip


# CHOICE: fighters start in the middle, so that every place is equally far; agents in the order of StarCraft's
# unit ids. DEVIATION: 60 steps, where NDQ's map gives 50; here two roaches shoot for 32 steps, once there.
_SCOUTED = (
    Map(
        name="1o_2r_vs_4r", allies=_team("1o 2r"), enemies=_team("4p"), n_allies=3, n_enemies=4, limit=60,
        ally_types=("overseer", "roach"), enemy_types=("reaper",), ally_spawn=(16.0, 16.0), scouts=1,
    ),
)  # fmt: skip

SMAC = tuple(m.name for m in _FIXED)  # names of SMAC's maps
MAPS: dict[str, Map] = {m.name: m for m in (*_FIXED, *_SCOUTED)} | {
    m.name: m for m in (_random_map(race, size) for race in _RACES for size in _SIZES)
}


def find(name: str) -> Map:
    """The map of this name.

    Raises:
        MarlError: there is none; the message lists the closest names.
    """
    if name in MAPS:
        return MAPS[name]
    close = difflib.get_close_matches(name, MAPS, n=4, cutoff=0.4) or list(MAPS)[:4]
    raise MarlError(f"map={name!r} is no battle map: did you mean {', '.join(close)}? ({len(MAPS)} in all)")
