"""Nested state as JSON plus tensors: what goes in comes out, types and order included.

Dicts with text keys stay objects and lists stay arrays. What JSON cannot say becomes an object with
one key that starts with '$': a tensor's name, a tuple, a dict with other keys, a number that is not
finite. A text key that starts with '$' makes its dict take the pair form too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from marl.errors import MarlError

Place = Callable[[tuple[str, ...], Tensor], str]


def encode(value: Any, place: Place | None = None, path: tuple[str, ...] = ()) -> Any:
    """JSON-able form of nested dicts, lists, tuples, tensors, numbers, text, booleans and None.

    Args:
        value: the state.
        place: called with the path and the tensor, returns the name under which it is kept.
        path: where `value` stands.

    Raises:
        TypeError: names the place of a value of another type.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Tensor) and place is not None:
        return {"$tensor": place(path, value)}
    if isinstance(value, Mapping):
        items = [(k, encode(v, place, (*path, str(k)))) for k, v in value.items()]
        if all(type(k) is str and not k.startswith("$") for k, _ in items):
            return dict(items)
        return {"$dict": [[encode(k, None, path), v] for k, v in items]}
    if type(value) in (list, tuple):
        content = [encode(v, place, (*path, str(i))) for i, v in enumerate(value)]
        return content if type(value) is list else {"$tuple": content}
    raise TypeError(
        f"{'.'.join(path) or 'the state'} is a {type(value).__name__}: state holds dicts, lists, tuples, "
        "tensors, int, float, str, bool and None"
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `encode`; raises KeyError or ValueError on what `encode` never writes."""
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((mark, content),) = value.items()
        if mark == "$tensor":
            return tensors[content]
        if mark == "$tuple":
            return tuple(decode(v, tensors) for v in content)
        if mark == "$float":
            return float(content)
        if mark == "$dict":
            return {decode(k, tensors): decode(v, tensors) for k, v in content}
        if mark.startswith("$"):
            raise ValueError(f"unknown mark {mark}")
    return {k: decode(v, tensors) for k, v in value.items()}


def copy_of(owner: Any, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the owner's tensors with these names: the `state_dict` of a world."""
    return {name: getattr(owner, name).clone() for name in names}


def put_back(owner: Any, names: Iterable[str], state: Mapping[str, Tensor], device: torch.device) -> None:
    """The reverse of `copy_of`: the owner gets copies of the state's tensors, on the device."""
    for name in names:
        setattr(owner, name, state[name].to(device).clone())


def copy_into(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Copy a stored state into tensors that stay where they are, as native code wants it.

    Args:
        own: tensors by name.
        state: the same names and shapes; others are left alone.
        what: whose they are, for the message.

    Raises:
        MarlError: a tensor is missing or of another shape.
    """
    for name, value in own.items():
        if name not in state or state[name].shape != value.shape:
            raise MarlError(f"{what} state: {name} is missing or not of shape {tuple(value.shape)}")
        value.copy_(state[name])
