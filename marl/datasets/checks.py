"""What every reader of episodes asks of a file's arrays.

An `Unfit` says what is wrong as a clause that follows the name of an episode or a file ("has ...").
"""

from __future__ import annotations

from typing import Any

import numpy as np

# How far a next observation may be from the observation that follows; CHOICE: both are the same numbers, but
# a file may have rounded one of them.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


class Unfit(ValueError):
    """An array that cannot be used."""


def reals(name: str, value: Any) -> np.ndarray:
    """An array of real numbers as float32. (What float32 cannot hold becomes infinite.)"""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise Unfit(f"has {name} that are not an array of numbers, but of {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)


def flags(name: str, value: Any, length: int) -> np.ndarray:
    """bool (length,) from booleans or 0 and 1, one a row."""
    array = np.asarray(value)
    if array.shape not in ((length,), (length, 1)):
        raise Unfit(f"has {name} of shape {array.shape}: give one for each of its {length} steps")
    if array.dtype.kind not in "fiub" or not ((array == 0) | (array == 1)).all():
        raise Unfit(f"has {name} that are not an array of numbers 0 and 1, or booleans")
    return array.astype(bool).reshape(length)


def ends_last(name: str, flag_L: np.ndarray) -> None:
    """Refuse an end before the last step."""
    inside = flag_L[:-1].nonzero()[0]
    if len(inside):
        raise Unfit(
            f"goes on after step {inside[0]} of {len(flag_L)}, where its {name} say that it ends: "
            "split it there into two"
        )


def follows(next_LO: np.ndarray, obs_LO: np.ndarray) -> None:
    """Refuse next observations that are not the observations of the steps that follow."""
    same = np.isclose(next_LO[:-1], obs_LO[1:], rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
    apart = (~same.all(-1)).nonzero()[0]
    if len(apart):
        raise Unfit(
            f"has next_observations of step {apart[0]} that are not the observations of step {apart[0] + 1}: "
            "put its steps in order, or split it there into two"
        )
