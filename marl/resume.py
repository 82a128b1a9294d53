"""Which run a folder holds, and how to go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marl import checkpoint, compose, config, files, results
from marl.checkpoint import Saved
from marl.config import RunConfig
from marl.errors import FieldError, MarlError
from marl.loggers import jsonl

_MAY_CHANGE = (
    "total_steps",
    "checkpoint",
    "logger",
    "trust",
    "video",
)  # settings that a resume may give anew


def resume(folder: Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, Saved | None, list[str]]:
    """The stored config of a run and its newest whole checkpoint.

    Args:
        folder: the run's folder.
        overrides: settings to give anew; only those that keep the run what it is.

    Returns:
        The config, the checkpoint (None when the run was stopped before its first) and sentences for the
        user: one per damaged checkpoint that was skipped, one where the world cannot be resumed exactly.

    Raises:
        MarlError: the folder holds no run, another process is at work in it, or an override would make
            it another run.
    """
    folder = Path(folder)
    if not checkpoint.steps(folder) and not (folder / "config.json").is_file():
        raise FieldError("resume", str(folder), "there is no run in this folder; give the folder of a run")
    with files.lock(folder):  # a living run's newest checkpoint must not be set aside
        return _resume(folder, overrides)


def _resume(folder: Path, overrides: Sequence[str]) -> tuple[RunConfig, Saved | None, list[str]]:
    saved, skipped = checkpoint.latest(folder)
    node = dict(saved.info["config"]) if saved is not None else jsonl.read(folder / "config.json")[0]
    asked = int(node["total_steps"])
    trust = _change(node, overrides)
    place = folder if folder.name not in ("", "..") else folder.resolve()
    node["runs_dir"], node["run_id"] = str(place.parent), place.name
    cfg = config.load(node, trust=trust)
    # A run may end a few steps above its own total_steps: the last vector step or rollout was begun below it.
    if saved is not None and cfg.total_steps < saved.step and cfg.total_steps != asked:
        fix = f"the run has made {saved.step} steps already; give at least as many"
        raise FieldError("total_steps", cfg.total_steps, fix)
    if saved is not None and cfg.total_steps <= saved.step and _is_finished(folder):
        fix = f"the run is finished; give total_steps=<more than {saved.step}> to train on"
        raise FieldError("resume", str(folder), fix)
    if saved is not None and not getattr(cfg.env, "exact_resume", True):
        skipped.append(inexact(cfg.env))
    for path in (folder / "checkpoints" / str(step) for step in checkpoint.steps(folder)):
        if saved is not None and int(path.name) > saved.step:
            checkpoint.set_aside(path)
    return cfg, saved, skipped


def inexact(env: Any) -> str:
    """The sentence for a world that cannot be resumed exactly. Args: env: its Config."""
    return (
        f"{config.label(env)} is a foreign environment, whose state cannot be kept: running episodes are cut "
        "off here and new ones begin, so that this run differs from one that never stopped"
    )


def _change(node: dict[str, Any], overrides: Sequence[str]) -> tuple[str, ...]:
    """Apply `key=value` overrides to a stored config in place; returns the packages trusted now."""
    from omegaconf import OmegaConf

    given = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(given, dict)
    for key, value in given.items():
        if key not in _MAY_CHANGE:
            raise FieldError(
                str(key), value, f"a resumed run keeps it; only {', '.join(_MAY_CHANGE)} may be given"
            )
        if key == "logger" and isinstance(value, str):
            value = compose.read_option("logger", value)
        both = isinstance(value, dict) and isinstance(node.get(key), dict)
        node[str(key)] = node[key] | value if both else value
    return compose.trusted({str(k): v for k, v in given.items()})


def _is_finished(folder: Path) -> bool:
    return (folder / "results.json").is_file() and results.read(folder)["status"] == "finished"


def refuse_existing(cfg: RunConfig) -> None:
    """A folder with a run in it is never written over."""
    if _is_finished(cfg.folder):
        fix = "read its results.json, or give run_id=<another name> or seed=<another number>"
        raise MarlError(f"{cfg.folder} holds this run, finished: {fix}")
    if checkpoint.steps(cfg.folder):
        raise MarlError(
            f"{cfg.folder} holds this run, unfinished: continue it with 'marl train resume={cfg.folder}', "
            "or give run_id=<another name>"
        )
