"""Methods of a study side by side: who is compared with whom, on what, and the numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from marl import compare, study

FILE = """
name: games
overrides: [logger=none]
parts:
  - name: both
    grid:
      - [[env=matrix_game, total_steps=100], [env=relay_game, total_steps=200]]
      - [agent=iql, [agent=vdn, agent.hidden=8]]
    seeds: 0-1
  - name: alone
    overrides: [env=matrix_game, agent=qmix, total_steps=100]
    seeds: 0
"""
IQL, VDN = "agent=iql", "agent=vdn agent.hidden=8"


@pytest.fixture
def jobs(tmp_path: Path) -> list[study.Job]:
    (tmp_path / "study.yaml").write_text(FILE)
    return study.from_file(tmp_path / "study.yaml").jobs


def finish(jobs: list[study.Job], scores: dict[tuple[str, str, int], float], name: str = "success") -> Any:
    """Results of the runs whose (task, method, seed) is named."""
    called = compare.names(jobs)
    keys = [(*called[job.cfg.run_id], job.cfg.seed) for job in jobs]
    return [
        (job, {"final": {name: [[scores[k] + 0.1, scores[k] - 0.1]]}})
        for job, k in zip(jobs, keys, strict=True)
        if k in scores
    ]


def test_a_method_is_what_does_not_belong_to_the_task(jobs: list[study.Job]) -> None:
    called = compare.names(jobs)
    names = {(job.part, *called[job.cfg.run_id]) for job in jobs}
    tasks = ("matrix_game_qtran", "relay_game")
    assert names == {("both", t, m) for t in tasks for m in (IQL, VDN)} | {("alone", tasks[0], "qmix")}


def test_tasks_of_one_label_keep_their_settings(tmp_path: Path) -> None:
    text = "name: a\noverrides: [env=relay_game, agent=iql]\ngrid: [[env.signals=3, env.signals=4]]"
    (tmp_path / "s.yaml").write_text(text)
    jobs = study.from_file(tmp_path / "s.yaml").jobs
    assert [task for task, _ in compare.names(jobs).values()] == [
        "relay_game env.signals=3",
        "relay_game env.signals=4",
    ]


def test_improvement_by_hand(jobs: list[study.Job]) -> None:
    """On the first task IQL's seeds win two pairs, tie one and lose one: 2.5 of 4; on the second, none: 0."""
    game, relay = "matrix_game_qtran", "relay_game"
    won = finish(
        jobs,
        {
            (game, IQL, 0): 0.9, (game, IQL, 1): 0.5, (game, VDN, 0): 0.5, (game, VDN, 1): 0.7,
            (relay, IQL, 0): 0.2, (relay, IQL, 1): 0.2, (relay, VDN, 0): 0.3, (relay, VDN, 1): 0.4,
            (game, "qmix", 0): 0.5,
        },
    )  # fmt: skip
    rows = [line for line in compare.improvement_table(won).splitlines() if line.startswith("| both")]
    cells = [cell.strip() for cell in rows[0].split("|")[1:-1]]
    assert len(rows) == 1
    assert cells[:4] == ["both", IQL, VDN, f"{(2.5 / 4 + 0) / 2:.2f}"]
    assert cells[5:] == ["2", "2, 2"]
    assert compare.improvement_table([w for w in won if w[0].part == "alone"]) == ""


def test_seeds_that_a_task_lacks_are_left_out_and_returns_need_one_task(
    jobs: list[study.Job], tmp_path: Path
) -> None:
    game, relay = "matrix_game_qtran", "relay_game"
    scores = {(t, m, s): 0.5 for t in (game, relay) for m in (IQL, VDN) for s in (0, 1)}
    del scores[relay, VDN, 1]
    done = finish(jobs, scores)
    (row,) = (line for line in compare.improvement_table(done).splitlines() if line.startswith("| both"))
    assert row.endswith("| 0.50 | - | 2 | 2, 1 |")
    (picture,) = compare.profiles(done, "games", tmp_path)
    assert picture == tmp_path / "games_both_profiles.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert compare.profiles(finish(jobs, scores, "return"), "games", tmp_path) == []
    one = {k: v for k, v in scores.items() if k[0] == game}
    assert len(compare.profiles(finish(jobs, one, "return"), "games", tmp_path)) == 1
