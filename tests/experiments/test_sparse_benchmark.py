"""The arithmetic of the grouped layers' benchmark on rows made by hand, and its cells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.benchmarks import interleave, sparse, sparse_changes, sparse_learning, sparse_sides
from experiments.benchmarks.machine import ROOT
from experiments.sparse import speed


def rows(size: str, batch: int, groups: int, **seconds: list[float]) -> list[dict]:
    about = {"size": size, "batch": batch, "groups": groups, "threads": 1}
    return [
        {**about, "side": side.replace("_", " "), "repetition": i, "calls": 2, "seconds": 2 * value}
        for side, values in seconds.items()
        for i, value in enumerate(values)
    ]


def test_claims_take_the_worst_cell(tmp_path: Path) -> None:
    one = [1.0] * 5
    data = rows("1024x1024", 1, 16, dense=[16, 16, 16, 20, 12], network=one, alone=[2.0] * 5)
    data += rows("1024x1024", 512, 16, dense=[14.0] * 5, network=one, alone=one)
    data += rows("1024x1024", 4096, 16, dense=[3.0] * 5, network=one, alone=one)  # batch beyond 512
    data += rows("128x512", 1, 16, dense=[4.0] * 5, network=one, alone=[5.0] * 5)
    data += rows("128x512", 32, 16, dense=[6.0] * 5, network=one, alone=one)
    data += rows("128x512", 8, 16, dense=[7.0] * 5, network=one, alone=one)
    for row in data:
        row["side"] = "ragged network 0.12500" if row["side"] == "ragged network" else row["side"]
    raw = tmp_path / "g16.csv"
    interleave.write_rows(raw, data)
    assert speed.g16_min_1024up(raw) == (14.0, 14.0, 14.0, 5)
    assert speed.over_g_min_1024up(raw) == (14 / 16, 14 / 16, 14 / 16, 5)
    assert speed.standalone_over_g_min_1024up(raw) == (0.5, 0.375, 0.625, 5)
    assert speed.never_slower(raw) == (0.8, 0.8, 0.8, 5)
    assert speed.b8to32_128x512(raw)[0] == 6.0
    assert speed.b1_128x512(raw)[0] == 4.0


def test_ragged_ratios_are_over_their_own_density(tmp_path: Path) -> None:
    data = rows("1024x1024", 8, 4, dense=[6.0] * 5, ragged=[1.0] * 5)
    for row in data:
        row["side"] = "ragged network 0.12500" if row["side"] == "ragged" else row["side"]
    interleave.write_rows(tmp_path / "g4.csv", data)
    assert speed.ragged_over_density(tmp_path / "g4.csv")[0] == 0.75


@pytest.mark.parametrize("table", ["g4", "train"])
def test_cells_run(table: str) -> None:
    about, make = next(sparse.cells(table, smoke=True))
    measured = sparse.measure(make(), about, least=1)
    assert {row["side"] for row in measured} >= {"dense", "network"}
    assert all(float(row["seconds"]) > 0 for row in measured)
    assert "network" in speed.summary(measured, about)


def test_a_slow_first_call_does_not_shorten_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: the first call takes 0.15 s, every other one 10 us."""
    now, first = [0.0], iter([0.15])
    monkeypatch.setattr(sparse.time, "perf_counter", lambda: now[0])

    def run() -> None:
        now[0] += next(first, 1e-5)

    rows = sparse.measure({"dense": run}, {}, least=1)
    assert rows[0]["calls"] == pytest.approx(sparse.TURN / 1e-5, abs=1)


def test_groups_are_equal_or_ragged() -> None:
    assert set(sparse_sides.equal(64, 128, 8).sizes_in) == {8}
    ragged = sparse_sides.ragged(1024, 1024, 8)
    assert len(set(ragged.sizes_in)) > 1
    assert 1 / 16 < ragged.density < 1 / 4


def test_amdahls_bound_by_hand() -> None:
    assert speed.amdahl(0.0, 16) == 16
    assert speed.amdahl(1.0, 16) == 1
    assert speed.amdahl(0.2, 4) == pytest.approx(2.5)


def test_parts_that_are_taken_away_stand_in_the_source() -> None:
    source = (ROOT / "marl" / "native" / "grouped.cpp").read_text()
    for old, new in sparse_changes.WITHOUT.values():
        assert source.count(old) == 1
        assert old != new


def test_tables_of_learning_and_of_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    about = {"team": "qmix", "hidden": 128, "groups": 4, "threads": 1}
    seconds = {"dense": (0.4, 0.2), "full": (0.5, 0.3), "selected": (0.2, 0.6)}
    data = [
        {**about, "side": side, "repetition": i, "seconds": value, "outside": share}
        for side, (value, share) in seconds.items()
        for i in range(3)
    ]
    interleave.write_rows(tmp_path / speed.raw("learning"), data)
    assert (
        "| qmix, 128, 4 | 400 | 20% | 2.50 | 0.80 (30% outside) | 2.00 (60% outside) |"
        in speed.learning_table()
    )
    modes = {
        f"{mode}: {part}": [value] * 5
        for mode in ("network", "alone")
        for part, value in (("complete", 1.0), ("copied rows", 1.5))
    }
    data = rows("128x512", 1, 16, dense=[9.0] * 5)
    for side, values in modes.items():
        data += [{**data[0], "side": side, "repetition": i, "seconds": 2 * v} for i, v in enumerate(values)]
    interleave.write_rows(tmp_path / speed.raw("changes"), data)
    assert "| copied rows | 1.50 / 1.50 |" in speed.changes_table()


def test_a_share_of_time_lies_outside_products() -> None:
    """Mostly products, and none at all."""
    a = torch.randn(600, 600)
    assert sparse_learning.outside(lambda: [a @ a for _ in range(5)]) < 0.5
    assert sparse_learning.outside(lambda: [a.sin() for _ in range(5)]) > 0.9
