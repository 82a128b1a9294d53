"""FairDICE's studies: measures by hand, choices and claims from made-up raw files, stacks of processes."""

import json

import numpy as np
import pytest
import torch

from experiments.fairdice import metrics, random_processes, stages
from experiments.fairdice.robots import report as robots
from experiments.fairdice.teams import report as teams
from marl import compose, train
from marl.errors import MarlError
from marl.study import Job


def test_measures_by_hand():
    returns = np.array([[1.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
    assert metrics.jain(returns).tolist() == pytest.approx([1.0, 0.8, 0.5])
    assert metrics.nash(returns).tolist() == [0.0, pytest.approx(np.log(3)), -np.inf]
    # 10 steps of rewards from -1 to 3: a return of -10 is nothing, one of 30 all of them.
    found = metrics.scaled(np.array([[-10.0], [30.0]]), np.array([10, 10]), np.array([-1.0]), np.array([3.0]))
    assert found.tolist() == [[0.0], [10.0]]


def raw(folder, name, words, seed, episodes, objectives=("a", "b"), part=""):
    """A measured run: rows of (length, returns)."""
    data = {
        "part": part,
        "seed": seed,
        "overrides": words,
        "columns": ["length", *objectives],
        "episodes": episodes,
        "git": {"commit": "abc", "dirty": False},
        "hardware": {"cpu": "x"},
        "date": "2026-01-01T00:00:00",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{seed}.json").write_text(json.dumps(data))
    return folder / f"{name}-{seed}.json"


def limits(folder, name, low, high):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"low": low, "high": high, "mean_scaled": [1.0, 1.0]}))


def test_teams_are_compared_seed_by_seed(tmp_path, monkeypatch):
    """Nash gives (4, 4), the sum (9, 3) and (8, 4): Jain's index 1 against 0.8 and 0.9."""
    monkeypatch.setattr(teams, "RAW", tmp_path / "raw")
    limits(tmp_path / "raw" / "data", "hunt", [0.0, 0.0], [1.0, 1.0])
    folder, paths = tmp_path / "raw" / "hunt", []
    fair = ["agent=fairdice", f"agent.beta={teams.BETA}"]
    for seed, other in enumerate(([[9, 5, 3], [9, 13, 3]], [[9, 8, 4]])):
        paths.append(raw(folder, "nash", [*fair, "agent.alpha=1"], seed, [[9, 3, 4], [9, 5, 4]]))
        paths.append(raw(folder, "sum", [*fair, "agent.alpha=0"], seed, other))
    raw(folder, "bc", ["agent=bc"], 0, [[9, 1, 1]])
    value, low, high, n = teams.jain_gain(*paths)
    assert (value, n) == (pytest.approx(0.15), 2)
    assert low <= value <= high
    table = teams.table({"hunt": stages.read(sorted(folder.glob("*.json")))})
    assert "| hunt | cloning | 1 | 1.000 |" in table
    assert f"| hunt | sum, beta {teams.BETA} | 2 | 0.850" in table


@pytest.fixture
def hopper(tmp_path, monkeypatch):
    """A sweep whose best run has beta 1, linear weights whose best are [0.5,0.5], two methods."""
    monkeypatch.setattr(robots, "RAW", tmp_path / "raw")
    here = tmp_path / "raw" / "hopper"
    limits(tmp_path / "raw" / "data", "hopper", [0.0, 0.0], [2.0, 2.0])
    words = ["env=d4morl/hopper", "agent=fairdice"]
    for beta, got in (("0.1", [10, 8, 2]), ("1", [10, 6, 6])):
        raw(here / "sweep", f"b{beta}", [*words, f"agent.beta={beta}", "agent.penalty=0"], 100, [got])
    for weight, got in (("[0.9,0.1]", [10, 16, 1]), ("[0.5,0.5]", [10, 6, 4])):
        raw(here / "sweep_linear", weight, [*words, f"agent.weights={weight}"], 100, [got])
    for seed in range(5):
        raw(here / "fairdice", "f", words, seed, [[10, 4, 8], [10, 8, 4]])
        raw(here / "cloning", "c", words, seed, [[10, 4, 4]])
        raw(here / "linear", "l", words, seed, [[10, 4, 8], [10, 8, 8]])
    return here


def test_a_run_is_measured_once_and_makes_data(tmp_path, monkeypatch):
    """The raw file holds the settings and every agent's return; a second call leaves it alone."""
    monkeypatch.chdir(tmp_path)
    words = ["env=predator_prey_continuous", "env.n_agents=2", "env.reward=own", "env.limit=5", "agent=ippo"]
    words += ["agent.hidden=8", "num_envs=2", "loop.rollout_steps=5", "total_steps=20", "logger=none"]
    words += ["video=false", "evaluation.episodes=1", "evaluation.final_episodes=1", "threads=1"]
    cfg = compose.compose(words)
    train.run(cfg)
    job = Job(cfg=cfg, overrides=tuple(words), part="hunt")
    stages.measure([job], tmp_path / "raw", episodes=3, explore=1.0)
    (path,) = (tmp_path / "raw").glob("*.json")
    assert path == stages.raw_file(job, tmp_path / "raw")
    (cell,) = stages.read([path])
    assert (cell.part, cell.seed, cell.words["env.limit"]) == ("hunt", 0, "5")
    assert cell.objectives == ("predator_0", "predator_1")
    assert (cell.return_EK.shape, cell.length_E.tolist()) == ((3, 2), [5, 5, 5])
    before = path.read_bytes()
    stages.measure([job], tmp_path / "raw", episodes=9, explore=1.0)
    assert path.read_bytes() == before
    pytest.importorskip("h5py", reason="h5py is in the extra morl")
    made = []

    def runs():
        made.append(1)
        return [cfg.folder]

    for _ in range(2):
        stages.export(
            runs, tmp_path / "data" / "hunt", tmp_path / "raw" / "data", episodes=4, random=(0.5, 1.0)
        )
    row = json.loads((tmp_path / "raw" / "data" / "hunt.json").read_text())
    assert (made, row["episodes"], row["steps"]) == ([1], 4, 20)
    assert row["sources"][0]["random"] == [0.5, 1.0]
    assert len(row["low"]) == len(row["mean_scaled"]) == 2


def test_robots_choices_and_gains(hopper):
    assert robots.chosen("hopper") == {"beta": "1", "penalty": "0", "weights": "[0.5,0.5]"}
    paths = sorted(p for name in ("fairdice", "cloning") for p in (hopper / name).glob("*.json"))
    value, low, high, n = robots.gain(*paths)  # log 2 + log 4 against log 2 + log 2, scaled by 2
    assert (value, low, high) == (pytest.approx(np.log(2)),) * 3
    assert n == 5
    assert robots.methods("hopper").keys() == {"fairdice", "cloning", "linear"}
    assert "| hopper | fairdice | 5 | 2.079" in robots.table()
    assert "| hopper | 1 | 0 | [0.5,0.5] |" in robots.choices()
    with pytest.raises(MarlError, match=r"the sweep of swimmer has no raw file: run python -m"):
        robots.chosen("swimmer")


def test_claims_name_the_robot_with_the_largest_gain(hopper, monkeypatch):
    written = {}
    monkeypatch.setattr(robots, "ROOT", hopper.parent)
    monkeypatch.setattr(robots, "write_claim", lambda **row: written.update({row["id"]: row}))
    robots.claims()
    assert list(written) == ["fairdice.nsw_minus_bc_best_env", "fairdice.nsw_minus_best_linear"]
    linear = [hopper.parent / path for path in written["fairdice.nsw_minus_best_linear"]["raw"]]
    worse = robots.gain(*linear)[0]  # the mean of log 8 and log 8 against that of log 8 and log 16
    assert worse == pytest.approx(-np.log(2) / 2)
    row = written["fairdice.nsw_minus_bc_best_env"]
    assert "on hopper" in row["note"]
    assert (len(row["raw"]), row["trial"]) == (10, False)


def test_stacks_refuse_and_fall_back(monkeypatch):
    """One process of three is never rewarded; the stack of the others is solved, then one by one."""
    monkeypatch.setattr(random_processes, "ALPHAS", (0.0, 1.0))
    monkeypatch.setattr(random_processes, "BETAS", (1.0, 0.1))
    data = random_processes._data

    def spoiled(seed, tables):
        model, data_SA = data(seed, tables)
        return (model, data_SA) if seed != 1 else (model, torch.zeros_like(data_SA))

    monkeypatch.setattr(random_processes, "_data", spoiled)
    rows = list(random_processes.solved(range(3), 0))
    assert [row["solver"] for row in rows] == ["refused"] + ["newton"] * 8
    assert {row["seed"] for row in rows[1:]} == {0, 2}
    assert all(row["return_0"] > 0 for row in rows[1:])
    newton = random_processes.newton

    def alone(problem, start=None):
        if problem.data_SA.dim() == 3:
            raise MarlError("did not converge")
        return newton(problem)

    monkeypatch.setattr(random_processes, "newton", alone)
    again = list(random_processes.solved(range(3), 0))
    for one, other in zip(rows[1:], again[1:], strict=True):
        assert one["return_1"] == pytest.approx(other["return_1"], abs=1e-6)
