"""Study files become checked job lists; finished runs become a table and raw files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from marl import raw, results, study, summary, workers
from marl.errors import CorruptFileError, MarlError

FILE = """
name: games
overrides: [logger=none, env=matrix_game]
threads: 1
workers: 3
time_limit_min: 2
parts:
  - name: learn
    grid:
      - [agent=iql, agent=vdn]
      - [env.game=qtran, [env.game=monotone, total_steps=500]]
    seeds: 0-1
  - name: trial
    overrides: [agent=qmix]
    seeds: 7
    trial: true
    time_limit_min: 3
"""


@pytest.fixture
def made(tmp_path: Path) -> study.Study:
    (tmp_path / "study.yaml").write_text(FILE)
    return study.from_file(tmp_path / "study.yaml", [], {"runs_dir": str(tmp_path / "runs")})


def test_parts_grids_and_seeds_expand_in_order(made: study.Study, tmp_path: Path) -> None:
    assert len(made.jobs) == 2 * 2 * 2 + 1
    assert (made.name, made.workers, made.threads, made.folder) == ("games", 3, 1, tmp_path)
    first, last = made.jobs[0], made.jobs[-1]
    assert first.cfg.run_id.startswith("iql-matrix_game_qtran-s0-")
    assert first.cfg.folder.parent == tmp_path / "runs" / "games"
    assert first.label == "agent=iql env.game=qtran"
    assert (first.part, first.trial, first.time_limit_s) == ("learn", False, 120.0)
    assert (last.part, last.trial, last.time_limit_s) == ("trial", True, 180.0)
    assert last.cfg.seed == 7
    four = next(j for j in made.jobs if j.cfg.env.game == "monotone")
    assert four.cfg.total_steps == 500
    assert len({j.cfg.run_id for j in made.jobs}) == 9


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(FILE)
    given = {"seeds": "3", "threads": 2, "workers": 1, "runs_dir": str(tmp_path)}
    made = study.from_file(tmp_path / "s.yaml", ["num_envs=2", "total_steps=7"], given)
    assert {j.cfg.seed for j in made.jobs} == {3}
    assert {(j.cfg.num_envs, j.cfg.threads) for j in made.jobs} == {(2, 2)}
    assert {j.cfg.total_steps for j in made.jobs} == {7}  # one cell of the grid says 500
    assert not any("total_steps" in j.label for j in made.jobs)
    assert made.workers == 1


def test_the_runs_of_some_parts_alone_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(FILE)
    given = {"runs_dir": str(tmp_path / "runs"), "part": "trial"}
    some, whole = (study.from_file(tmp_path / "s.yaml", [], g) for g in (given, given | {"part": ""}))
    assert [job.part for job in some.asked] == ["trial"]
    assert whole.asked == whole.jobs
    assert [job.label for job in some.jobs] == [job.label for job in whole.jobs]  # of the whole file
    finish(whole.jobs[0], 1.0)
    pool = workers._Pool(some, 1)
    assert [job.part for job, _ in pool.queue] == ["trial"]
    assert pool.steps() == 0
    assert [job for job, _ in workers.finished(some)] == [some.jobs[0]]  # the table is of all parts
    with pytest.raises(MarlError, match="part='lear' cannot be used: the file has: learn, trial"):
        study.from_file(tmp_path / "s.yaml", [], given | {"part": "lear"})


def finish(job: study.Job, success: float) -> None:
    """Leave what a finished run leaves."""
    job.cfg.folder.mkdir(parents=True)
    final = {"return": [[2 * success, 0.0]], "success": [[success, 0.0]]}
    curve = [{"step": s, "wall_s": 1.0, "success": [[success * s / 10, 0.0]]} for s in (0, 10)]
    counters = {"steps": job.cfg.total_steps, "episodes": 1, "updates": 1}
    about: dict[str, Any] = {"status": "finished", "counters": counters, "wall_s": 60.0, "paths": []}
    results.write(job.cfg.folder, results.build(job.cfg, curve=curve, final=final, **about))


def test_finished_runs_are_skipped_and_broken_ones_continue(made: study.Study) -> None:
    job = made.jobs[0]
    assert not workers.is_finished(job)
    assert workers.command(job)[3] == "train"
    assert workers.command(job)[-1] == f"run_id={job.cfg.run_id}"
    (job.cfg.folder / "checkpoints" / "40").mkdir(parents=True)
    assert workers.command(job)[4:] == [f"resume={job.cfg.folder}"]
    finish(made.jobs[1], 1.0)
    assert workers.is_finished(made.jobs[1])
    (made.jobs[1].cfg.folder / "results.json").write_text("{}")
    assert not workers.is_finished(made.jobs[1])


def test_the_table_has_one_row_per_setting_with_its_interval(made: study.Study) -> None:
    for i, job in enumerate(made.jobs[:4]):
        finish(job, [0.5, 1.0, 1.0, 1.0][i])
    found = workers.finished(made)
    text = summary.table(made, found)
    assert "4 of 9 runs finished" in text
    lines = [line for line in text.splitlines() if line.startswith("| learn")]
    assert len(lines) == 2
    cells = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    assert cells[:5] == ["learn", "matrix_game_qtran", "iql", "agent=iql env.game=qtran", "2 (trial)"]
    assert cells[5] == "37.5% [25.0%, 50.0%]"  # seeds scored 0.25 and 0.5
    assert cells[7] == "200,000"  # steps; minutes of a study are no measurement
    assert len(cells) == 8
    summary.write(made, found)
    assert (made.folder / "plots" / "games.png").read_bytes()[:4] == b"\x89PNG"
    assert (made.folder / "table.md").read_text() == text


def test_raw_files_hold_one_row_per_episode(made: study.Study) -> None:
    job = made.jobs[0]
    finish(job, 1.0)
    path = raw.write(made, job)
    data = raw.read(path)
    assert path == made.folder / "raw" / f"{job.cfg.run_id}.json"
    assert data["columns"] == ["return", "success"]
    assert data["episodes"] == [[2.0, 1.0], [0.0, 0.0]]
    assert data["curve_columns"] == ["step", "wall_s", "success"]
    assert data["curve"] == [[0, 1.0, 0.0], [10, 1.0, 0.5]]
    assert (data["part"], data["seed"], data["label"]) == ("learn", 0, job.label)
    lines = path.read_text().splitlines()
    assert "  [2.0, 1.0]," in lines  # one line each, so that a changed episode is a changed line
    stamp = path.stat().st_mtime_ns
    assert raw.write(made, job).stat().st_mtime_ns == stamp
    out = results.read(job.cfg.folder)  # the same run made anew, with newer code perhaps
    results.write(job.cfg.folder, out | {"date": "2100-01-01T00:00:00+00:00", "wall_s": 7.0})
    assert raw.read(raw.write(made, job))["wall_s"] == 7.0
    path.write_text(json.dumps({"schema": 1}))
    with pytest.raises(CorruptFileError, match="not a raw file"):
        raw.read(path)


def test_a_run_known_from_its_raw_file_counts_as_finished(made: study.Study) -> None:
    job, other = made.jobs[:2]
    finish(job, 0.75)
    path = raw.write(made, job)
    kept = results.read(job.cfg.folder)
    shutil.rmtree(job.cfg.folder)  # as in a clone on another machine
    (found,) = workers.finished(made)
    assert found[0] is job
    assert found[1]["final"] == kept["final"]
    assert found[1]["curve"][1] == {"step": 10, "wall_s": 1.0, "success": [[0.375]]}
    assert summary.scores([found], "success") == 0.375
    path.rename(path.with_name(f"{other.cfg.run_id}.json"))
    with pytest.raises(CorruptFileError, match="of another run"):
        workers.finished(made)


def test_two_runs_of_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("grid: [[agent=vdn, agent=vdn]]\noverrides: [env=matrix_game]")
    with pytest.raises(MarlError, match="two runs of the list would be"):
        study.from_file(tmp_path / "s.yaml")
