"""Actions of agents as raw orders of the game.

| action | order | ability |
|---|---|---|
| 0 no-op | none (the dead) | |
| 1 stop | stop | 4 |
| 2..5 | move to the point 2 map units north, south, east, west | 16 |
| 6 + k | attack enemy k | 23 |
| 6 + k, medivac | heal ally k | 386 |

Numbers of the abilities: oxwhirl/smac d6aab33.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marl.envs.battle.units import TYPE
from marl.envs.starcraft.imports import Modules
from marl.envs.starcraft.roster import Roster

STOP, MOVE, ATTACK, HEAL = 4, 16, 23, 386  # abilities
FIRST_ATTACK = 6
_MOVES = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))  # actions 2..5
_MOVE_AMOUNT = 2.0  # map units
_MEDIVAC = TYPE["medivac"]


def legal(actions: Sequence[int], avail: Sequence[Sequence[bool]]) -> list[int]:
    """The actions, with 1 (stop) or for the dead 0 (no-op) instead of those that are not available.

    DEVIATION: SMAC stops the program there.
    """
    return [
        a if 0 <= a < len(able) and able[a] else 0 if able[0] else 1
        for a, able in zip(actions, avail, strict=True)
    ]


def request(modules: Modules, roster: Roster, actions: Sequence[int]) -> Any:
    """SC2APIProtocol.RequestAction of one step.

    Args:
        roster: the units as they stand.
        actions: one available action per agent.
    """
    out = modules.api.RequestAction()
    for i, action in enumerate(actions):
        if action == 0:
            continue
        command = out.actions.add().action_raw.unit_command
        command.unit_tags.append(roster.tags[i])
        command.queue_command = False
        if action == 1:
            command.ability_id = STOP
        elif action < FIRST_ATTACK:
            dx, dy = _MOVES[action - 2]
            here = roster.units[i].pos
            command.ability_id = MOVE
            command.target_world_space_pos.x = here.x + _MOVE_AMOUNT * dx
            command.target_world_space_pos.y = here.y + _MOVE_AMOUNT * dy
        else:
            heals = int(roster.type_U[i]) == _MEDIVAC
            command.ability_id = HEAL if heals else ATTACK
            target = action - FIRST_ATTACK + (0 if heals else roster.scenario.n_allies)
            command.target_unit_tag = roster.tags[target]
    return out
