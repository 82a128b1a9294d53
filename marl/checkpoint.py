"""Everything a run is, on disk: one function writes it, one reads it, and reading runs no code.

A checkpoint is a folder `<run>/checkpoints/<step>/`:

    meta.json                  schema, step, the caller's info, the state's tree, hashes of all files
    <part>.safetensors         the tensors of one part: agent.networks, agent.optimisers, env, ...
    memory/<segment>.safetensors   the memory's content; only the newest checkpoint keeps it

The folder is written under a temporary name, every file and folder is fsynced, then it is renamed.
A segment that the previous checkpoint holds already is hard-linked, not written again. What is read
is checked first: `marl.sealed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from marl import files, sealed, tree
from marl.errors import CorruptFileError

SCHEMA = 1
KIND = "marl checkpoint"
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}")
_SPLIT = "agent"  # this part of the state gets one file per key: networks, targets, optimisers, ...

Segments = Mapping[str, Callable[[], dict[str, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that was read and whose every file matched its hash.

    Args:
        path: its folder.
        step: team steps at which it was written.
        info: what the writer said about the run (config, counters, versions, ...).
        state: the nested state; tensors are on the CPU.
        memory: size and hash of the memory's segments by name.
    """

    path: Path
    step: int
    info: dict[str, Any]
    state: dict[str, Any]
    memory: Mapping[str, Mapping[str, Any]]

    @property
    def segments(self) -> tuple[str, ...]:
        """Names of the memory's segments."""
        return tuple(self.memory)

    def read_segment(self, name: str) -> dict[str, Tensor]:
        """The tensors of one memory segment."""
        file = self.path / "memory" / f"{name}.safetensors"
        if name not in self.memory:
            raise CorruptFileError(file, "the checkpoint's meta.json does not list it")
        return sealed.parse_tensors(file, _read_checked(file, self.memory[name]))


def write(
    run: Path,
    step: int,
    state: Mapping[str, Any],
    segments: Segments,
    *,
    info: Mapping[str, Any],
    keep: int = 1,
) -> Path:
    """Write a checkpoint and remove those it replaces.

    Args:
        run: the run's folder.
        step: team steps so far; names the checkpoint. One that exists whole is left alone.
        state: nested dicts and lists of tensors, numbers, text, None.
        segments: memory content by name; a name stands for one content for ever.
        info: plain data about the run, stored beside the state.
        keep: how many of the newest checkpoints stay, 1 or more.

    Returns:
        The checkpoint's folder.

    Raises:
        MarlError: the disk is full; what was there before is untouched.
    """
    folder = run / "checkpoints" / str(step)
    files.make_folder(folder.parent)
    files.sweep(folder.parent)
    if folder.exists():
        try:
            _check(folder)
            _prune(run, keep)  # a kill may have come between writing and pruning
            return folder
        except CorruptFileError:
            set_aside(folder)
    previous = next(iter(_steps(run)), None)
    with files.atomic_folder(folder) as temporary:
        skeleton, parts = _split_parts(state)
        meta = {
            "kind": KIND,
            "schema": SCHEMA,
            "step": step,
            "info": tree.encode(dict(info)),
            "state": skeleton,
            "files": {
                f"{n}.safetensors": sealed.write_tensors(temporary / f"{n}.safetensors", t)
                for n, t in parts.items()
            },
            "memory": _write_memory(temporary / "memory", segments, previous),
        }
        sealed.write_list(temporary / "meta.json", meta)
    _prune(run, keep)
    return folder


def read(path: Path, *, memory: bool = True) -> Saved:
    """Read a checkpoint; every file is hashed before it is parsed, and no code of it is run.

    Args:
        path: the checkpoint's folder.
        memory: whether the memory's segments must be there and whole; False to read only a policy.

    Raises:
        CorruptFileError: names the file that is missing, damaged or foreign.
    """
    meta = _check(path, memory=memory)
    tensors: dict[str, Tensor] = {}
    for name, entry in meta["files"].items():
        part = name.removesuffix(".safetensors")
        for key, value in sealed.parse_tensors(path / name, _read_checked(path / name, entry)).items():
            tensors[f"{part}:{key}"] = value
    try:
        state, info = tree.decode(meta["state"], tensors), tree.decode(meta["info"], {})
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(path / "meta.json", f"its tree does not fit its files ({error})") from error
    return Saved(path=path, step=meta["step"], info=info, state=state, memory=meta["memory"])


