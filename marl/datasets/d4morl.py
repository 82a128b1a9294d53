"""D4MORL's published files: pickled lists of trajectories, read without running what a pickle may ask for.

    python -m marl.datasets.d4morl <file.pkl> <out.npz>

converts one file once; the offline loop reads the npz (`loop.data=<out.npz>`). A pickle is a program: the
reader (pickles.py) builds lists, dicts, numbers, text and numpy arrays, and refuses everything else before it
is called.

A trajectory is one episode: its terminals may mark the last step alone, and its next_observations must be the
observations of the step that follows, as the collector writes them.

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

import itertools
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl import files
from marl.datasets import checks, pickles
from marl.datasets.checks import Unfit
from marl.datasets.episode import Episode
from marl.errors import CorruptFileError, MarlError
from marl.types import EnvSpec

LIMIT = 500  # steps of D4MORL's episodes
_KEYS = ("observations", "actions", "next_observations", "raw_rewards", "preference", "terminals")
_REAL = ("observations", "actions", "next_observations", "raw_rewards", "preference")
_MEMORY = 2.5  # bytes of memory per byte of the file, for the list and one float32 copy; CHOICE


def load(path: Path) -> list[dict[str, np.ndarray]]:
    """The trajectories of a published file, checked.

    Raises:
        CorruptFileError: the file asks for code, a trajectory lacks a key, has wrong shapes, NaN, or a
            preference that changes within it, ends or jumps on the way, or is not as wide as the first.
    """
    content = pickles.load(path)
    if not isinstance(content, list) or not content:
        raise CorruptFileError(path, "it is not a list of trajectories")
    out: list[dict[str, np.ndarray]] = []
    for i, trajectory in enumerate(content):
        try:
            out.append(_checked(trajectory))
            _as_wide(out[-1], out[0])
        except Unfit as error:
            raise CorruptFileError(path, f"trajectory {i} {error}") from error
    return out


def _checked(trajectory: Any) -> dict[str, np.ndarray]:
    if not isinstance(trajectory, Mapping):
        raise Unfit("is not a mapping")
    missing = [key for key in _KEYS if key not in trajectory]
    if missing:
        raise Unfit(f"has no {missing[0]}")
    parts: dict[str, np.ndarray] = {}
    for key in _KEYS:
        try:
            parts[key] = pickles.numbers(trajectory[key])
        except (ValueError, OverflowError) as error:
            raise Unfit(f"has {key} that are not an array of numbers ({error})") from error
    out = _columns(parts)
    if not all(np.isfinite(out[key]).all() for key in _REAL):
        raise Unfit("holds NaN or infinite numbers: repair or drop it")
    if not (out["preference"] == out["preference"][0]).all():
        raise Unfit("changes its preference on the way")
    _is_one(out, slice(None))
    return out


def _columns(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a trajectory or of a file: tables of float32 and flags, of one length."""
    out = {key: checks.reals(key, parts[key]) for key in _REAL}
    for key, table in out.items():
        if table.ndim != 2:
            raise Unfit(f"has {key} of shape {table.shape}, which is not a table")
    X = len(out["observations"])
    if X == 0 or any(len(table) != X for table in out.values()):
        raise Unfit("has parts of unequal length, or empty ones")
    if out["next_observations"].shape != out["observations"].shape:
        raise Unfit("has next observations of another size")
    if out["raw_rewards"].shape != out["preference"].shape:
        raise Unfit("has rewards and preferences of unequal number")
    return out | {key: checks.flags(key, parts[key], X) for key in ("terminals", "timeouts") if key in parts}


def _as_wide(one: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> None:
    for key in _REAL:
        here, there = one[key].shape[1], first[key].shape[1]
        if here != there:
            raise Unfit(f"has {key} of width {here}, where trajectory 0 has {there}: give one world's data")


def _is_one(columns: Mapping[str, np.ndarray], rows: slice) -> None:
    """Refuse rows that are not one episode in order."""
    for key in ("terminals", "timeouts"):
        if key in columns:
            checks.ends_last(key, columns[key][rows])
    checks.follows(columns["next_observations"][rows], columns["observations"][rows])


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
        CorruptFileError: the file is not such an npz, or one of its trajectories ends or jumps on the way.
    """
    if not zipfile.is_zipfile(path):
        fix = "convert a published one with python -m marl.datasets.d4morl <file.pkl> <out.npz>"
        raise CorruptFileError(path, f"it is not a converted D4MORL file, or not whole; {fix}")
    try:
        with np.load(path, allow_pickle=False) as npz:
            parts = {key: npz[key] for key in (*_KEYS, "timeouts", "traj_starts")}
    except Exception as error:  # what a damaged file raises has no end
        raise CorruptFileError(path, f"it is not a converted D4MORL file ({error})") from error
    try:
        arrays = _columns(parts)
    except Unfit as error:
        raise CorruptFileError(path, f"it {error}") from error
    for i, (first, end) in enumerate(_edges(path, parts["traj_starts"], len(arrays["terminals"]))):
        rows = slice(first, end)
        try:
            _is_one(arrays, rows)
        except Unfit as error:
            raise CorruptFileError(path, f"trajectory {i} {error}") from error
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
            origin=f"{path}: trajectory {i}",
        )


def _edges(path: Path, starts_E: np.ndarray, length: int) -> Iterator[tuple[int, int]]:
    """First row and end of every trajectory."""
    if starts_E.dtype.kind not in "iu" or starts_E.ndim != 1:
        raise CorruptFileError(path, f"its traj_starts are no list of row numbers, but {starts_E.dtype}")
    edges = [*starts_E.tolist(), length]
    if edges[0] != 0 or any(first >= end for first, end in itertools.pairwise(edges)):
        raise CorruptFileError(path, "its traj_starts do not rise from 0 to the number of rows")
    return itertools.pairwise(edges)


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
