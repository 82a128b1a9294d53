"""FairDICE's studies: measures by hand, choices and claims from made-up raw files, stacks of processes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.fairdice import metrics, random_processes, stages, tabular
from experiments.fairdice import plots as pictures
from experiments.fairdice.robots import report as robots
from experiments.fairdice.robots.__main__ import Study, plan
from experiments.fairdice.teams import report as teams
from marl import compose, train
from marl.errors import Interrupted, MarlError
from marl.study import Job

CHOICES = ("beta", "penalty", "weights", "linear_beta", "linear_penalty")


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
    row = {"low": low, "high": high, "mean_scaled": [1.0, 1.0], "sources": ["one", "two"]}
    (folder / f"{name}.json").write_text(json.dumps(row))


def test_teams_are_compared_seed_by_seed(tmp_path, monkeypatch):
    """Nash gives (4, 4), the sum (9, 3) and (8, 4): Jain's index 1 against 0.8 and 0.9."""
    monkeypatch.setattr(teams, "RAW", tmp_path / "raw")
    limits(tmp_path / "raw" / "data", "hunt", [0.0, 0.0], [1.0, 1.0])
    folder, paths = tmp_path / "raw" / "hunt" / "fair", []
    fair = ["agent=fairdice", "agent.beta=1"]
    for seed, other in enumerate(([[9, 5, 3], [9, 13, 3]], [[9, 8, 4]])):
        paths.append(raw(folder, "nash", [*fair, "agent.alpha=1"], seed, [[9, 3, 4], [9, 5, 4]]))
        paths.append(raw(folder, "sum", [*fair, "agent.alpha=0"], seed, other))
    raw(folder, "bc", ["agent=bc"], 0, [[9, 1, 1]])
    value, low, high, n = teams.jain_gain(*paths)
    assert (value, n) == (pytest.approx(0.15), 2)
    assert low <= value <= high
    table = teams.table({"hunt": stages.read(sorted(folder.glob("*.json")))})
    assert "| hunt | cloning | 1 | 1.000 |" in table
    assert "| hunt | sum | 2 | 0.850" in table


def test_every_alphas_beta_serves_its_own_welfare(tmp_path, monkeypatch):
    """(9, 1) has the larger sum, (4, 4) the larger product; a run that diverged is never chosen."""
    monkeypatch.setattr(teams, "RAW", tmp_path / "raw")
    limits(tmp_path / "raw" / "data", "hunt", [0.0, 0.0], [1.0, 1.0])
    folder = tmp_path / "raw" / "hunt"
    for alpha in ("0", "1"):
        for beta, got in (("0.1", [[10, 9, 1]]), ("1", [[10, 4, 4]]), ("10", [])):
            words = ["agent=fairdice", f"agent.alpha={alpha}", f"agent.beta={beta}"]
            raw(folder / "tune", f"a{alpha}b{beta}", words, 100, got)
    assert teams.chosen(folder) == {"0": "0.1", "1": "1"}
    assert "| hunt | 0.1 (edge) | 1 | - |" in teams.choices(["hunt"])
    with pytest.raises(MarlError, match="nothing is tuned on navigation"):
        teams.chosen(tmp_path / "raw" / "navigation")


@pytest.fixture
def hopper(tmp_path, monkeypatch):
    """Sweeps whose best runs have beta 1 and 0.1, linear weights whose best are [0.5,0.5], three methods."""
    monkeypatch.setattr(robots, "RAW", tmp_path / "raw")
    here = tmp_path / "raw" / "small" / "hopper"
    limits(tmp_path / "raw" / "small" / "data", "hopper", [0.0, 0.0], [2.0, 2.0])
    words = ["env=d4morl/hopper", "agent=fairdice", "total_steps=9"]
    for beta, got in (("0.1", [10, 8, 2]), ("1", [10, 6, 6])):
        raw(here / "sweep", f"b{beta}", [*words, f"agent.beta={beta}", "agent.penalty=0"], 100, [got])
    for beta, got in (("0.1", [[10, 6, 6]]), ("1", [[10, 9, 1]]), ("10", [])):
        raw(here / "sweep_equal", f"b{beta}", [*words, f"agent.beta={beta}", "agent.penalty=0"], 100, got)
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
    stages.measure(job, tmp_path / "raw", episodes=3, explore=1.0)
    (path,) = (tmp_path / "raw").glob("*.json")
    assert path == stages.raw_file(job, tmp_path / "raw")
    (cell,) = stages.read([path])
    assert (cell.part, cell.seed, cell.words["env.limit"]) == ("hunt", 0, "5")
    assert cell.objectives == ("predator_0", "predator_1")
    assert (cell.return_EK.shape, cell.length_E.tolist()) == ((3, 2), [5, 5, 5])
    before = path.read_bytes()
    stages.measure(job, tmp_path / "raw", episodes=9, explore=1.0)
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
    shutil.rmtree(tmp_path / "data")  # lost with its machine; what is made instead is another one
    for _ in range(2):
        with pytest.raises(MarlError, match=r"is not the data set behind .*: its episodes is 5, not 4"):
            stages.export(
                runs, tmp_path / "data" / "hunt", tmp_path / "raw" / "data", episodes=5, random=(0.5, 1.0)
            )


