"""Same seed, config, threads and batch: bit-identical metrics, networks, memory and episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
    for run_id, seed in (("one", 4), ("two", 4), ("other", 5)):
        marl.train(run_id, *WORDS, f"seed={seed}")
    same_everything(runs / "one", runs / "two")
    with pytest.raises(AssertionError, match="differ in metrics"):
        same_everything(runs / "one", runs / "other")
