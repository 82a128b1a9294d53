"""Trained policies without their training: written by `marl export`, read back by `load`."""

from marl.sparse.export.packed import load
from marl.sparse.export.policy import Field, Policy, Step

__all__ = ["Field", "Policy", "Step", "load"]