def test_robots_choices_and_gains(hopper):
    assert robots.chosen(hopper) == {
        "beta": "1",
        "penalty": "0",
        "linear_beta": "0.1",
        "linear_penalty": "0",
        "weights": "[0.5,0.5]",
    }
    paths = sorted(p for name in ("fairdice", "cloning") for p in (hopper / name).glob("*.json"))
    value, low, high, n = robots.gain(*paths)  # log 2 + log 4 against log 2 + log 2, scaled by 2
    assert (value, low, high) == (pytest.approx(np.log(2)),) * 3
    assert n == 5
    assert robots.methods(hopper).keys() == {"fairdice", "cloning", "linear"}
    assert "| hopper (small) | fairdice | 5 | 2.079" in robots.table()
    assert "| hopper (small) | 2 | 1 (edge) | 0 | 0.1 (edge) | 0 | [0.5,0.5] | 1 of 7 |" in robots.choices()
    for path in (hopper / "sweep").glob("*.json"):  # an objective earns less than the data's least
        data = json.loads(path.read_text())
        data["episodes"] = [[10, 8, -4 if data["overrides"][-2] == "agent.beta=1" else -2]]
        path.write_text(json.dumps(data))
    assert robots.chosen(hopper)["beta"] == "0.1"
    with pytest.raises(MarlError, match=r"a sweep of swimmer has no raw file: run python -m"):
        robots.chosen(hopper.parent / "swimmer")


