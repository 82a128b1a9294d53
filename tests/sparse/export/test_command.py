"""`marl export` from a run folder: what it writes and says, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from marl import cli
from marl.measure import load_agent, load_run
from marl.sparse.export import load

RUN = ("env=relay_game", "agent=qmix", "agent.hidden=8", "run_id=made", "total_steps=40", "logger=none")
RUN += ("video=false", "evaluation.episodes=1", "evaluation.final_episodes=0", "num_envs=2", "threads=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", *RUN, f"runs_dir={folder}"]) == 0
    return folder / "made"


def test_packed_and_torch(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", f"run={run}", "format=packed", f"out={tmp_path / 'deep' / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert (
        f"made, checkpoint 40: {tmp_path / 'deep' / 'out'} is written and gives the policy's numbers" in shown
    )
    assert "bytes of weights, all layers dense" in shown
    policy, expected = load(tmp_path / "deep" / "out"), load_agent(*load_run(run)).export()
    inputs = policy.example(3)
    assert all(a.equal(b) for a, b in zip(policy(*inputs), expected(*inputs), strict=True))
    assert {policy.about[name] for name in ("run_id", "step", "env", "agent")} == {
        "made",
        40,
        "relay_game",
        "qmix",
    }

    assert cli.main(["export", f"run={run}", "format=torch"]) == 0
    assert (run / "policy-40.pt2").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["format=packed"], "run is missing: give run=<run folder>"),
        (["run={run}"], "format is missing: give format=packed, onnx or torch"),
        (["run={run}", "format=zip"], "format='zip' cannot be used: give one of packed, onnx, torch"),
        (["run={run}", "format=packed", "x=1"], "x is not a setting of marl export: use run, format, out"),
        (["run={run}", "format=packed", "out={run}"], "it exists: give another path, or remove it first"),
        (["run={run}", "format=packed", "checkpoint=7"], "checkpoint=7 cannot be used: the run has: 40"),
        (["run={run}/none", "format=packed"], "there is no checkpoint in this folder"),
    ],
)
def test_errors(words: list[str], sentence: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", *(word.format(run=run) for word in words)]) == 2
    assert sentence in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"format={name}" in shown for name in ("packed", "onnx", "torch"))


def test_an_agent_that_cannot_say_how_it_acts(run: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("marl.sparse.export.run.load_agent", lambda *_: torch.nn.Identity())
    assert cli.main(["export", f"run={run}", "format=packed"]) == 2
    assert "agent=qmix cannot be exported: its class has no method export" in capsys.readouterr().err
