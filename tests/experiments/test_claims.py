"""A claim fails as soon as its raw rows, its numbers or its form are not what they say."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import claims, tables
from marl.errors import MarlError

NOTE = {"unit": "x", "test": "value >= 2", "command": "python -m something", "note": "ours over theirs"}
DERIVE = "experiments.benchmarks.env:steps_b16_3m"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one raw file of five repetitions at rates of 100 to 500, and one claim."""
    raw = tmp_path / "experiments/ground/raw/env.csv"
    raw.parent.mkdir(parents=True)
    lines = ["map,envs,side,repetition,steps,seconds"]
    lines += [f"3m,16,native 2,{i},{100 * (i + 1)},1.0" for i in range(5)]
    raw.write_text("\n".join(lines) + "\n")
    (tmp_path / "README.md").write_text("x\n<!-- claims:ground -->\n<!-- /claims -->\ny\n")
    row = {"id": "ground.rate", "value": 300.0, "low": 100.0, "high": 500.0, "n": 5, "derive": DERIVE, **NOTE}
    row |= {"raw": ["experiments/ground/raw/env.csv"], "commit": "abc", "hardware": "h", "date": "2026-01-01"}
    save(tmp_path, [row])
    return tmp_path


def save(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "experiments/ground/claims.json").write_text(json.dumps(rows))


def change(root: Path, **fields: Any) -> list[str]:
    """Faults after fields of the one row were replaced (None as `...` removes the field)."""
    (row,) = json.loads((root / "experiments/ground/claims.json").read_text())
    row |= fields
    save(root, [{k: v for k, v in row.items() if v is not ...}])
    return claims.read(root)[1]


def test_a_true_claim_passes_and_is_written_into_the_page(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert claims.main(["--check"], root) == 1  # the page does not show it yet
    assert "stale" in capsys.readouterr().err
    assert claims.main([], root) == 0
    page = (root / "README.md").read_text()
    assert "| `ground.rate` | 300 x | 100 to 500 | 5 | `value >= 2` | met | ours over theirs |" in page
    assert page.startswith("x\n")
    assert page.endswith("<!-- /claims -->\ny\n")
    assert claims.main(["--check"], root) == 0
    assert claims.main([], root) == 0
    assert (root / "README.md").read_text() == page


def test_changing_one_raw_row_fails(root: Path) -> None:
    raw = root / "experiments/ground/raw/env.csv"
    raw.write_text(raw.read_text().replace("3m,16,native 2,4,500,1.0", "3m,16,native 2,4,501,1.0"))
    assert change(root) == ["ground.rate: high is 500.0, but its raw files give 501.0"]
    assert claims.main(["--check"], root) == 1


def test_a_typed_number_fails(root: Path) -> None:
    assert change(root, value=301.0) == ["ground.rate: value is 301.0, but its raw files give 300.0"]


def test_a_missing_raw_file_fails(root: Path) -> None:
    (root / "experiments/ground/raw/env.csv").unlink()
    assert change(root) == ["ground.rate: raw file experiments/ground/raw/env.csv is missing"]


def test_few_repetitions_need_the_trial_flag(root: Path) -> None:
    raw = root / "experiments/ground/raw/env.csv"
    raw.write_text("\n".join(raw.read_text().splitlines()[:4]) + "\n")
    few = {"value": 200.0, "high": 300.0, "n": 3}
    assert change(root, **few) == ["ground.rate: n=3 is below 5, so it must carry trial: true"]
    assert change(root, trial=True) == []
    assert "trial, met" in claims.table(claims.read(root)[0])


def test_a_claim_without_interval_needs_the_trial_flag(root: Path) -> None:
    faults = change(root, low=None, high=None)
    assert "ground.rate: a claim without an interval must carry trial: true" in faults


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"note": ...}, "note is missing"),
        ({"value": "300"}, "value is missing or of the wrong type"),
        ({"n": True}, "n is missing or of the wrong type"),
        ({"extra": 1}, "unknown field extra"),
        ({"id": "sparse.rate"}, "reads ground.<name>"),
        ({"raw": []}, "raw names no file"),
        ({"trial": False}, "trial is true or absent"),
        ({"command": ""}, "command is empty"),
        ({"derive": "os:getcwd"}, "must read experiments."),
        ({"derive": "experiments.benchmarks.env:absent"}, "AttributeError"),
        ({"test": "value >="}, "not an expression"),
        ({"test": "value + 1"}, "a number, not a comparison"),
        ({"test": "__import__('os').getcwd() > value"}, "may only compare"),
        ({"test": "value.real > 1"}, "may only compare"),
        ({"test": "other > 1"}, "may only compare"),
        ({"test": "value ** 99 > 1"}, "may only compare"),
    ],
)
def test_bad_rows_are_refused(root: Path, fields: dict[str, Any], fault: str) -> None:
    faults = change(root, **fields)
    assert any(fault in line for line in faults), faults