def test_every_robot_has_its_own_claims(hopper, monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(robots, "ROOT", hopper.parent)
    monkeypatch.setattr(robots, "write_claim", lambda **row: written.update({row["id"]: row}))
    robots.claims()
    assert list(written) == ["fairdice.nsw_minus_cloning_hopper", "fairdice.nsw_minus_linear_hopper"]
    linear = [hopper.parent / path for path in written["fairdice.nsw_minus_linear_hopper"]["raw"]]
    worse = robots.gain(*linear)[0]  # the mean of log 8 and log 8 against that of log 8 and log 16
    assert worse == pytest.approx(-np.log(2) / 2)
    row = written["fairdice.nsw_minus_cloning_hopper"]
    assert (len(row["raw"]), row["trial"]) == (10, False)
    written.clear()
    words = ["env=d4morl/hopper", "agent=fairdice", "total_steps=9"]
    raw(hopper / "linear", "l", words, 3, [])  # that run diverged
    robots.claims()
    assert list(written) == ["fairdice.nsw_minus_cloning_hopper"]
    assert "a run's Nash welfare is minus infinity" in capsys.readouterr().out
    assert "| hopper (small) | linear | 5 | 2.426" in robots.table()
    assert "and 1 infinite" in robots.table()


def study_file(folder, *words):
    """A study of two seeds."""
    lines = "".join(f"  - {word}\n" for word in words)
    path = folder / "study.yaml"
    path.write_text(f"name: short\nworkers: 1\nthreads: 1\noverrides:\n{lines}seeds: 0-1\n")
    return path


HUNT = ("env=predator_prey_continuous", "env.n_agents=2", "env.reward=own", "env.limit=5", "num_envs=2")
QUICK = ("logger=none", "video=false", "evaluation.episodes=1", "evaluation.final_episodes=1")
LEARN = ("agent=ippo", "agent.hidden=8", "loop.rollout_steps=5", "total_steps=20")


def test_a_run_leaves_its_file_before_the_next_has_ended(tmp_path, monkeypatch):
    """Cut after the first run: its raw file is there, and the same call makes the other one alone."""
    monkeypatch.chdir(tmp_path)
    path, folder = study_file(tmp_path, *HUNT, *QUICK, *LEARN), tmp_path / "raw"
    measure, seen = stages.measure, []

    def cut(job, *args, **settings):
        if seen:
            raise Interrupted(15, "cut")
        measure(job, *args, **settings)
        seen.append(job.cfg.run_id)

    monkeypatch.setattr(stages, "measure", cut)
    with pytest.raises(Interrupted):
        stages.measured(path, folder, episodes=2, explore=1.0)
    assert [p.stem for p in folder.glob("*.json")] == seen
    before = (folder / f"{seen[0]}.json").stat().st_mtime_ns
    monkeypatch.setattr(stages, "measure", measure)
    stages.measured(path, folder, episodes=2, explore=1.0)
    assert len(list(folder.glob("*.json"))) == 2
    assert (folder / f"{seen[0]}.json").stat().st_mtime_ns == before


def test_a_run_that_diverges_is_a_result_and_any_other_failure_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, folder = study_file(tmp_path, *HUNT, *QUICK, *LEARN), tmp_path / "raw"

    def fails(why):
        def run(made, workers=None):
            for job in made.jobs:
                job.cfg.folder.mkdir(parents=True, exist_ok=True)
                (job.cfg.folder / "log.txt").write_text(f"20 steps\nmarl: {why}\n")
            raise MarlError("failed 2 times")

        return run

    monkeypatch.setattr(stages.study, "run", fails("the disk is full"))
    with pytest.raises(MarlError, match="failed 2 times"):
        stages.measured(path, folder, episodes=2, explore=1.0)
    assert not folder.exists()
    monkeypatch.setattr(stages.study, "run", fails("dual loss is NaN or infinite: step 3, x stopped"))
    stages.measured(path, folder, episodes=2, explore=1.0)
    cells = stages.read(sorted(folder.glob("*.json")))
    assert [cell.return_EK.shape for cell in cells] == [(0, 2)] * 2
    assert json.loads(cells[0].path.read_text())["failed"].startswith("dual loss is NaN")


def test_stacks_refuse_and_fall_back(monkeypatch):
    """One process of three is never rewarded; the stack of the others is solved, then one by one."""
    monkeypatch.setattr(random_processes, "ALPHAS", (0.0, 1.0))
    monkeypatch.setattr(random_processes, "BETAS", (1.0, 0.1))
    data = random_processes._data

    def spoiled(seed, tables):
        model, data_SA = data(seed, tables)
        nothing = replace(model, reward_SAK=torch.zeros_like(model.reward_SAK))
        return (nothing if seed == 1 else model), data_SA

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


def test_a_trial_leaves_raw_files_and_claims_alone(tmp_path, monkeypatch):
    """A small count neither replaces what was published nor claims anything from it."""

    def never(**_):
        raise AssertionError("a trial claims nothing")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tabular, "RAW", tmp_path / "raw")
    monkeypatch.setattr(tabular, "write_claim", never)
    monkeypatch.setattr("sys.argv", ["tabular", "rooms", "--count", "1"])
    tabular.main()
    assert not (tmp_path / "raw").exists()
    assert len((tmp_path / "runs/fairdice_tabular/rooms.csv").read_text().splitlines()) == 4
    monkeypatch.setattr("sys.argv", ["tabular", "rooms", "--count", "0"])
    with pytest.raises(SystemExit):
        tabular.main()


def test_files_of_two_settings_are_never_averaged(hopper):
    words = ["env=d4morl/hopper", "agent=fairdice", "total_steps=9"]
    for seed in range(5):  # another study's, beside the first
        raw(hopper / "fairdice", "old", [*words, "agent.beta=3"], seed, [[10, 2, 2]])
    with pytest.raises(MarlError, match=r"has agent.beta=3, .* has not: remove the files of one setting"):
        robots.table()
    for path in (hopper / "fairdice").glob("old-*"):
        path.unlink()
    twin = raw(hopper / "cloning", "again", words, 2, [[10, 2, 2]])
    with pytest.raises(MarlError, match=r"are the same run: remove one"):
        robots.claims()
    twin.unlink()
    raw(hopper / "sweep", "old", ["env=d4morl/hopper", "agent.beta=1", "total_steps=8"], 100, [[10, 2, 2]])
    with pytest.raises(MarlError, match=r"remove the files of one setting"):
        robots.chosen(hopper)


