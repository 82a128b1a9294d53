"""The accuracy study of sparse layers: its file, the table and the claims from raw files made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.sparse import accuracy
from marl import study
from marl.errors import MarlError

FILE = Path(accuracy.HERE) / "study.yaml"


def write(folder: Path, seed: int, wins: int, words: str, hash: str = "") -> Path:
    """A raw file of ten final episodes of which so many were won."""
    overrides = words.split()
    raw = {
        "seed": seed,
        "overrides": overrides,
        "columns": ["return", "success"],
        "episodes": [[0.5, 1.0]] * wins + [[0.5, 0.0]] * (10 - wins),
        "config_hash": hash or words,
    }
    path = folder / f"ic3net-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(raw))
    return path


def settings(folder: Path, words: str, wins: list[int]) -> list[Path]:
    return [write(folder, seed, count, words) for seed, count in enumerate(wins)]


GROUPED = "sparsity=grouped agent.sparsity.smallest=1"
LEARNED = " ".join(f"agent.sparsity.{option}" for option in accuracy.LEARNED)


def test_a_row_is_read_from_the_words_of_its_run(tmp_path: Path) -> None:
    recipe = " ".join(f"agent.sparsity.{option}" for option in accuracy.RECIPE)
    paths = [
        *settings(tmp_path, "env.n_agents=4 sparsity=none", [9]),
        *settings(tmp_path, f"env.n_agents=8 groups=8 {GROUPED} {LEARNED}", [7]),
        *settings(tmp_path, f"env.n_agents=4 groups=16 {GROUPED} {recipe}", [6]),
        *settings(tmp_path, "env.n_agents=4 sparsity=magnitude agent.sparsity.end=750", [5]),
    ]
    found = [(r.agents, r.kind, r.groups, r.options, r.success) for r in accuracy.read(paths)]
    assert found == [
        (4, "none", 1, (), 0.9),
        (8, "grouped", 8, accuracy.LEARNED, 0.7),
        (4, "grouped", 16, accuracy.RECIPE, 0.6),
        (4, "magnitude", 0, (), 0.5),
    ]


def test_differences_are_in_points_and_cover_zero_where_sides_are_equal(tmp_path: Path) -> None:
    dense = settings(tmp_path, "env.n_agents=8 sparsity=none", [8, 9, 8, 9, 10])
    learned = settings(tmp_path, f"env.n_agents=8 groups=8 {GROUPED}", [8, 9, 8, 9, 10])
    random = settings(tmp_path, "env.n_agents=8 groups=8 sparsity=random_groups", [5, 6, 5, 7, 6])
    value, low, high, n = accuracy.over_dense(*dense, *learned)
    assert (value, n) == (0.0, 5)
    assert low is not None
    assert high is not None
    assert low < 0 < high
    value, low, _, _ = accuracy.over_random(*learned, *random)
    assert value == pytest.approx(100 * (26 / 30 - 17 / 30))  # the middle three of five
    assert low is not None
    assert low > 0


def test_a_setting_of_two_configs_is_refused(tmp_path: Path) -> None:
    words = "env.n_agents=4 sparsity=none"
    paths = [write(tmp_path, seed, 9, words, hash=str(seed)) for seed in range(2)]
    with pytest.raises(MarlError, match="different configs"):
        accuracy.pick(accuracy.read(paths), 4, "none", 1)


def test_every_cell_of_the_tables_has_runs_in_the_study(tmp_path: Path) -> None:
    """The file's own words, each run won as often as its seed says, fill tables and claims."""
    jobs = study.from_file(FILE, given={"seeds": "0"}).jobs  # composing five seeds takes five times as long
    assert len(jobs) == 28
    (teacher,) = (job for job in jobs if job.part == "teacher")
    named = [job.cfg.agent.sparsity.distil for job in jobs if job.cfg.agent.sparsity is not None]
    assert {name for name in named if name} == {str(teacher.cfg.folder)}
    for job in (job for job in jobs if job is not teacher):  # its raw file has another name
        for seed in range(5):
            write(tmp_path, seed, 5 + seed, " ".join(job.overrides), hash=job.cfg.hash)
    runs = accuracy.read(sorted(tmp_path.iterdir()))
    rows = [line for line in accuracy.table(runs).splitlines() if line.startswith("| ") and "%" in line]
    assert len(rows) == (5 + 5 + 5) + 6 + (1 + 3) + (1 + 5)
    assert not any("trial" in row or "| - | - " in row for row in rows)
    for agents in accuracy.AGENTS:
        for groups in accuracy.GROUPS:
            kind, options = ("none", ()) if groups == 1 else ("grouped", accuracy.LEARNED)
            assert len(accuracy.pick(runs, agents, kind, groups, options)) == 5
    assert len(accuracy.pick(runs, 4, "grouped", 16, accuracy.RECIPE)) == 5
    for agents, groups in ((8, 8), (4, 16)):
        assert len(accuracy.pick(runs, agents, "random_groups", groups)) == 5
    accuracy.draw(runs, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
