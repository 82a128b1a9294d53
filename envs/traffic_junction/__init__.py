"""traffic_junction: cars that must pass a crossing together, and see little of each other.

| module | content |
|---|---|
| config | options and the arrival curriculum |
| geometry | roads, routes and cell numbers of the three levels |
| observe | tables from which observations and states are gathered |
| env | the rules |
| render | pictures |
"""

from marl.envs.traffic_junction.config import Config
from marl.envs.traffic_junction.env import TrafficJunction
from marl.envs.traffic_junction.geometry import LEVELS, Level, Roads, roads

__all__ = ["LEVELS", "Config", "Level", "Roads", "TrafficJunction", "roads"]
