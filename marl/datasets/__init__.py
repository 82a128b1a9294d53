"""Data sets of episodes: in memory, as Minari folders, and from D4MORL's files."""

from marl.datasets.episode import Episode, episodes_of, memory_of

__all__ = ["Episode", "episodes_of", "memory_of"]
