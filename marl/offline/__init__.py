"""What offline learners share: transitions of a batch, a summary of the data, networks and policies.

Legend: X transitions, E episodes, N agents, K objectives, B rows of acting.
"""

from marl.offline.network import Trunk
from marl.offline.outcomes import Outcomes
from marl.offline.policy import OfflinePolicy
from marl.offline.summary import Scaler, Summary, summarise
from marl.offline.transitions import Transitions, objectives_of, rewards_of, transitions

__all__ = [
    "OfflinePolicy",
    "Outcomes",
    "Scaler",
    "Summary",
    "Transitions",
    "Trunk",
    "objectives_of",
    "rewards_of",
    "summarise",
    "transitions",
]
