"""results.json: what a run was, where it ran and what came out, in one file that explains itself.

Numbers per episode carry a leading seeds axis: `final["return"][seed][episode]`.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import marl
from marl import files
from marl.config import RunConfig
from marl.errors import CorruptFileError

SCHEMA = 1
Status = Literal["finished", "interrupted", "failed"]
_PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "pettingzoo",
    "hydra-core",
    "safetensors",
    "wandb",
    "stable-baselines3",
)
_CODE = (
    "marl",
    "agents",
    "envs",
    "conf",
    "setup.py",
    "pyproject.toml",
)  # results may lie uncommitted beside it
_TYPES: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "run_id": str,
    "status": str,
    "config": dict,
    "config_hash": str,
    "seeds": list,
    "threads": int,
    "num_envs": int,
    "steps": int,
    "episodes": int,
    "updates": int,
    "wall_s": (int, float),
    "versions": dict,
    "git": dict,
    "hardware": dict,
    "date": str,
    "curve": list,
    "final": (dict, type(None)),
    "files": dict,
}


def build(
    cfg: RunConfig,
    *,
    status: Status,
    counters: Mapping[str, int],
    wall_s: float,
    curve: list[dict[str, Any]],
    final: dict[str, Any] | None,
    paths: Iterable[Path],
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        cfg: the run's config.
        status: how the run ended.
        counters: steps (team steps), episodes and updates.
        wall_s: seconds of training so far, evaluation included, over all resumed parts.
        curve: one entry per evaluation: step, wall_s, and per name [seed][episode].
        final: the last evaluation, per name [seed][episode], or None when the run did not get there.
        paths: files of the run folder to list with their hashes; absent ones are left out.
    """
    folder = cfg.folder
    return {
        "schema": SCHEMA,
        "run_id": cfg.run_id,
        "status": status,
        "config": cfg.to_dict(),
        "config_hash": cfg.hash,
        "seeds": [cfg.seed],
        "threads": cfg.threads,
        "num_envs": cfg.num_envs,
        **{name: int(counters[name]) for name in ("steps", "episodes", "updates")},
        "wall_s": round(wall_s, 3),
        "versions": versions(),
        "git": git(),
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "curve": curve,
        "final": final,
        "files": {str(p.relative_to(folder)): files.sha256_file(p) for p in sorted(paths) if p.is_file()},
    }


def write(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write results.json whole or not at all."""
    path = folder / "results.json"
    files.write_atomic(path, json.dumps(results, allow_nan=False, indent=1).encode() + b"\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """Read results.json of a run folder (or the file itself) and check its schema.

    Raises:
        CorruptFileError: names what is missing or of the wrong type.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CorruptFileError(path, error.strerror or "it cannot be read") from error
    except ValueError as error:
        raise CorruptFileError(path, "it is not JSON") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise CorruptFileError(path, f"it is not a results file of schema {SCHEMA}")
    for name, kind in _TYPES.items():
        if name not in data:
            raise CorruptFileError(path, f"{name} is missing")
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            raise CorruptFileError(path, f"{name} is a {type(data[name]).__name__}")
    if data["final"] is not None:
        for name, rows in data["final"].items():
            if not isinstance(rows, list) or len(rows) != len(data["seeds"]):
                raise CorruptFileError(
                    path, f"final.{name} needs one row for each of {len(data['seeds'])} seeds"
                )
    return data


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of this suite and of the packages it stands on."""
    out = {"python": platform.python_version(), "marl": marl.__version__}
    for name in _PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def git() -> dict[str, Any]:
    """Commit of the checkout that the code runs from, and whether its code differs; None for a wheel."""
    checkout = Path(marl.__file__).resolve().parent.parent
    nothing: dict[str, Any] = {"commit": None, "dirty": None}
    if not (checkout / "pyproject.toml").is_file() or not (checkout / ".git").exists():
        return nothing
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(checkout, "status", "--porcelain", "--", *_CODE))}
    except (OSError, subprocess.SubprocessError):
        return nothing


def _git(checkout: Path, *words: str) -> str:
    command = ["git", "-C", str(checkout), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor and its vector instructions, cores that this process may use, memory and GPU."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu_name(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
