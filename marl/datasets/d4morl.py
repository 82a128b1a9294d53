"""D4MORL's published files: pickled lists of trajectories, read without running what a pickle may ask for.

    python -m marl.datasets.d4morl <file.pkl> <out.npz>

converts one file once; the offline loop reads the npz (`loop.data=<out.npz>`). A pickle is a program: the
reader here builds lists, dicts, numbers, text and numpy arrays, and refuses everything else before it is
called.

| key of the npz | shape | meaning |
|---|---|---|
| observations, next_observations | (X, O) | float32, all trajectories one after the other |
| actions, raw_rewards, preference | (X, A), (X, K), (X, K) | float32 |
| terminals, timeouts | (X,) | bool; the files mark both as terminals, `split` tells them apart |
| traj_starts | (E,) | index of every trajectory's first row |

Reference: Zhu, Dang, Grover, "Scaling Pareto-Efficient Decision Making via Offline Multi-Objective RL"
(PEDA, D4MORL), ICLR 2023, and its released collector. The published files themselves were not at hand: the
format is the code's.
"""

from __future__ import annotations

import collections
import itertools
import os
import pickle
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl import files
from marl.datasets.episode import Episode
from marl.errors import CorruptFileError, MarlError
from marl.types import EnvSpec

LIMIT = 500  # steps of D4MORL's episodes
_KEYS = ("observations", "actions", "next_observations", "raw_rewards", "preference", "terminals")
_REAL = ("observations", "actions", "next_observations", "raw_rewards", "preference")
_MEMORY = 2.5  # bytes of memory per byte of the file, for the list and one float32 copy; CHOICE


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """What numpy's old pickles call _codecs.encode for."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("_codecs.encode with anything but text in latin1")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    from numpy._core import multiarray

    reconstruct, scalar = multiarray._reconstruct, multiarray.scalar  # type: ignore[attr-defined]
    out: dict[tuple[str, str], Any] = {
        ("collections", "defaultdict"): collections.defaultdict,
        ("builtins", "list"): list,
        ("__builtin__", "list"): list,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
    }
    for package in ("numpy.core", "numpy._core"):
        out |= {(f"{package}.multiarray", "_reconstruct"): reconstruct}
        out |= {(f"{package}.multiarray", "scalar"): scalar}
    return out


class _Reader(pickle.Unpickler):
    """Builds nothing but arrays and containers."""

    _names = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        found = self._names.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array or container")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load(path: Path) -> list[dict[str, np.ndarray]]:
    """The trajectories of a published file, checked.

    Raises:
        CorruptFileError: the file asks for code, or a trajectory lacks a key, has wrong shapes, NaN, or a
            preference that changes within it.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file).load()
    except OSError as error:
        raise CorruptFileError(path, error.strerror or "it cannot be read") from error
    except Exception as error:  # what a damaged or hostile pickle raises has no end
        raise CorruptFileError(path, f"it was refused: {error}") from error
    if not isinstance(content, list) or not content:
        raise CorruptFileError(path, "it is not a list of trajectories")
    return [_checked(path, i, trajectory) for i, trajectory in enumerate(content)]


def _checked(path: Path, i: int, trajectory: Any) -> dict[str, np.ndarray]:
    def wrong(what: str) -> CorruptFileError:
        return CorruptFileError(path, f"trajectory {i} {what}")

    if not isinstance(trajectory, Mapping):
        raise wrong("is not a mapping")
    missing = [key for key in _KEYS if key not in trajectory]
    if missing:
        raise wrong(f"has no {missing[0]}")
    out: dict[str, np.ndarray] = {}
    for key in _KEYS:
        value = np.asarray(trajectory[key])
        if value.dtype == object or value.dtype.kind not in "fiub":
            raise wrong(f"has a {key} that is not an array of numbers")
        out[key] = (
            value.astype(np.float32) if key in _REAL else value.astype(bool).reshape(len(value), -1)[:, 0]
        )
    T = len(out["terminals"])
    if T == 0 or any(len(value) != T for value in out.values()):
        raise wrong("has parts of unequal length")
    if any(out[key].ndim != 2 for key in _REAL):
        raise wrong("has a part that is not a table")
    if out["next_observations"].shape != out["observations"].shape:
        raise wrong("has next observations of another size")
    if out["raw_rewards"].shape != out["preference"].shape:
        raise wrong("has rewards and preferences of unequal number")
    if not all(np.isfinite(out[key]).all() for key in _REAL):
        raise wrong("holds NaN or infinite numbers")
    if not (out["preference"] == out["preference"][0]).all():
        raise wrong("changes its preference on the way")
    return out


