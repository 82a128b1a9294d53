"""What a run repeats: collect a little, learn a little. Pure computation, no run folders."""

from marl.loops.base import Loop, Segments
from marl.loops.off_policy import BatchConfig, ExploreConfig, OffPolicyConfig, UpdatesConfig
from marl.loops.offline import OfflineConfig, load_memory
from marl.loops.on_policy import OnPolicyConfig

__all__ = [
    "BatchConfig",
    "ExploreConfig",
    "Loop",
    "OffPolicyConfig",
    "OfflineConfig",
    "OnPolicyConfig",
    "Segments",
    "UpdatesConfig",
    "load_memory",
]
