"""What offline learners share: transitions of a batch, a summary of the data, networks and policies.

Legend: X transitions, E episodes, N agents, K objectives, B rows of acting.
"""

from marl.offline.network import Trunk
from marl.offline.outcomes import Outcomes
from marl.offline.policy import OfflinePolicy, one_kind, unit_box
from marl.offline.summary import Scaler, Summary, describe, summarise
from marl.offline.team import OfflineTeam, WishingTeam, check_preference, cosine
from marl.offline.transitions import Transitions, objectives_of, rewards_of, transitions

__all__ = [
    "OfflinePolicy",
    "OfflineTeam",
    "Outcomes",
    "Scaler",
    "Summary",
    "Transitions",
    "Trunk",
    "WishingTeam",
    "check_preference",
    "cosine",
    "describe",
    "objectives_of",
    "one_kind",
    "rewards_of",
    "summarise",
    "transitions",
    "unit_box",
]