def convert(source: Path, target: Path, *, limit: int = LIMIT) -> dict[str, int]:
    """Write the npz of a published file; says first how much memory that takes.

    Args:
        source: the pickle.
        target: the npz; must not exist.
        limit: length at which a trajectory counts as timed out. CHOICE: one that truly ends at its last step
            cannot be told apart and counts as timed out.

    Returns:
        Numbers of trajectories and transitions.
    """
    if target.exists():
        raise MarlError(f"{target} exists already: give another name, or remove it")
    if not source.is_file():
        raise CorruptFileError(source, "there is no such file")
    files.make_folder(target.parent)
    print(f"{source}: about {_MEMORY * os.path.getsize(source) / 2**30:.1f} GiB of memory are needed")
    trajectories = load(source)
    starts = np.cumsum([0, *(len(t["terminals"]) for t in trajectories[:-1])])
    arrays = {key: np.concatenate([t[key] for t in trajectories]) for key in _KEYS}
    lengths = np.diff([*starts, len(arrays["terminals"])])
    arrays["timeouts"] = np.zeros_like(arrays["terminals"])
    arrays["timeouts"][starts + lengths - 1] = lengths >= limit
    arrays["terminals"] &= ~arrays["timeouts"]

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # np.savez would add .npz to a path without it
            np.savez(file, **(arrays | {"traj_starts": starts}))  # type: ignore[arg-type]

    files.adopt_made(target, save)
    return {"trajectories": len(starts), "transitions": int(lengths.sum())}


def read(path: Path, spec: EnvSpec) -> Iterator[Episode]:
    """The trajectories of a converted file as episodes of a world of one agent.

    Raises:
        CorruptFileError: the file is not such an npz.
    """
    if not zipfile.is_zipfile(path):
        fix = "convert a published one with python -m marl.datasets.d4morl <file.pkl> <out.npz>"
        raise CorruptFileError(path, f"it is not a converted D4MORL file, or not whole; {fix}")
    try:
        with np.load(path, allow_pickle=False) as npz:
            arrays = {key: npz[key] for key in (*_KEYS, "timeouts", "traj_starts")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptFileError(path, f"it is not a converted D4MORL file ({error})") from error
    X, starts_E = len(arrays["terminals"]), arrays["traj_starts"]
    if any(len(arrays[key]) != X for key in _KEYS) or X == 0:
        raise CorruptFileError(path, "its arrays are of unequal length, or empty")
    edges = [*starts_E.tolist(), X]
    if edges[0] != 0 or any(first >= end for first, end in itertools.pairwise(edges)):
        raise CorruptFileError(path, "its traj_starts do not rise from 0 to the number of rows")
    for first, end in itertools.pairwise(edges):
        rows = slice(first, end)
        seen = np.concatenate([arrays["observations"][rows], arrays["next_observations"][end - 1 : end]])
        obs, L = torch.from_numpy(seen), end - first
        yield Episode(
            obs_UNO=obs[:, None],
            state_US=obs,
            avail_UNA=torch.ones(L + 1, 1, spec.n_actions, dtype=torch.bool),
            alive_UN=torch.ones(L + 1, 1, dtype=torch.bool),
            actions_LN=torch.from_numpy(arrays["actions"][rows])[:, None],
            reward_LK=torch.from_numpy(arrays["raw_rewards"][rows]),
            terminated=bool(arrays["terminals"][end - 1]),
        )


def main(words: Sequence[str]) -> int:
    """The command of this module's text."""
    if len(words) != 2:
        print("usage: python -m marl.datasets.d4morl <file.pkl> <out.npz>", file=sys.stderr)
        return 2
    try:
        counts = convert(Path(words[0]), Path(words[1]))
    except MarlError as error:
        print(f"d4morl: {error}", file=sys.stderr)
        return 2
    print(f"{words[1]}: {counts['trajectories']} trajectories, {counts['transitions']} transitions")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
