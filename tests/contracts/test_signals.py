"""SIGTERM and SIGINT end a run with a checkpoint, one sentence and the shell's exit code."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from marl import checkpoint, cli, files

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

QUICK = ("logger=none", "video=false", "threads=1", "evaluation.episodes=4", "evaluation.final_episodes=8")
WORDS = ("env=relay_game", "agent=iql", "agent.hidden=8", "num_envs=4", "logger.every_steps=40", "seed=5")
EVALUATION = ("evaluation.every_steps=200", "checkpoint.every_steps=1e9")


def wait_for_rows(run: Path, count: int) -> int:
    """Until the run has logged so many rows; the step of the last."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
        if len(lines) >= count:
            return int(json.loads(lines[-1])["step"])
        time.sleep(0.02)
    raise AssertionError("the run logs nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on_bit_for_bit(
    number: signal.Signals, marl: Marl, same_everything: Callable[[Path, Path], None]
) -> None:
    run = marl.folder / "runs" / "broken"
    words = (*QUICK, *WORDS, *EVALUATION)
    process = marl.start("train", *words, "run_id=broken", "total_steps=1e9")
    wait_for_rows(run, 5)
    process.send_signal(number)
    shown = marl.end(process, 128 + number)
    saved, skipped = checkpoint.latest(run)
    assert saved is not None
    assert skipped == []
    assert f"marl: {number.name} at step {saved.step:,}: checkpoint" in shown
    assert "marl train resume=runs/broken" in shown
    assert "Traceback" not in shown
    assert json.loads((run / "results.json").read_bytes())["status"] == "interrupted"
    if number == signal.SIGTERM:
        end = saved.step + 200
        marl.run("train", "resume=runs/broken", f"total_steps={end}")
        assert json.loads((run / "config.json").read_bytes())["total_steps"] == end
        marl.run("train", *words, "run_id=whole", f"total_steps={end}")
        same_everything(run, marl.folder / "runs" / "whole")


_SLOW = """
import sys, time
from marl import cli, train
measure = train._Session._measure
def slow(self, episodes, name):
    if name == "final":
        time.sleep(200)
    return measure(self, episodes, name)
train._Session._measure = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_signal_does_not_wait_for_the_final_evaluation(marl: Marl) -> None:
    started = time.monotonic()
    process = marl.python(_SLOW, "train", *QUICK, *WORDS, "run_id=run", "total_steps=42")
    assert process.stdout is not None
    while "final evaluation over 8 episodes" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    shown = marl.end(process, 128 + signal.SIGINT)
    assert time.monotonic() - started < 190
    assert "marl: SIGINT at step 44: checkpoint runs/run/checkpoints/44 is written" in shown
    assert "Traceback" not in shown
    results = marl.folder / "runs" / "run" / "results.json"
    assert json.loads(results.read_bytes())["status"] == "interrupted"
    marl.run("train", "resume=runs/run")
    assert json.loads(results.read_bytes())["status"] == "finished"


def test_a_run_folder_is_never_written_over(
    marl: Marl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert cli.main(["train", *words]) == 2
        return capsys.readouterr().err

    marl.train("run", *WORDS, "total_steps=40")
    monkeypatch.chdir(marl.folder)
    same = (*QUICK, *WORDS, "run_id=run", "total_steps=40")
    again = refused(*same)
    assert "holds this run, finished" in again
    assert "give run_id=<another name>" in again
    assert "the run is finished; give total_steps=<more than 40>" in refused("resume=runs/run")
    assert "a resumed run keeps it" in refused("resume=runs/run", "agent.hidden=9")
    assert "the run has made 40 steps already" in refused("resume=runs/run", "total_steps=8")
    assert "trust='os' cannot be used" in refused("resume=runs/run", "total_steps=80", "trust=os")
    newest = marl.folder / "runs" / "run" / "checkpoints" / "99"
    newest.mkdir()  # as if another process were just writing here
    with files.lock(marl.folder / "runs" / "run"):
        assert "another process is running in runs/run" in refused("resume=runs/run", "total_steps=80")
    assert newest.is_dir()  # not set aside
    newest.rmdir()
    (marl.folder / "runs" / "run" / "results.json").unlink()
    assert "holds this run, unfinished: continue it with 'marl train resume=runs/run'" in refused(*same)
