"""A study's table says what its raw files say, and refuses to mix configs."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import tables
from marl.errors import MarlError


def write(folder: Path, seed: int, agent: str, wins: list[float], **changes: Any) -> Path:
    """A raw file with one final episode per number."""
    label = f"env=grid agent={agent}"
    raw = {
        "part": "easy",
        "seed": seed,
        "steps": 1000,
        "label": label,
        "overrides": ["logger=none", *label.split(), f"seed={seed}"],
        "columns": ["return", "success"],
        "episodes": [[2.0 * win, win] for win in wins],
        "curve_columns": ["step", "wall_s", "return", "success"],
        "curve": [[0, 0.0, 0.0, 0.0], [1000, 1.0, 1.5, 0.75]],
        "config_hash": agent,
        "git": {"commit": "abc", "dirty": False},
        "hardware": {"cpu": "x", "gpu": None, "cores": 2},
        "date": "2026-01-01T10:00:00+00:00",
    }
    path = folder / f"{agent.replace(' ', '_')}-{seed}.json"
    path.write_text(json.dumps(raw | changes))
    return path


def test_the_table_has_means_over_episodes_then_seeds(tmp_path: Path) -> None:
    paths = [write(tmp_path, seed, "team", [1.0, seed / 4]) for seed in range(5)]  # means 0.5 ... 1.0
    paths.append(write(tmp_path, 0, "team agent.messages=false", [0.0, 1.0]))
    runs = tables.read(paths)
    full, mute = tables.groups(runs).values()
    assert [run.scores["success"] for run in full] == [0.5, 0.625, 0.75, 0.875, 1.0]
    assert full[0].curves["success"] == [(0, 0.0), (1000, 0.75)]
    assert (full[0].agent, mute[0].agent) == ("team", "team messages=false")
    first, second = tables.table(runs).splitlines()[2:]
    assert first.startswith("| easy | grid | team | 5 | 75.0% [")  # the middle half of the seeds
    assert second == "| easy | grid | team messages=false | 1 (trial) | 50.0% | 1.00 | 1,000 |"
    assert tables.success(*paths[:5])[0] == pytest.approx(0.75)


def test_an_agents_name_has_what_the_study_says_after_it(tmp_path: Path) -> None:
    """Not what it says of the world before it, nor what every run has."""
    words = ["agent.rate=1", "env=grid", "agent.decay=5", "agent=team", "agent.gate=open", "agent.same=1"]
    label = " ".join(words[1:-1])
    (run,) = tables.read([write(tmp_path, 0, "team", [1.0], overrides=words, label=label)])
    assert run.agent == "team gate=open"


def test_a_world_without_success_is_shown_by_its_return(tmp_path: Path) -> None:
    curve = {"curve_columns": ["step", "wall_s", "return"], "curve": [[0, 0.0, -9.0]]}
    path = write(tmp_path, 0, "team", [], columns=["return"], episodes=[[-4.0], [-2.0]], **curve)
    (run,) = tables.read([path])
    assert run.curves == {"return": [(0, -9.0)]}
    assert tables.table([run]).splitlines()[2] == "| easy | grid | team | 1 (trial) | - | -3.00 | 1,000 |"
    tables.draw([run], tmp_path, "worlds")
    assert (tmp_path / "easy.png").stat().st_size > 1000


def test_runs_of_different_configs_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path, 0, "team", [1.0]), write(tmp_path, 1, "team", [1.0], config_hash="other")]
    with pytest.raises(MarlError, match=r"easy, grid, team: its runs have different configs"):
        tables.table(tables.read(paths))


def test_the_page_changes_between_its_markers_alone(tmp_path: Path) -> None:
    path, page = write(tmp_path, 0, "team", [1.0]), tmp_path / "README.md"
    page.write_text("before\n<!-- study -->\nold\n<!-- /study -->\nafter\n")
    tables.write_page(page, tables.read([path]), [path])
    text = page.read_text()
    assert "old" not in text
    assert "| easy | grid | team | 1 (trial) | 100.0% | 2.00 | 1,000 |" in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- /study -->\nafter\n")


def test_a_panel_shows_returns_where_nobody_succeeds(tmp_path: Path) -> None:
    columns = {"curve_columns": ["step", "wall_s", "success", "return"]}
    rates = [[0, 0.0, 0.0, -9.0], [9, 1.0, 0.04, -3.0]], [[0, 0.0, 0.0, -9.0], [9, 1.0, 0.06, -3.0]]
    few, some = (
        tables.read([write(tmp_path, seed, "team", [1.0], curve=curve, **columns)])
        for seed, curve in enumerate(rates)
    )
    assert [tables._shown(runs) for runs in (few, some, few + some)] == ["return", "success", "success"]
