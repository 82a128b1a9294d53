"""Data sets from the command line: teams are played, a fair team learns from them, and resumes exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="h5py is in the extra morl")

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

HUNT = ("env=predator_prey/easy", "agent=vdn", "agent.hidden=16", "num_envs=4", "total_steps=200")
FAIR = (
    "env=predator_prey/easy",
    "agent=fairdice",
    "agent.hidden=16",
    "loop.data=hunts",
    "loop.batch.sequences=16",
    "num_envs=4",
    "evaluation.every_steps=40",
    "checkpoint.every_steps=25",
    "logger.every_steps=10",
)


def test_a_fair_team_learns_from_an_exported_data_set(
    marl: Marl, same_everything: Callable[[Path, Path], None]
) -> None:
    marl.train("one", *HUNT)
    shown = marl.run("export-dataset", "run=runs/one", "out=hunts", "episodes=41", "explore=0.5,1")
    assert "hunts: 41 episodes" in shown
    about = json.loads((marl.folder / "hunts" / "data" / "metadata.json").read_text())["marl"]
    assert [s["explore"] for s in about["sources"]] == [0.5, 1.0]
    assert {s["run_id"] for s in about["sources"]} == {"one"}
    assert about["rewards"] == ["predator_0", "predator_1", "predator_2"]
    marl.train("whole", *FAIR, "total_steps=80", "loop.updates=5")
    marl.train("half", *FAIR, "total_steps=45", "loop.updates=5")
    (marl.folder / "hunts").rename(marl.folder / "gone")  # a run carries its data with it
    marl.run("train", "resume=runs/half", "total_steps=80")
    same_everything(marl.folder / "runs" / "half", marl.folder / "runs" / "whole")


def test_sources_draw_apart(marl: Marl) -> None:
    """One run twice at random: what is drawn for the second is another episode."""
    marl.train("one", *HUNT)
    marl.run("export-dataset", "run=runs/one,runs/one", "out=twice", "episodes=2", "explore=1")
    with h5py.File(marl.folder / "twice" / "data" / "main_data.hdf5") as file:
        actions = [file[f"episode_{i}"]["actions"][:] for i in range(2)]
    assert not np.array_equal(*actions)


def test_a_memory_is_exported_as_it_is(marl: Marl) -> None:
    marl.train("one", *HUNT)
    words = ("export-dataset", "run=runs/one", "out=spoiled", "episodes=3")
    shown = marl.run(*words, "random=0,0.5,1", "env.mode=cooperative")
    assert "spoiled: 3 episodes" in shown
    about = json.loads((marl.folder / "spoiled" / "data" / "metadata.json").read_text())["marl"]
    assert (about["world"]["mode"], about["sources"][0]["random"]) == ("cooperative", [0, 0.5, 1])
    said = marl.run(*words[:2], "out=other", "env.vision=1", code=2)
    assert "it changes obs_size, which the team was trained with" in said
    shown = marl.run("export-dataset", "run=runs/one", "out=memory", "memory=true")
    assert "episodes" in shown
    said = marl.run("export-dataset", "run=runs/one", "out=new", "memory=true", "random=0.5", code=2)
    assert "memory='true' cannot be used: it is stored as it was played" in said
    said = marl.run("export-dataset", "run=runs/one", "out=new", "memory=true", "episodes=3", code=2)
    assert "episodes='3' cannot be used: leave it out: memory=true stores all episodes" in said
    again = marl.run("export-dataset", "run=runs/one", "out=memory", "memory=true", code=2)
    assert "memory exists already" in again


def test_wrong_words_are_refused(marl: Marl) -> None:
    assert "out is missing: give out=" in marl.run("export-dataset", "run=runs/one", code=2)
    assert "speed is not a setting of marl export-dataset" in marl.run("export-dataset", "speed=3", code=2)
    words = ("export-dataset", "run=a", "out=b")
    assert "random='x'" in marl.run(*words, "random=0,x", code=2)
    assert "explore='2'" in marl.run("export-dataset", "run=a", "out=b", "explore=0,2", code=2)
