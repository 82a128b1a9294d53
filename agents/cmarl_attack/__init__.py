"""c-MARL attack: how few changes of what one agent sees make a whole team fail.

| part | file |
|---|---|
| step one: which action to force | choose.py; its learned forms adversary.py, in world.py |
| step two: how to force it | force.py, jsma.py; direct control in team.py |
| who is attacked, and when | victim.py, config.py |
| the team under attack | team.py |

The attacker changes at execution time what given victims of a trained team see, so that the sum of team
rewards becomes small; mates keep their greedy policies. Step one needs to query policy and world, step two
gradients of the victim's network.

Reference: Lin, Dzeparoska, Zhang, Leon-Garcia, Papernot, "On the Robustness of Cooperative Multi-Agent
Reinforcement Learning", IEEE Security and Privacy Workshops 2020.
"""

from marl.agents.cmarl_attack.adversary import AdversaryConfig
from marl.agents.cmarl_attack.config import Config, Learner, Timing
from marl.agents.cmarl_attack.world import World

__all__ = ["AdversaryConfig", "Config", "Learner", "Timing", "World"]
