"""What a run repeats: collect a little, learn a little. Pure computation, no run folders."""

from marl.loops.base import Loop, Segments
from marl.loops.off_policy import BatchConfig, ExploreConfig, OffPolicyConfig, UpdatesConfig

__all__ = [
    "BatchConfig",
    "ExploreConfig",
    "Loop",
    "OffPolicyConfig",
    "Segments",
    "UpdatesConfig",
]
