"""What teams that learn to talk share: a cell that takes in messages, its training through links."""

from marl.comm.aggregate import Attention, Mean
from marl.comm.cell import CommNetwork, in_cell
from marl.comm.config import CommConfig
from marl.comm.losses import own_returns, reinforce_loss
from marl.comm.network import TalkingNetwork
from marl.comm.team import CommTeam

__all__ = [
    "Attention",
    "CommConfig",
    "CommNetwork",
    "CommTeam",
    "Mean",
    "TalkingNetwork",
    "in_cell",
    "own_returns",
    "reinforce_loss",
]
