"""The encoding table's arithmetic on rows made by hand, and the committed raw file against a fresh draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.benchmarks import sparse_encoding
from experiments.benchmarks.interleave import read_rows, write_rows
from experiments.benchmarks.machine import ROOT


def test_ratios_by_hand(tmp_path: Path) -> None:
    raw = tmp_path / "encoding.csv"
    common = {"groups": 16, "bytes_inference": 1, "cycles_dense": 100, "cycles_hit": 10, "cycles_miss": 10}
    rows = [
        common | {"bytes_dense": 60, "bytes_weights": 10, "bytes_grouping": 10},
        common | {"bytes_dense": 50, "bytes_weights": 5, "bytes_grouping": 5},
    ]
    deviations = [{"deviation_row_based": 1, "deviation_threshold_based": t} for t in (3, 5)]
    write_rows(raw, [row | deviation for row, deviation in zip(rows, deviations, strict=True)])
    value, low, high, n = sparse_encoding.bytes_ratio_g16(raw)
    assert (value, n) == (4.0, 2)
    assert low is not None
    assert high is not None
    assert 3.0 <= low <= value <= high <= 5.0
    assert sparse_encoding.cycles_ratio_g16(raw)[0] == 5.0
    assert sparse_encoding.less_deviation_g16(raw)[0] == pytest.approx(1 - 2 / 8)


def test_any_machine_gives_the_committed_file(tmp_path: Path) -> None:
    raw = tmp_path / "encoding.csv"
    write_rows(raw, sparse_encoding.draw_masks())
    assert read_rows(raw) == read_rows(ROOT / sparse_encoding.RAW)
