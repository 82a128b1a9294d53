"""Links between agents at acting time: what is sent, what arrives and when, and how much it was."""

from marl.channel.chain import mean_burst, stationary_loss
from marl.channel.config import Bernoulli, Bursts, ChannelConfig, GilbertElliott, Perfect
from marl.channel.link import PerfectLink
from marl.channel.lossy import ChannelLink

__all__ = [
    "Bernoulli",
    "Bursts",
    "ChannelConfig",
    "ChannelLink",
    "GilbertElliott",
    "Perfect",
    "PerfectLink",
    "mean_burst",
    "stationary_loss",
]
