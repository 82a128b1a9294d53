"""Runs of the command line in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.forge import Forge, Forged

ROOT = Path(__file__).resolve().parents[2]
Process = subprocess.Popen[str] | Forged
QUICK = ("logger=none", "video=false", "threads=1", "evaluation.episodes=4", "evaluation.final_episodes=8")


class Marl:
    """`marl` in a folder.

    Args:
        folder: where it runs; run folders land in its runs/.
        forge: starts processes that need not be fresh interpreters.
    """

    def __init__(self, folder: Path, forge: Forge) -> None:
        self.folder, self.forge = folder, forge
        self.started: list[Process] = []

    def start(self, *words: str, **environment: str) -> Forged:
        """`marl <words>`, beside whatever else runs; ended with the test."""
        made = self.forge.start(words, self.folder, environment)
        self.started.append(made)
        return made

    def fresh(self, *words: str) -> str:
        """`marl <words>` to its end in an interpreter of its own, with its own hash seed."""
        return self.end(self._start([sys.executable, "-m", "marl.cli", *words], {}))

    def python(
        self, code: str, *words: str, prefix: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[str]:
        """Code of a test in a process of its own; `prefix` is a command that starts it."""
        return self._start([*prefix, sys.executable, "-c", code, *words], environment)

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self, process: Process, code: int = 0) -> str:
        """Wait for it; its output, after the exit code was checked."""
        shown, _ = process.communicate(timeout=240)
        assert process.returncode == code, shown
        return shown

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        return self.end(self.start(*words, **environment), code)

    def train(self, run_id: str, *words: str, code: int = 0) -> str:
        """A short, silent run."""
        return self.run("train", *QUICK, f"run_id={run_id}", *words, code=code)


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    made = Forge(ROOT)
    yield made
    made.close()


@pytest.fixture
def marl(tmp_path: Path, forge: Forge) -> Iterator[Marl]:
    made = Marl(tmp_path, forge)
    yield made
    for process in made.started:
        process.kill()  # does nothing where it has ended
        if isinstance(process, Forged):
            process.communicate()
        else:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in lines]


def everything(run: Path) -> dict[str, Any]:
    """All that two equal runs must agree on to the last bit: hashes of the state, curves, episodes."""
    (folder,) = (run / "checkpoints").iterdir()
    meta = json.loads((folder / "meta.json").read_bytes())
    results = json.loads((run / "results.json").read_bytes())
    curve = [{k: v for k, v in entry.items() if k != "wall_s"} for entry in results["curve"]]
    hashes = {name: entry["sha256"] for part in ("files", "memory") for name, entry in meta[part].items()}
    return {
        "metrics": rows(run),
        "curve": curve,
        "final": results["final"],
        "status": results["status"],
        "counters": meta["info"]["counters"],
        "state": meta["state"],
        "hashes": hashes,
    }


@pytest.fixture
def same_everything() -> Callable[[Path, Path], None]:
    """Asserts that two runs agree on everything, naming the first part that differs."""

    def check(one: Path, two: Path) -> None:
        a, b = everything(one), everything(two)
        assert a
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == b[name], f"{one.name} and {two.name} differ in {name}"

    return check
