"""What teams of action values that talk share: messages added to local values, learning through links."""

from marl.talk.config import TalkConfig
from marl.talk.network import TalkingQ
from marl.talk.team import TalkingTeam

__all__ = ["TalkConfig", "TalkingQ", "TalkingTeam"]