def test_robots_of_the_codes_own_sizes_are_claimed_apart(hopper, monkeypatch):
    written = {}
    monkeypatch.setattr(robots, "ROOT", hopper.parent)
    monkeypatch.setattr(robots, "write_claim", lambda **row: written.update({row["id"]: row}))
    (hopper / "fairdice").rename(hopper / "fairdice_768x3")
    (hopper / "cloning").rename(hopper / "cloning_768x3")
    data = hopper.parent / "data" / "hopper.json"
    data.write_text(json.dumps(json.loads(data.read_text()) | {"sources": ["one"]}))
    robots.claims()
    (row,) = written.values()
    assert row["id"] == "fairdice.nsw_minus_cloning_hopper_768x3"
    assert row["command"].endswith("--full")
    assert "of one policy, which leaves no trade-off" in row["note"]
    assert robots.gain(*(hopper.parent / path for path in row["raw"]))[0] == pytest.approx(np.log(2))


def test_the_plan_counts_what_is_run(tmp_path, monkeypatch):
    """A finished --full leaves nothing to do; size whole is what it needs first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(robots, "RAW", tmp_path / "raw")
    started = []

    def measured(path, folder, words, **rest):
        started.append(folder.name)
        for i in range(10 if folder.name == "sweep_linear" else 5):
            varied = [f"agent.beta={i}"] if "sweep" in folder.name else []
            raw(folder, f"{folder.name}{i}", [*words, *varied], i, [[9, 1, 1]])

    monkeypatch.setattr(stages, "measured", measured)
    monkeypatch.setattr(robots, "chosen", lambda robot: dict.fromkeys(CHOICES, "1"))
    study = Study("hopper", "whole", plan("whole", told=False, full=True), None)
    before = study.minutes_left()
    assert (study.gpu_runs_left(), before > 50) == (20, True)
    study.run()
    assert started[:3] == ["sweep", "sweep_equal", "sweep_linear"]
    assert started[3:] == [f"{name}_768x3" for name in ("cloning", "fairdice", "linear", "wrong_broadcast")]
    assert study.gpu_runs_left() == 0
    names = [stage.name for stage in plan("small", told=True, full=False)]
    assert names[3:] == ["cloning", "fairdice", "linear", "bc_p", "rvs_p", "modt_p"]


@pytest.mark.parametrize("stage", ["robots/raw/small/*/*", "teams/raw/*/*"])
def test_the_settings_of_stored_runs_still_give_their_names(stage):
    """A run is found by its name: one that changed would be made again. One run of every stage."""
    folders = [f for f in sorted(stages.HERE.glob(stage)) if f.is_dir() and f.name != "data"]
    found = [sorted(f.glob("*.json"))[0] for f in folders]
    assert len(found) > 4
    for path in found:
        about = json.loads(path.read_text())
        run = compose.compose(about["overrides"])
        assert (run.run_id, run.hash) == (path.stem, about["config_hash"]), path


def test_tables_of_the_rooms_leave_out_data_that_are_refused(tmp_path, monkeypatch):
    """The second data set never saw a goal: no policy of it counts."""
    monkeypatch.setattr(pictures, "HERE", tmp_path)
    (tmp_path / "raw").mkdir()
    lines = ["seed,policy,solver,return_0,return_1,return_2"]
    for seed, solver, nash_returns in ((0, "newton", "1,1,1"), (1, "refused", ",,")):
        lines += [f"{seed},behaviour,,1,1,4", f"{seed},utilitarian,newton,2,2,2"]
        lines += [f"{seed},nash,{solver},{nash_returns}"]
    (tmp_path / "raw" / "rooms.csv").write_text("\n".join(lines) + "\n")
    rows = pictures.table("policy", pictures._of_rooms()).splitlines()
    assert rows[2] == "| behaviour | 1 | 1.386 | 6.000 | 0.667 |"  # log 4, and 36 / (3 x 18)
    assert rows[4] == "| nash | 1 | 0.000 | 3.000 | 1.000 |"
    assert "infinite" in pictures.table("policy", {"none": np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])})


def test_the_table_of_sampled_learners_counts_those_below_the_behaviour():
    rows = [dict(zip(pictures._SAMPLED, values, strict=True)) for values in ("1234", "2131", "5678")]
    lines = pictures.of_sampled(rows).splitlines()
    assert lines[3].endswith("| 1 |")
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["0", "1", "0", "1"]
