"""battle: the StarCraft micromanagement game, batched. A simulator of SMAC, not StarCraft II.

What other modules may rely on. `Battle` (the env that `Config.build` returns) has
    map           maps.Map: name, n_allies, n_enemies, limit, ally_spawn, enemy_spawn, terrain, ...
    unit_names    tuple of all unit type names; `unit_names[state["type_BU"][b, u]]`
    unit_radius   float32 tensor, one radius per unit type: `unit_radius[state["type_BU"]]` is (B, U)
    units         tuple of units.Unit, same order
    terrain       terrain.Terrain: walk_XY (uint8 grid, bit 0 ground, bit 1 cliff walkers), height_XY
    state         the whole state, a dict of tensors (below); read it, do not write it
    config        the Config it was built from
`U` counts the N allies first (in agent order), then the E enemies (in order of creation).

| state           | dtype   | meaning                                                                        |
|-----------------|---------|--------------------------------------------------------------------------------|
| pos_BU2         | float32 | centre (x, y), map units in [0, 32]; north is +y, east is +x                   |
| hp_BU           | float32 | 0 = dead                                                                       |
| shield_BU       | float32 | Protoss only, else 0                                                           |
| energy_BU       | float32 | medivacs only, else 0                                                          |
| cooldown_BU     | float32 | game loops (1/22.4 s) until the weapon is ready; 0 = ready                     |
| since_hit_BU    | float32 | game loops since the last damage, stops counting at 224 (10 s)                 |
| target_BU       | int64   | unit index 0..U-1 that it attacks or heals now, -1 = none (allies: by order)   |
| healing_BU      | bool    | medivac that healed in the last tick (may go on below 5 energy)                |
| type_BU         | int64   | index into units.UNITS                                                         |
| facing_BN       | int64   | direction 0..11 of the view cone (x 30 degrees, counter-clockwise from east)   |
| last_actions_BN | int64   | the actions before, -1 at an episode's start                                   |
| goal_B2         | float32 | where the enemy's attack-move leads: the allies' starting place                |
| t_B             | int64   | steps since the episode's start                                                |
| episode_B       | int64   | number of the episode in this env, from 0                                      |
| key_B           | int64   | key of the env's random stream                                                 |

`info` of a TimeStep: success (bool, valid where done: battle won), dead_allies, dead_enemies (int64, of
the episode that the step belonged to).
Scripted players read `state` and the TimeStep; an action that is not available is carried out as stop.
"""

from marl.envs.battle.config import Config
from marl.envs.battle.env import Battle
from marl.envs.battle.maps import MAPS, Map
from marl.envs.battle.units import UNITS, Unit

__all__ = ["MAPS", "UNITS", "Battle", "Config", "Map", "Unit"]
