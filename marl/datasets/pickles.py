"""Pickled lists, dicts, numbers and numpy arrays, read without calling anything that a file may name.

A pickle is a program that calls what it names. numpy's own functions must not be among that: `ndarray`,
`dtype`, `scalar` and `_reconstruct` trust their arguments, and a dtype whose state claims an object field
makes a pointer of the file's bytes. What a file gets here for each of these names is a stand-in in Python,
which knows only dtypes of plain numbers and makes an array from bytes of exactly its size.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from marl.errors import CorruptFileError

_PLAIN = re.compile(r"[<>|=]?[fiub][1248]")  # dtypes that hold numbers and nothing else
_STATE = (None, None, None, -1, -1, 0)  # of such a dtype: no parts, names, fields, sizes and flags of its own
_DIMENSIONS = 32  # of an array, at most; numpy 1


def _refused(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(what)


class _Dtype:
    """For `numpy.dtype`: a type of plain numbers."""

    __slots__ = ("plain",)

    def __init__(self, text: Any, *_: Any) -> None:
        if not isinstance(text, str) or not _PLAIN.fullmatch(text):
            raise _refused(f"it holds an array of {text!r}, not of plain numbers")
        try:
            self.plain = np.dtype(text)
        except TypeError as error:
            raise _refused(f"it holds an array of {text!r}, which is no dtype") from error

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 8 or state[0] != 3 or state[2:] != _STATE:
            raise _refused("a dtype in it has fields, parts, names or flags")
        if state[1] not in ("<", ">", "|", "="):
            raise _refused(f"a dtype in it has the byte order {state[1]!r}")
        self.plain = self.plain.newbyteorder(state[1])


def _filled(raw: Any, dtype: Any, shape: Any) -> np.ndarray:
    """The bytes as a flat array, which is exactly as large as `shape` says."""
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray):
        raise _refused("an array in it is not made of a dtype and bytes")
    if not isinstance(shape, tuple) or len(shape) > _DIMENSIONS or any(type(n) is not int for n in shape):
        raise _refused("an array in it has no shape of whole numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.plain.itemsize != len(raw):
        raise _refused(f"an array in it of shape {shape} has {len(raw)} bytes of {dtype.plain}")
    return np.frombuffer(raw, dtype.plain)


class Array:
    """For `numpy.ndarray`; `value` is what was read."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise _refused("an array in it has a state of an unknown kind")
        _, shape, dtype, fortran, raw = state
        self.value = _filled(raw, dtype, shape).reshape(shape, order="F" if fortran else "C")


class _Call:
    """A function that a file may call and not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _refused("it gives a state to a function")


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """What numpy's old pickles call _codecs.encode for."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _refused("_codecs.encode with anything but text in latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """What protocol 2 calls bytes for: to make empty ones."""
    return b""


def _reconstruct(kind: Any, *_: Any) -> Array:
    """An array whose content comes as its state."""
    if kind is not Array:
        raise _refused("it builds an array that is no numpy.ndarray")
    return Array()


def _scalar(dtype: Any, raw: Any) -> Any:
    return _filled(raw, dtype, (1,))[0]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """Protocol 5's arrays; order K: transposed by `axes`."""
    if order not in ("C", "F", "K"):
        raise _refused(f"an array in it has the order {order!r}")
    out = Array()
    flat = _filled(raw, dtype, shape)
    if order != "K":
        out.value = flat.reshape(shape, order=order)
        return out
    if not isinstance(axes, tuple) or sorted(axes) != list(range(len(shape))):
        raise _refused(f"an array in it has its axes in the order {axes!r}")
    out.value = flat.reshape(shape).transpose(axes)
    return out


def _allowed() -> dict[tuple[str, str], Any]:
    out: dict[tuple[str, str], Any] = {
        ("collections", "defaultdict"): collections.defaultdict,
        ("builtins", "list"): list,
        ("__builtin__", "list"): list,
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Call(_encode),
        ("builtins", "bytes"): _Call(_no_bytes),
        ("__builtin__", "bytes"): _Call(_no_bytes),
    }
    for package in ("numpy.core", "numpy._core"):  # numpy 1's name and numpy 2's
        out[f"{package}.multiarray", "_reconstruct"] = _Call(_reconstruct)
        out[f"{package}.multiarray", "scalar"] = _Call(_scalar)
        out[f"{package}.numeric", "_frombuffer"] = _Call(_from_buffer)
    return out


class _Reader(pickle.Unpickler):
    """Builds nothing but arrays and containers."""

    _names = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        found = self._names.get((module, name))
        if found is None:
            raise _refused(f"it asks for {module}.{name}, which is no array or container")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise _refused("it refers to objects outside the file")


def load(path: Path) -> Any:
    """The content of a pickle: containers and numbers as they are, arrays as `Array`.

    Raises:
        CorruptFileError: it cannot be read, is damaged, or names anything else.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except OSError as error:
        raise CorruptFileError(path, error.strerror or "it cannot be read") from error
    except Exception as error:  # what a damaged or hostile pickle raises has no end
        raise CorruptFileError(path, f"it was refused: {str(error) or type(error).__name__}") from error


def numbers(value: Any, depth: int = 2) -> np.ndarray:
    """An array of its own from what `load` gives: an `Array`, or lists in lists of `Array`s and numbers.

    Args:
        value: from `load`.
        depth: lists in lists, at most. (A list that holds itself has no end.)

    Raises:
        ValueError: it is anything else, or the lists are of unequal length.
    """
    if isinstance(value, Array) and value.value is not None:
        return value.value.copy()
    if isinstance(value, list) and depth:
        return np.array([numbers(part, depth - 1) for part in value])
    if isinstance(value, bool | int | float | np.generic):
        return np.array(value)
    raise ValueError(f"a {type(value).__name__} among its numbers")
