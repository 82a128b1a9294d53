"""Kill a training run at chosen file operations, resume each one, and compare with the unbroken run.

Run by test_kill.py as a process of its own: `python kill_worker.py <folder> <kills> <lane> <lanes>`, which
makes every lanes-th of the kills and prints one JSON line.
Every run is a forked child, so that torch is imported once. A kill is a real SIGKILL that the child
sends to itself at its k-th operation: before it, or for a write also in the middle of it.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from marl import compose, replay, report, results, resume, train
from marl import files as marl_files
from marl.config import RunConfig

OPERATIONS = ("write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "ftruncate")
WORDS = (
    "env=matrix_game",
    "agent=vdn",
    "agent.hidden=8",
    "num_envs=2",
    "threads=1",
    "logger=none",
    "video=false",
    "total_steps=48",
    "checkpoint.every_steps=16",
    "checkpoint.keep=2",
    "evaluation.every_steps=16",
    "evaluation.episodes=2",
    "evaluation.final_episodes=2",
    "loop.memory.capacity=40",
    "loop.batch.sequences=2",
    "loop.updates.per=step",
    "loop.updates.ratio=0.125",
    "loop.explore.steps=60",
    "run_id=run",
)


class Killer:
    """Counts file operations and ends the process at one of them.

    Args:
        at: number of the operation, from 0; -1 never ends it.
        half: of a write, let half of the bytes through first.
    """

    def __init__(self, at: int, half: bool = False) -> None:
        self.at, self.half, self.names = at, half, list[str]()

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if len(self.names) == self.at:
                if name == "write" and self.half:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            self.names.append(name)
            return real(*args, **options)

        return operation


def child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.__stderr__, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start(cfg: RunConfig, folder: Path, killer: Killer, count_to: Path | None = None) -> None:
    killer.install()
    train.run(dataclasses.replace(cfg, runs_dir=folder))
    if count_to is not None:
        Path(count_to).write_text(json.dumps(killer.names))


def go_on(cfg: RunConfig, folder: Path) -> None:
    """What a user does after a crash: resume, or start where nothing was begun."""
    run = folder / "run"
    if (run / "results.json").is_file() and results.read(run)["status"] == "finished":
        return
    if (run / "config.json").is_file():
        stored, saved, skipped = resume.resume(run)
        assert skipped == [], skipped
        train.run(stored, saved)
    else:
        train.run(dataclasses.replace(cfg, runs_dir=folder))


def outcome(folder: Path) -> dict[str, Any]:
    """All that must not depend on the kill."""
    run = folder / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    found = results.read(run)
    steps = sorted((run / "checkpoints").iterdir(), key=lambda p: p.name)
    metas = [json.loads((p / "meta.json").read_bytes()) for p in steps]
    return {
        "metrics": rows,
        "final": found["final"],
        "curve": [{k: v for k, v in e.items() if k != "wall_s"} for e in found["curve"]],
        "files": [m["files"] for m in metas],
        "memory": [m["memory"] for m in metas],
        "names": sorted(p.name for p in run.iterdir()) + [p.name for p in steps],
    }


def main(folder: Path, kills: int, lane: int, lanes: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    replay._SEGMENT = 8  # several segments, so that unchanged ones are linked

    def small_picture(cfg: Any, agent: Any, curve: Any, sparsity: Any) -> list[Path]:
        marl_files.write_atomic(cfg.folder / report.CURVES, b"picture")
        return []

    report.pictures = small_picture  # drawing takes most of so short a run
    results.git = dict  # asks git nothing
    results.versions(), results.hardware()  # remembered by every child
    cfg = compose.compose(WORDS)
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy every page: two thirds of its time
    whole = folder / "whole"
    assert child(lambda: start(cfg, whole, Killer(-1), folder / "names.json")) == 0
    names = json.loads((folder / "names.json").read_text())
    expected = outcome(whole)
    kinds: dict[str, int] = {}
    for kill in range(lane, kills, lanes):
        at = kill * len(names) // kills
        place = folder / f"k{kill}"
        status = child(
            lambda at=at, place=place, half=kill // lanes % 2 == 1: start(cfg, place, Killer(at, half))
        )
        assert status == -signal.SIGKILL, f"kill {kill} at operation {at} ({names[at]}): status {status}"
        assert child(lambda place=place: go_on(cfg, place)) == 0, (
            f"kill {kill} at operation {at} ({names[at]})"
        )
        found = outcome(place)
        for name, value in expected.items():
            assert found[name] == value, f"kill {kill} at operation {at} ({names[at]}): {name} differs"
        kinds[names[at]] = kinds.get(names[at], 0) + 1
        shutil.rmtree(place)
    return {"operations": len(names), "kinds": kinds, "all": sorted(set(names))}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
