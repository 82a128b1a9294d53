"""The attack study's table and claims say what its cells say."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.attack import grid, table
from marl.errors import MarlError
from marl.robust.perturbation import Budget


def write(folder: Path, run_id: str, choose: str, force: str, returns: list[float], **numbers: Any) -> Path:
    cell = {
        "run_id": run_id,
        "seed": run_id[0],
        "defence": run_id[2:] or "none",
        "agent": "qmix",
        "choose": choose,
        "force": force,
        "returns": returns,
        "wins": "".join("1" if value >= 20 else "0" for value in returns),
        "numbers": {name: numbers.get(name) for name in grid_numbers()},
    }
    path = folder / f"{run_id}-{choose}-{force}.json"
    path.write_text(json.dumps(cell))
    return path


def grid_numbers() -> tuple[str, ...]:
    return ("misclassified", "target_reached", "l0", "l1", "linf", "steps_attacked")


def test_the_table_and_the_claims_by_hand(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "a", "none", "none", [20.0, 20.0]),
        write(tmp_path, "a", "owr", "control", [8.0, 12.0], target_reached=1.0),
        write(tmp_path, "a", "owr", "djsma", [12.0, 12.0], l1=7.0, target_reached=0.5),
        write(tmp_path, "b", "none", "none", [20.0, 16.0]),
        write(tmp_path, "b", "owr", "control", [8.0, 8.0], target_reached=1.0),
        write(tmp_path, "b", "owr", "djsma", [8.0, 8.0], l1=9.0, target_reached=1.0),
    ]
    # Damage of d-JSMA over control: 8 / 10 on a, 10 / 10 on b.
    value, low, high, n = table.djsma_over_control_damage(*paths)
    assert (value, n) == (pytest.approx(0.9), 2)
    assert low is not None
    assert high is not None
    djsma = [paths[2], paths[5]]
    assert table.return_djsma_owr(*djsma)[0] == pytest.approx(10.0)
    assert table.win_rate_djsma_owr(*djsma)[0] == 0.0
    assert table.l1_djsma_owr(*djsma)[0] == pytest.approx(8.0)
    rows = table.table(table.read(paths)).splitlines()
    assert len(rows) == 5
    assert rows[2].startswith("| qmix | none | none | none | 2 | 19.00")
    assert "75.0%" in rows[4], "mean of both victims' target rates"


def test_the_grid_is_the_issues() -> None:
    assert len(list(grid.cells("mappo", "none"))) == 1 + 5 * 6
    for choose, force in list(grid.cells("mappo", "none"))[1:]:
        made = grid.attack("qmix", choose, force)
        assert (made.choose, made.force, made.agents) == (choose, force, (0,))
        assert (made.budget == Budget()) == (force not in ("fgsm", "pgd"))


def test_small_changes_stay_within_their_ball() -> None:
    for choose, force in grid.BOUNDED:
        made = grid.attack("qmix", choose, force)
        assert (made.force, made.budget) == ("pgd", Budget(linf=float(force.removeprefix("pgd_"))))
        assert (choose, force) in grid.cells("qmix", "smooth")
        assert (choose, force) not in grid.cells("mappo", "none")


def duel(folder: Path, seed: str, name: str, alone: list[float], under: list[float]) -> list[Path]:
    """A team without an attack and under d-JSMA with OWR."""
    folder.mkdir(exist_ok=True)
    run = f"{seed}-{name}" if name else seed
    return [write(folder, run, "none", "none", alone), write(folder, run, "owr", "djsma", under)]


def test_the_best_defence_is_chosen_on_the_tuning_seed_cheap_first(tmp_path: Path) -> None:
    tuning = tmp_path / "tuning"
    tried = [
        *duel(tuning, "t", "", [20.0, 20.0], [10.0, 10.0]),
        *duel(tuning, "t", "dear", [20.0, 10.0], [19.0, 19.0]),  # half of the wins
        *duel(tuning, "t", "fair", [20.0, 20.0], [15.0, 15.0]),
        *duel(tuning, "t", "luck", [20.0, 20.0], [14.0, 14.0]),
        *duel(tuning, "t", "best", [20.0, 20.0], [20.0, 20.0]),  # not among the reported
    ]
    reported = []
    for seed in ("a", "b"):
        reported += [
            *duel(tmp_path / "cells", seed, "", [20.0, 20.0], [10.0, 10.0]),
            *duel(tmp_path / "cells", seed, "dear", [20.0, 10.0], [19.0, 19.0]),
            *duel(tmp_path / "cells", seed, "fair", [20.0, 20.0], [16.0, 16.0]),
            *duel(tmp_path / "cells", seed, "luck", [20.0, 20.0], [20.0, 20.0]),  # better there alone
        ]
    paths = [*reported, *tried]
    assert table.best_defence(paths) == "fair"
    assert table.defence_return_regained(*paths)[0] == pytest.approx(0.6)
    assert table.defence_return_regained(*paths)[3] == 2
    assert table.defence_clean_win_cost(*paths)[0] == pytest.approx(0.0)
    dear = [path for path in paths if "fair" not in path.name and "luck" not in path.name]
    assert table.best_defence(dear) == "dear", "the only one"
    assert table.defence_return_regained(*dear)[0] == pytest.approx(0.9)
    assert table.defence_clean_win_cost(*dear)[0] == pytest.approx(0.5)
    with pytest.raises(MarlError, match="--defences first"):
        table.best_defence(reported)


REST = (("ow", "djsma"), ("owr", "pgd"))


def test_a_defended_team_meets_the_attack_that_hurts_it_most(tmp_path: Path) -> None:
    """d-JSMA and PGD of one adversary are two attacks."""
    tuning = tmp_path / "tuning"
    tuning.mkdir()
    paths = [
        write(tmp_path, "a", "none", "none", [20.0]),
        write(tmp_path, "a", "ow", "djsma", [12.0]),
        write(tmp_path, "a", "owr", "djsma", [10.0]),
        write(tmp_path, "a", "owr", "pgd", [16.0]),
        write(tmp_path, "a-firm", "none", "none", [20.0]),
        write(tmp_path, "a-firm", "ow", "djsma", [13.0]),
        write(tmp_path, "a-firm", "owr", "djsma", [11.0]),
        write(tmp_path, "a-firm", "owr", "pgd", [18.0]),
        write(tmp_path, "b", "none", "none", [20.0]),
        write(tmp_path, "b-firm", "owr", "djsma", [20.0]),  # nothing to compare it with
        *duel(tmp_path, "c", "firm", [20.0], [20.0]),  # attacks that may hurt it more have not been played
        write(tmp_path, "c", "none", "none", [20.0]),
        *(write(tmp_path, "c", choose, force, [10.0]) for choose, force in REST),
        write(tmp_path, "c", "owr", "djsma", [10.0]),
        *duel(tuning, "t", "", [20.0], [10.0]),
        *duel(tuning, "t", "firm", [20.0], [20.0]),
    ]
    assert table.defence_return_regained(*paths)[0] == pytest.approx(0.1)
    assert table.defence_return_regained(*paths)[3] == 1


def test_settings_of_one_defence_are_defences_of_their_own(tmp_path: Path) -> None:
    cells = []
    for seed, epsilon, value in (("a", "0.1", 12.0), ("b", "0.2", 20.0)):
        cell = json.loads(write(tmp_path, f"{seed}-smooth", "none", "none", [value]).read_text())
        cells.append({**cell, "settings": f"defence.epsilon={epsilon}"})
    rows = table.table(cells).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == [
        "smooth defence.epsilon=0.1",
        "smooth defence.epsilon=0.2",
    ]
    assert "under 98%: a-smooth." in table.alone(cells)


def test_teams_that_were_left_out_are_named() -> None:
    teams = [
        {"part": "qmix", "agent": "qmix", "seed": seed, "defence": defence, "wins_trained": wins}
        for seed, defence, wins in ((1, "none", 0.99), (0, "none", 0.9), (0, "smooth", 0.5))
    ]
    words = "Trained, but left out for winning less than 98%: qmix 1 of 2 (seed 0 90.0%)."
    assert table.left_out(teams) == words


def test_what_the_regulariser_saves(tmp_path: Path) -> None:
    paths = []
    for victim, free, cheap in (("a", 9.0, 6.0), ("b", 8.0, 7.0)):
        paths.append(write(tmp_path, victim, "ow", "djsma", [9.0], l1=free))
        paths.append(write(tmp_path, victim, "owr", "djsma", [9.0], l1=cheap))
    paths.append(write(tmp_path, "c", "ow", "djsma", [9.0], l1=1.0))  # the other cell is missing
    value, _, _, n = table.l1_saved_by_regularisation(*paths)
    assert (value, n) == (pytest.approx(2.0), 2)


def test_victims_win_and_tuning_teams_are_not_among_them(tmp_path: Path) -> None:
    wins = [1.0, 0.97, 0.98, 1.0, 0.99, 1.0, 1.0, 1.0]
    smooth = ["agent=qmix", "defence=smooth", "defence.epsilon=0.1"]
    runs = [("", "qmix", seed, ["agent=qmix"], won) for seed, won in enumerate(wins)]
    runs += [("defended", "tune", 7, smooth, 1.0), ("defended", "defended", 0, smooth, 0.5)]
    for study, part, seed, words, won in runs:
        raw = tmp_path / study / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        played = {
            "columns": ["success"],
            "episodes": [[1.0]] * round(won * 100) + [[0.0]] * round(100 - won * 100),
        }
        run = {"run_id": f"{part}{seed}", "part": part, "seed": seed, "overrides": words, **played}
        (raw / f"{part}{seed}.json").write_text(json.dumps(run))
    found = grid.victims(tmp_path)
    attacked = grid.in_grid(found)
    assert [v["run_id"] for v in attacked] == ["qmix0", "qmix2", "qmix3", "qmix4", "qmix5", "defended0"]
    assert [v["run_id"] for v in grid.spare(found)] == ["qmix6"]
    assert [grid.folder(v).parent.name for v in attacked[-2:]] == ["attack", "attack_defended"]
    assert attacked[-1]["settings"] == "defence.epsilon=0.1"


def test_the_tables_of_what_was_tried(tmp_path: Path) -> None:
    weights, tuning = [], []
    for regulariser, weight, direct, forced in (("soft", 0.5, 9.0, 10.0), ("reward", 0.0, 8.0, 12.0)):
        for force, value in (("control", direct), ("djsma", forced)):
            cell = json.loads(write(tmp_path, "a", "owr", force, [value], l1=3.0).read_text())
            weights.append({**cell, "regulariser": regulariser, "weight": weight})
    rows = table.weights_table(weights).splitlines()[2:]
    assert rows == [
        "| qmix | reward | 0 | 8.00 | 12.00 | 0.0% | 3.00 |",
        "| qmix | soft | 0.5 | 9.00 | 10.00 | 0.0% | 3.00 |",
    ]
    for team, settings, loss in (("a-smooth", "defence.weight=1", 1), ("a", "", 2)):
        for i, (choose, force) in enumerate(grid.DEFENDED + grid.BOUNDED):
            cell = json.loads(write(tmp_path, team, choose, force, [20.0 - loss * i]).read_text())
            tuning.append({**cell, "settings": settings})
    rows = table.tuning_table([*tuning[:-4], *tuning[-3:]]).splitlines()[2:]
    returns = " | ".join(f"{value}.00" for value in range(20, 11, -1))
    shown = f"| smooth defence.weight=1 | 100.0% | {returns} |"
    assert rows == [f"{shown} - | 50% |"], "a cell of the bare team is missing"
    assert table.tuning_table(tuning).splitlines()[3:] == [f"{shown} 50% | 50% |"]
    assert table.tuning_table(tuning).splitlines()[2].startswith("| none | 100.0%")


def test_the_defences_stand_beside_the_bare_teams_of_their_method(tmp_path: Path) -> None:
    paths = [
        *duel(tmp_path, "a", "", [20.0, 20.0], [10.0, 10.0]),
        *duel(tmp_path, "a", "firm", [20.0, 19.0], [12.0, 13.0]),
        write(tmp_path, "a-firm", "owr", "control", [0.0]),  # asks nothing of a network
        write(tmp_path, "a-firm", "ow", "pgd_0.1", [18.0]),  # less than the others may change
        write(tmp_path, "a-firm", "ow", "pgd_0.2", [12.0]),
        write(tmp_path, "a", "ow", "pgd_0.2", [4.0]),
    ]
    other = [
        {**cell, "agent": "mappo", "returns": [3.0, 3.0]}
        for cell in table.read(duel(tmp_path, "b", "", [20.0], [9.0]))
    ]
    assert table.defences_table([*other, *table.read(paths)]).splitlines()[2:] == [
        "| none | 1 | - | 20.00 | 10.00 | - | 4.00 | - | - | - |",
        "| firm | 1 | 50.0% | 19.50 | 12.50 | 18.00 | 12.00 | - | 25% | 50% |",
    ]


def test_a_half_played_grid_is_drawn_as_far_as_it_came(tmp_path: Path) -> None:
    """No cell of small changes yet; and without defended teams there is nothing to draw."""
    bare = table.read(duel(tmp_path, "a", "", [20.0, 20.0], [10.0, 10.0]))
    table.draw_defences(bare, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    both = [*bare, *table.read(duel(tmp_path, "a", "firm", [20.0, 19.0], [12.0, 13.0]))]
    table.draw_defences(both, tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 0


def test_a_grid_names_the_run_folders_that_are_not_there_before_it_plays(tmp_path, monkeypatch) -> None:
    """A victim of which every cell is played needs none."""
    teams = [
        {"run_id": f"q{k}", "part": "tune", "seed": 7, "agent": "qmix", "defence": "smooth"} for k in (0, 1)
    ]
    monkeypatch.setattr(grid, "victims", lambda: [v | {"wins_trained": 1.0} for v in teams])
    monkeypatch.setattr(grid, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(grid, "TUNING", tmp_path)
    for choose, force in grid.DEFENDED + grid.BOUNDED:
        write(tmp_path, "q0", choose, force, [1.0])
    with pytest.raises(MarlError, match=r"folders of q1 are not on this machine: remove"):
        grid.main(["--defences"])
    (tmp_path / "runs" / "attack_defended" / "q1").mkdir(parents=True)
    tried = []
    monkeypatch.setattr(grid, "try_defence", lambda victim: tried.append(victim["run_id"]))
    grid.main(["--defences"])
    assert tried == ["q0", "q1"]
