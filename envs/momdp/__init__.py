"""Finite worlds with a vector of rewards: random processes and four rooms, known as tables.

Others may read `Config`, `Tables` (the process itself: `marl.momdp.Momdp` and the rewards of arrival) and, of
a built world, `tables` and `state_B`.
"""

from marl.envs.momdp.config import Config
from marl.envs.momdp.tables import Tables

__all__ = ["Config", "Tables"]
