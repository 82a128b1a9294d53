"""Same seed, config, threads and batch: bit-identical metrics, networks, memory and episodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contracts.conftest import QUICK

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

WORDS = (
    "env=battle/3m",
    "agent=qmix",
    "agent.hidden=16",
    "num_envs=4",
    "total_steps=400",
    "logger.every_steps=80",
)


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(
    marl: Marl, same_everything: Callable[[Path, Path], None]
) -> None:
    runs = marl.folder / "runs"
    marl.train("one", *WORDS, "seed=4")
    marl.train("other", *WORDS, "seed=5")
    marl.fresh("train", *QUICK, *WORDS, "run_id=two", "seed=4")
    same_everything(runs / "one", runs / "two")
    with pytest.raises(AssertionError, match="differ in metrics"):
        same_everything(runs / "one", runs / "other")


def test_evaluate_repeats_the_final_episodes_of_a_run(marl: Marl) -> None:
    """Same seed, same episodes; another seed, other ones; the run's own files are not touched."""
    marl.train("run", *WORDS, "seed=4")
    run = marl.folder / "runs" / "run"
    before = (run / "results.json").read_bytes()
    shown = marl.run("evaluate", "run=runs/run", "episodes=8")
    assert "8 episodes, seed 4, explore 0" in shown
    found = json.loads((run / "evaluation-400-s4-e0-n8.json").read_bytes())
    final = json.loads(before)["final"]
    assert found["episodes"] == {name: rows[0] for name, rows in final.items()}
    assert found["checkpoint"] == 400
    filmed = marl.run("evaluate", "run=runs/run", "episodes=8", "seed=5", "explore=0.5", "video=gif")
    assert "team-400-s5-e0.5-n8.gif" in filmed
    assert (run / "team-400-s5-e0.5-n8.gif").read_bytes()[:4] == b"GIF8"
    other = json.loads((run / "evaluation-400-s5-e0.5-n8.json").read_bytes())
    assert other["episodes"] != found["episodes"]
    assert (run / "results.json").read_bytes() == before
