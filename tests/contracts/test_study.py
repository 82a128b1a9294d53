"""A study goes on where it stopped: finished runs are skipped, broken ones continue, failures are named."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from marl import checkpoint

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl
    from tests.contracts.forge import Forged

FILE = """
name: tiny
overrides: [env=matrix_game, agent.hidden=8, num_envs=4, logger=none, logger.every_steps=20, video=false,
            evaluation.episodes=2, evaluation.final_episodes=3, evaluation.every_steps=1000]
workers: 2
parts:
  - name: quick
    overrides: [agent=vdn, total_steps=40]
    seeds: 0
  - name: broken
    overrides: [agent=iql, total_steps=40, agent.learning_rate=1e30, agent.max_grad_norm=1e30,
                loop.updates.ratio=10, loop.updates.per=step]
    seeds: 0
  - name: long
    overrides: [agent=iql, total_steps=1e9]
    seeds: 0
"""


def stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def until(condition: Callable[[], bool], process: Forged) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_study_stops_continues_skips_and_reports(marl: Marl) -> None:
    (marl.folder / "study.yaml").write_text(FILE)
    raw, runs = marl.folder / "raw", marl.folder / "runs" / "tiny"

    # SIGTERM while the endless run is at work: it writes a checkpoint, the study says how to go on.
    process = marl.start("study", "study.yaml")

    def long_runs() -> bool:
        found = [p for p in runs.glob("iql-*/metrics.jsonl") if len(p.read_text().splitlines()) > 5]
        return any(json.loads((p.parent / "config.json").read_text())["total_steps"] > 40 for p in found)

    until(long_runs, process)
    process.send_signal(signal.SIGTERM)
    shown = marl.end(process, 128 + signal.SIGTERM)
    assert "every run has written its checkpoint; the same command goes on from the last checkpoints" in shown
    (vdn,) = (p for p in runs.iterdir() if p.name.startswith("vdn"))
    (long,) = (p for p in runs.glob("iql-*") if checkpoint.steps(p) and checkpoint.steps(p)[0] > 40)
    stopped_at = checkpoint.steps(long)[0]
    assert json.loads((vdn / "results.json").read_bytes())["status"] == "finished"
    assert [p.name for p in raw.iterdir()] == [f"{vdn.name}.json"]

    # Started again with a limit: what is finished is not touched, what diverges is tried twice.
    before = stamps(vdn) | stamps(raw)
    limited = FILE.replace("seeds: 0\n  - name: broken", "seeds: 0\n    trial: true\n  - name: broken")
    (marl.folder / "study.yaml").write_text(limited + "    time_limit_min: 0.35\n")
    shown = marl.run("study", "study.yaml", code=2)
    assert stamps(vdn) | stamps(raw) == before
    assert "3 runs, 1 finished, 2 at a time" in shown
    assert "it is tried once more" in shown
    assert "failed 2 times (code 2)" in shown
    assert "is NaN or infinite" in shown
    assert f"{long.name} reached its time limit; start the study again to continue it" in shown
    assert checkpoint.steps(long)[0] > stopped_at  # it went on from its checkpoint
    assert "1 of 3 runs finished" in (marl.folder / "table.md").read_text()
    assert (marl.folder / "plots" / "tiny.png").is_file()


def test_seeds_and_sweeps_run_as_one_resumable_list(marl: Marl) -> None:
    words = ["train", "-m", "env=matrix_game", "agent=vdn,iql", "seeds=0", "workers=2", "total_steps=20"]
    words += [
        "logger=none",
        "video=false",
        "threads=1",
        "evaluation.episodes=2",
        "evaluation.final_episodes=2",
    ]
    shown = marl.run(*words)
    assert "2 of 2 runs finished" in shown
    assert len(list((marl.folder / "runs").glob("*/results.json"))) == 2
    assert not (marl.folder / "raw").exists()
    again = marl.run(*words)
    assert "2 runs, 2 finished" in again
