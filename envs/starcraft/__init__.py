"""starcraft: StarCraft II itself, on SMAC's maps, through pysc2's raw interface or SMAC's own environment.

The same EnvSpec as `battle/<map>` but for its name, so that one checkpoint plays in both. Needs the extra
`starcraft`, the game (SC2PATH) and SMAC's maps; `check()` says in one sentence what is missing.
"""

from marl.envs.starcraft.config import Config
from marl.envs.starcraft.env import StarCraft
from marl.envs.starcraft.install import Check, check

__all__ = ["Check", "Config", "StarCraft", "check"]
