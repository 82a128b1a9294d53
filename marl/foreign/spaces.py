"""Gymnasium spaces as flat features: their size, the names of their parts, and checked observations.

Features follow `gymnasium.spaces.utils.flatten`: Box and MultiBinary row by row, Discrete and MultiDiscrete
as one-hot vectors, Dict and Tuple part after part. Values are not scaled: an image keeps its 0 .. 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from marl.errors import EnvError

MASK = "action_mask"
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named run of features, as `marl.types.Slice` has it."""

    name: str
    start: int
    stop: int
    low: float
    high: float
    kind: str  # real, binary or onehot


def size(space: spaces.Space[Any], who: str) -> int:
    """Number of features.

    Raises:
        EnvError: the space has no fixed size (Graph, Sequence) or is not one of Gymnasium's.
    """
    try:
        return flatdim(space)
    except (ValueError, NotImplementedError) as error:
        raise EnvError(
            f"the observation space of {who} is {space}, which has no flat form: use Box, Discrete, "
            "MultiDiscrete, MultiBinary, or Dict and Tuple of these"
        ) from error


def parts(space: spaces.Space[Any], name: str = "", start: int = 0) -> list[Part]:
    """What the features are; one part per leaf of the space, MultiDiscrete one per dimension."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        leaves = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        out: list[Part] = []
        for key, inner in leaves:
            begin = out[-1].stop if out else start
            out += parts(inner, f"{name}.{key}" if name else str(key), begin)
        return out
    name = name or "observation"
    if isinstance(space, spaces.MultiDiscrete):
        stops = start + np.cumsum(space.nvec.reshape(-1))
        starts = (start, *stops[:-1].tolist())
        return [
            _part(f"{name}[{i}]", a, b, 0, 1, "onehot")
            for i, (a, b) in enumerate(zip(starts, stops, strict=True))
        ]
    stop = start + flatdim(space)
    if isinstance(space, spaces.Discrete):
        return [_part(name, start, stop, 0, 1, "onehot")]
    if isinstance(space, spaces.MultiBinary):
        return [_part(name, start, stop, 0, 1, "binary")]
    if isinstance(space, spaces.Box) and space.low.size:
        return [_part(name, start, stop, space.low.min(), space.high.max(), "real")]
    return [_part(name, start, stop, -np.inf, np.inf, "real")]


def _part(name: str, start: int, stop: int, low: float, high: float, kind: str) -> Part:
    return Part(name=name, start=int(start), stop=int(stop), low=float(low), high=float(high), kind=kind)


def without_mask(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The observation without its action mask; alone where nothing else stood beside the mask."""
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces:
        return space
    rest = {key: inner for key, inner in space.spaces.items() if key != MASK}
    return next(iter(rest.values())) if len(rest) == 1 else spaces.Dict(rest)


def split(value: Any, space: spaces.Space[Any]) -> tuple[Any, Any]:
    """An observation as `without_mask` describes it, and its mask or None."""
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces or not isinstance(value, Mapping):
        return value, None
    rest = {key: inner for key, inner in value.items() if key != MASK}
    return (next(iter(rest.values())) if len(space.spaces) == 2 and len(rest) == 1 else rest), value.get(MASK)


def features(value: Any, space: spaces.Space[Any], what: str) -> np.ndarray:
    """The value as float32 features.

    Args:
        value: an element of the space.
        space: what was declared.
        what: names the value in errors ("the observation of agent 'a'").

    Raises:
        EnvError: another shape, another kind of number, NaN, infinite, or not in the space. The limits of a
            Box are not checked: many environments pass them, and features are not cut to them.
    """
    with np.errstate(over="ignore"):
        flat = _flat(value, space, what).astype(np.float32)
    if not np.isfinite(flat).all():
        raise EnvError(f"{what} holds {_first_bad(flat)}")
    return flat


def _flat(value: Any, space: spaces.Space[Any], what: str) -> np.ndarray:
    if isinstance(space, spaces.Box):
        return _array(value, space, what).reshape(-1)
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            keys = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise EnvError(f"{what} has {keys}, its space says {sorted(map(str, space.spaces))}")
        leaves = [_flat(value[key], inner, f"{what}, {key!r},") for key, inner in space.spaces.items()]
        return np.concatenate(leaves)
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise EnvError(f"{what} is a {type(value).__name__}, its space says {len(space.spaces)} parts")
        pairs = zip(value, space.spaces, strict=True)
        return np.concatenate([_flat(v, inner, f"{what}, part {i},") for i, (v, inner) in enumerate(pairs)])
    if not space.contains(value):
        raise EnvError(f"{what} is {value!r}, which its space {space} does not hold")
    return np.asarray(flatten(space, value))


def _array(value: Any, space: spaces.Box, what: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise EnvError(f"{what} is no array: {error}") from error
    if array.shape != space.shape:
        raise EnvError(f"{what} has shape {array.shape}, its space says {space.shape}")
    if not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise EnvError(f"{what} has dtype {array.dtype}, its space says {space.dtype}")
    return array


def number(value: Any, what: str) -> float:
    """A reward as a float that float32 can hold."""
    try:
        out = float(value)
    except (TypeError, ValueError) as error:
        raise EnvError(f"{what} is {value!r}: it must be a number") from error
    if not abs(out) <= _LARGEST:
        raise EnvError(f"{what} is {out}")
    return out


def yes_or_no(value: Any, what: str) -> bool:
    """Whether an agent has ended."""
    try:
        return bool(value)
    except (TypeError, ValueError) as error:  # an array of several
        raise EnvError(f"{what} is {value!r}: it must be True or False") from error


def _first_bad(flat: np.ndarray) -> str:
    at = int(np.flatnonzero(~np.isfinite(flat))[0])
    return f"{flat[at]} (feature {at})"