def latest(run: Path, *, memory: bool = True) -> tuple[Saved | None, list[str]]:
    """The newest checkpoint that is whole.

    Returns:
        The checkpoint, or None where the run has none at all, and one sentence per newer checkpoint
        that had to be skipped.

    Raises:
        CorruptFileError: there are checkpoints and none of them is whole.
    """
    skipped: list[str] = []
    error: CorruptFileError | None = None
    for path in _steps(run):
        try:
            return read(path, memory=memory), skipped
        except CorruptFileError as corrupt:
            skipped.append(f"checkpoint {path.name} was skipped: {corrupt}")
            error = error or corrupt
    if error is not None:
        raise error
    return None, skipped


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it is no candidate any more, but still there to look at."""
    target = path.with_name(f"damaged-{path.name}")
    files.remove_folder(target)
    files.adopt(path, target)


def steps(run: Path) -> list[int]:
    """Steps of the run's checkpoints, newest first."""
    return [int(path.name) for path in _steps(run)]


def _steps(run: Path) -> list[Path]:
    folder = run / "checkpoints"
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def _prune(run: Path, keep: int) -> None:
    """Delete checkpoints beyond `keep`, and the memory of all but the newest."""
    for index, path in enumerate(_steps(run)):
        if index >= keep:
            files.remove_folder(path)
        elif index > 0:
            files.remove_folder(path / "memory")


def _split_parts(state: Mapping[str, Any]) -> tuple[Any, dict[str, dict[str, Tensor]]]:
    """The state's tree without tensors, and the tensors of each part."""
    parts: dict[str, dict[str, Tensor]] = {}

    def place(path: tuple[str, ...], tensor: Tensor) -> str:
        depth = 2 if path[0] == _SPLIT and len(path) > 2 else 1
        part, key = ".".join(path[:depth]), "/".join(path[depth:]) or "value"
        entries = parts.setdefault(part, {})
        while key in entries:  # the keys 1 and "1" of one dict
            key += "'"
        entries[key] = tensor
        return f"{part}:{key}"

    return tree.encode(dict(state), place), parts


def _write_memory(folder: Path, segments: Segments, previous: Path | None) -> dict[str, dict[str, Any]]:
    """Link the segments that the previous checkpoint has, write the others."""
    if not segments:
        return {}
    files.make_folder(folder)
    old: dict[str, Any] = {}
    if previous is not None:
        try:
            old = _read_meta(previous)["memory"]
        except CorruptFileError:
            old = {}
    out: dict[str, dict[str, Any]] = {}
    for name, content in segments.items():
        if _SEGMENT.fullmatch(name) is None:
            raise ValueError(f"segment name {name!r}: letters, digits, '_', '-' and '.' only")
        source = previous / "memory" / f"{name}.safetensors" if previous is not None else None
        if name in old and source is not None and source.is_file():
            files.link(source, folder / source.name)
            out[name] = old[name]
        else:
            out[name] = sealed.write_tensors(folder / f"{name}.safetensors", content())
    return out


def _read_meta(path: Path) -> dict[str, Any]:
    """meta.json, if it is ours and unchanged to the last byte."""
    return sealed.read_list(path / "meta.json", kind=KIND, schema=SCHEMA, what="a checkpoint")


def _check(path: Path, *, memory: bool = True) -> dict[str, Any]:
    """meta.json, after every file it lists was found with the size and hash it says."""
    meta = _read_meta(path)
    if str(meta["step"]) != path.name:
        raise CorruptFileError(path / "meta.json", f"it is of step {meta['step']}, the folder of {path.name}")
    for name in (*meta["files"], *meta["memory"]):
        if _SEGMENT.fullmatch(name) is None:
            raise CorruptFileError(path / "meta.json", f"it lists the foreign name {name!r}")
    for name, entry in meta["files"].items():
        _read_checked(path / name, entry)
    for name, entry in meta["memory"].items() if memory else ():
        _read_checked(path / "memory" / f"{name}.safetensors", entry)
    return meta


def _read_checked(file: Path, entry: Mapping[str, Any]) -> bytes:
    return sealed.read_checked(file, entry, "meta.json")
