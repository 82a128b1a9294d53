"""What teams that learn action values share: methods differ only in how they mix them."""

from marl.value.config import ValueConfig
from marl.value.joint import Joint
from marl.value.losses import double_q_actions, td_loss
from marl.value.mixers import Monotonic, Sum
from marl.value.network import RecurrentQ
from marl.value.team import Look, Networks, QTeam

__all__ = [
    "Joint",
    "Look",
    "Monotonic",
    "Networks",
    "QTeam",
    "RecurrentQ",
    "Sum",
    "ValueConfig",
    "double_q_actions",
    "td_loss",
]
