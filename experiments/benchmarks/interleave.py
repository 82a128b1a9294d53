"""Sides that take turns: A B A B, each in its own warm process."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.benchmarks.machine import ROOT
from marl.errors import MarlError
from marl.files import write_atomic

Row = dict[str, Any]


class Worker:
    """A process that prepares a case and measures it when asked; see `workers.protocol`.

    Args:
        python: interpreter of the side.
        module: module below experiments.benchmarks.workers, with its arguments.
        threads: processors it may use; it is pinned to that many.
    """

    def __init__(self, python: Path | str, module: Sequence[str], *, threads: int) -> None:
        self.name = module[0]
        cores = sorted(os.sched_getaffinity(0))[:threads]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # as marl.runtime sets it for `marl`; JAX has no OpenMP
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".benchmark-venvs" / "jax-cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long; a full pipe would block)
        self.process = subprocess.Popen(
            [str(python), "-m", f"experiments.benchmarks.workers.{module[0]}", *module[1:]],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its reply. Raises MarlError when the process has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            while line := self.process.stdout.readline():
                if line.startswith("{"):
                    reply: dict[str, Any] = json.loads(line)
                    return reply
        except BrokenPipeError:
            pass
        self.errors.seek(0)
        raise MarlError(f"worker {self.name} died:\n{self.errors.read()[-2000:]}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def interleave(
    sides: Mapping[str, Worker], *, repetitions: int, seconds: float, about: Mapping[str, Any]
) -> list[Row]:
    """Measure every side in turn, `repetitions` times over.

    Args:
        sides: name and prepared worker, in the order of turns.
        repetitions: turns of each side.
        seconds: at least so long a turn.
        about: columns that every row of this case carries.

    Returns:
        One row per turn: about, side, repetition, steps, seconds.
    """
    rows: list[Row] = []
    for repetition in range(repetitions):
        for name, worker in sides.items():
            reply = worker.ask(measure=seconds)
            rows.append({**about, "side": name, "repetition": repetition, **reply})
    return rows


def rate(row: Mapping[str, Any]) -> float:
    """Team steps per second of one raw row."""
    return float(row["steps"]) / float(row["seconds"])


def ratios(rows: Sequence[Mapping[str, Any]], ours: str, peer: str) -> tuple[float, float, float, int]:
    """Our rate over the peer's: ratio of medians, and the least and largest ratio of one turn.

    Returns:
        (value, low, high, number of turns). Turns are paired by repetition: side by side in time.
    """
    mine, theirs = ([rate(r) for r in rows if r["side"] == side] for side in (ours, peer))
    turns = [a / b for a, b in zip(mine, theirs, strict=True)]
    return statistics.median(mine) / statistics.median(theirs), min(turns), max(turns), len(turns)


def spread(values: Sequence[float]) -> tuple[float, float, float, int]:
    """(median, least, largest, count) of repetitions."""
    return statistics.median(values), min(values), max(values), len(values)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write raw rows as CSV; columns in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read raw rows; every value is text."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