def test_one_id_twice_fails(root: Path) -> None:
    (row,) = json.loads((root / "experiments/ground/claims.json").read_text())
    save(root, [row, row])
    assert claims.read(root)[1] == ["ground.rate: two rows have this id"]


@pytest.mark.parametrize(
    ("test", "met"),
    [
        ("value >= 12.52", True),
        ("low > 13", False),
        ("low > 12 and high < 14", True),
        ("low > 13 or value == 13.1", True),
        ("12 < low <= value", True),
        ("low >= -3", True),
        ("value / 2 + 1 > low - 2 * 3", True),
    ],
)
def test_tests_are_evaluated(test: str, met: bool) -> None:
    row = {"id": "x.y", "value": 13.1, "low": 12.7, "high": 13.4}
    assert claims.evaluate(test, row) is met


def test_a_missed_goal_stays_in_the_table(root: Path) -> None:
    assert change(root, test="value >= 1000") == []
    assert "| missed |" in claims.table(claims.read(root)[0])


def test_blocks_show_the_rows_they_name() -> None:
    base = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 5, **NOTE}
    rows = [{"id": name, **base} for name in ("ground.env_a", "ground.environment", "worlds.env_b")]
    page = claims.fill("<!-- claims:ground.env -->\nold\n<!-- /claims -->\n", rows)
    assert "ground.env_a" in page
    assert "old" not in page
    assert "ground.environment" not in page
    assert "worlds" not in page


def test_numbers_are_readable() -> None:
    shown = [claims.number(x) for x in (0.0, 0.95, 0.012346, 12.346, 52341.7, 3.0, -2.5)]
    assert shown == ["0", "0.95", "0.01235", "12.35", "52,342", "3", "-2.5"]


def test_write_claim_computes_its_row(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "commit", lambda root: "abc")
    options = {"raw": ["experiments/ground/raw/env.csv"], "derive_with": DERIVE, "root": root, **NOTE}
    row = claims.write_claim(id="ground.second", **options)
    assert (row["value"], row["low"], row["high"], row["n"]) == (300.0, 100.0, 500.0, 5)
    again = claims.write_claim(id="ground.second", **(options | {"test": "value >= 3"}))
    rows, wrong = claims.read(root)
    assert not wrong
    assert [r["id"] for r in rows] == ["ground.rate", "ground.second"]
    assert rows[1] == again
    with pytest.raises(MarlError, match="may only compare"):
        claims.write_claim(id="ground.third", **(options | {"test": "print"}))


def test_a_row_from_old_raw_files_keeps_their_commit_and_date(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "commit", lambda root: "later")
    options = {"raw": ["experiments/ground/raw/env.csv"], "derive_with": DERIVE, "root": root, **NOTE}
    before = claims.made_before("ground.rate", root)
    assert before == {"commit": "abc", "hardware": "h", "date": "2026-01-01"}
    again = claims.write_claim(id="ground.rate", made=before, **options)
    assert {name: again[name] for name in before} == before
    assert claims.write_claim(id="ground.rate", **options)["commit"] == "later"  # measured anew
    assert claims.made_before("ground.absent", root) is None


def test_the_win_rates_row_names_the_commits_of_its_runs(tmp_path: Path) -> None:
    paths = []
    for seed, dirty in enumerate((False, True)):
        raw = {"git": {"commit": "abc", "dirty": dirty}, "hardware": {"cpu": "x", "gpu": None, "cores": 2}}
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(json.dumps(raw | {"date": "2026-01-01T10:00:00+00:00"}))
    expected = {"commit": "abc, abc with changes", "hardware": "cpu x, cores 2", "date": "2026-01-01"}
    assert tables.made(paths) == expected


def test_the_published_claims_hold() -> None:
    assert claims.main(["--check"]) == 0
