"""Environments of other people, in many copies, as one of our worlds (docs/foreign_environments.md).

`ForeignConfig` is what the Configs in envs/ share. A worker process imports `marl.foreign.worker` and what
that needs, all without torch, so nothing is imported here before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.foreign.config import ForeignConfig
    from marl.foreign.env import ForeignEnv

__all__ = ["ForeignConfig", "ForeignEnv"]
_HOMES = {"ForeignConfig": "marl.foreign.config", "ForeignEnv": "marl.foreign.env"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
