"""navigation: cooperative navigation, the `simple_spread_v3` of MPE2, batched.

N agents shall cover N landmarks without touching each other. What other modules may rely on:
`Navigation` (the env that `Config.build` returns) has `config`, `spec` and
    state         the whole state, a dict of tensors (below); read it, do not write it

| state        | dtype   | meaning                                                          |
|--------------|---------|------------------------------------------------------------------|
| pos_BN2      | float32 | agents' centres (x, y); they start in [-1, 1)^2 and may leave it |
| vel_BN2      | float32 | units of length per unit of time; a step lasts 0.1               |
| landmark_BN2 | float32 | landmarks' centres, in [-1, 1)^2                                 |
| collisions_B | int64   | pairs of agents in contact, summed over the episode's steps      |
| t_B          | int64   | steps since the episode's start                                  |
| episode_B    | int64   | number of the episode in this env, from 0                        |
| key_B        | int64   | key of the env's random stream                                   |

`info` of a TimeStep, all of the episode that the step belonged to: success (bool: every landmark has
an agent within 0.1 after this step; valid where done), covered (int64: landmarks that have one),
collisions (int64: as in the state).
"""

from marl.envs.navigation.config import Config
from marl.envs.navigation.env import Navigation

__all__ = ["Config", "Navigation"]
