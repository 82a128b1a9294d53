"""What one game shows after a step, and what `StarCraft` asks of a game, whichever door leads to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One step of one game; one that the game did not survive is truncated and shows what was seen last."""

    obs_NO: Tensor  # float32
    state_S: Tensor  # float32
    avail_NA: Tensor  # bool
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    dead_allies: int = 0
    dead_enemies: int = 0

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


class Dot(NamedTuple):
    """A unit in a picture: place and radius in map units, side 0 (allies) or 1, hp as a fraction."""

    x: float
    y: float
    radius: float
    side: int
    hp: float


class Player(Protocol):
    """One game."""

    size: tuple[float, float]  # of the map, map units; valid after the first `begin`

    def begin(self, seed: int) -> Frame:
        """Start a game with this seed and show its first episode's first step."""
        ...

    def again(self) -> Frame:
        """Start the next episode of the game."""
        ...

    def step(self, actions: list[int]) -> Frame:
        """Play one step; an action that is not available is carried out as stop."""
        ...

    def dots(self) -> list[Dot]:
        """Living units as they stand."""
        ...

    def close(self) -> None:
        """End the game's process."""
        ...
