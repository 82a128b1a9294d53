"""What teams of action values that talk share: messages added to local values, learning through links."""

from marl.talk.config import MessageConfig, TalkConfig
from marl.talk.network import TalkingQ
from marl.talk.team import TalkingTeam

__all__ = ["MessageConfig", "TalkConfig", "TalkingQ", "TalkingTeam"]
