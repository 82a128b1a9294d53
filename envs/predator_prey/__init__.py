"""predator_prey: predators who see little look for a prey that never moves; IC3Net's grid, batched.

What other modules may rely on. `PredatorPrey` (the env that `Config.build` returns) has `config`, `spec` and

| attribute | dtype | meaning                                                                       |
|-----------|-------|-------------------------------------------------------------------------------|
| cell_BN   | int64 | cell of each predator, row * size + column; row 0 is at the top               |
| prey_B    | int64 | cell of the prey                                                              |
| t_B       | int64 | steps since the episode's start                                               |
| episode_B | int64 | number of the episode in this env, from 0                                     |
| key_B     | int64 | key of the env's random stream                                                |

Read them, do not write them. `info` of a TimeStep, of the episode that the step belonged to: success (bool:
all predators are on the prey after this step; valid where done), on_prey (int64: how many are).

The variant in continuous space is `marl.envs.predator_prey.continuous`.
"""

from marl.envs.predator_prey.config import LEVELS, Config, Level
from marl.envs.predator_prey.env import PredatorPrey

__all__ = ["LEVELS", "Config", "Level", "PredatorPrey"]
