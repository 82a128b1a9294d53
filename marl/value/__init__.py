"""What teams that learn action values share: methods differ only in how they mix them."""

from marl.value.config import ValueConfig
from marl.value.losses import double_q_actions, td_loss
from marl.value.team import Joint, QTeam

__all__ = [
    "Joint",
    "QTeam",
    "ValueConfig",
    "double_q_actions",
    "td_loss",
]
