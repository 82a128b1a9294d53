"""Who is who: raw units of the game as rows of battle's state, found again by their tags.

Agents are the units of player 1 sorted by (unit_type, x, y), enemies those of player 2 in the order of the
game's list. SMAC's maps give the allied types numbers of their own ("RL units": passive copies that never
attack by themselves), rising in the order of battle's teams; the enemy has the game's numbers.
Source: oxwhirl/smac d6aab33.

| symbol | meaning |
|---|---|
| N, E, U | allies, enemies, both |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from marl.envs.battle.maps import Map
from marl.envs.battle.torch_form import State
from marl.envs.battle.units import TYPE
from marl.errors import MarlError

ALLY, ENEMY = 1, 2  # owners, in the raw interface
# Numbers of unit types in the game's data (any patch).
ENEMY_TYPES = {
    48: "marine", 51: "marauder", 54: "medivac", 74: "stalker", 73: "zealot", 4: "colossus",
    105: "zergling", 9: "baneling", 107: "hydralisk", 98: "spine_crawler",
}  # fmt: skip
RACES = {
    "marine": "Terran", "marauder": "Terran", "medivac": "Terran", "stalker": "Protoss", "zealot": "Protoss",
    "colossus": "Protoss", "zergling": "Zerg", "baneling": "Zerg", "hydralisk": "Zerg",
    "spine_crawler": "Zerg",
}  # fmt: skip


def complete(scenario: Map, units: Iterable[Any]) -> bool:
    """Whether the game has made all units; it takes some loops after a start."""
    owners = Counter(unit.owner for unit in units)
    return owners[ALLY] == scenario.n_allies and owners[ENEMY] == scenario.n_enemies


class Roster:
    """The units of one episode.

    Args:
        scenario: the map.
        units: raw units (SC2APIProtocol.Unit) of the episode's first observation, all of them alive.

    Raises:
        MarlError: the game's teams are not the map's.
    """

    def __init__(self, scenario: Map, units: Iterable[Any]) -> None:
        every = list(units)
        allies = [unit for unit in every if unit.owner == ALLY]
        allies.sort(key=lambda unit: (unit.unit_type, unit.pos.x, unit.pos.y))
        self.scenario = scenario
        self.units = allies + [unit for unit in every if unit.owner == ENEMY]  # as seen last
        self.tags = tuple(unit.tag for unit in self.units)
        names = self._ally_names(allies) + self._enemy_names(self.units[len(allies) :])
        self.type_U = torch.tensor([TYPE[name] for name in names])
        self.full_hp_U = torch.tensor([unit.health_max for unit in self.units])
        self.full_shield_U = torch.tensor([unit.shield_max for unit in self.units])

    def _ally_names(self, allies: list[Any]) -> list[str]:
        kinds = sorted({unit.unit_type for unit in allies})
        team = self.scenario.allies
        counts = [sum(unit.unit_type == kind for unit in allies) for kind in kinds]
        if counts != [count for _, count in team]:
            raise MarlError(
                f"the game's map {self.scenario.name} holds {counts} allies of types {kinds}, not {team}: "
                "put SMAC's own map file into the game's Maps folder"
            )
        return [name for name, count in team for _ in range(count)]

    def _enemy_names(self, enemies: list[Any]) -> list[str]:
        names = [ENEMY_TYPES.get(unit.unit_type, f"type {unit.unit_type}") for unit in enemies]
        if Counter(names) != Counter(dict(self.scenario.enemies)):
            raise MarlError(
                f"the game's map {self.scenario.name} holds the enemies {dict(Counter(names))}, not "
                f"{dict(self.scenario.enemies)}: put SMAC's own map file into the game's Maps folder"
            )
        return names

    def read(self, units: Iterable[Any]) -> State:
        """The units of a later observation as float32 tensors (1, U) of battle's state.

        Who is not in the list is dead: no hp, shield, energy; it lies where it was seen last.
        """
        seen = {unit.tag: unit for unit in units}
        alive = [tag in seen for tag in self.tags]
        self.units = [seen.get(tag, unit) for tag, unit in zip(self.tags, self.units, strict=True)]

        def column(name: str) -> Tensor:
            numbers = [getattr(u, name) if yes else 0.0 for u, yes in zip(self.units, alive, strict=True)]
            return torch.tensor([numbers], dtype=torch.float32)

        return {
            "pos_BU2": torch.tensor([[[unit.pos.x, unit.pos.y] for unit in self.units]]),
            "hp_BU": column("health"),
            "shield_BU": column("shield"),
            "energy_BU": column("energy"),
            "cooldown_BU": column("weapon_cooldown"),
            "type_BU": self.type_U[None],
        }
