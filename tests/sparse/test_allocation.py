"""Rows over cores against loads by hand."""

from __future__ import annotations

import numpy as np
import pytest

from marl.errors import FieldError
from marl.sparse.allocation import deviation, loads, row_based, threshold_based


def test_row_based_by_hand():
    workload = np.array([5, 1, 1, 4, 2, 3, 2, 2])
    core = row_based(workload, 3)
    assert core.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert loads(workload, core, 3).tolist() == [7, 9, 4]
    assert deviation(loads(workload, core, 3)) == pytest.approx(20 / 3 - 4)


def test_threshold_based_by_hand():
    """Ideal is 20 / 3: 5 + 1 fits and one more would not; 1 + 4 fits; the last core takes the rest."""
    workload = np.array([5, 1, 1, 4, 2, 3, 2, 2])
    core = threshold_based(workload, 3)
    assert core.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert loads(workload, core, 3).tolist() == [6, 5, 9]


def test_threshold_takes_a_row_that_meets_the_ideal_exactly():
    assert threshold_based(np.array([2, 2, 2, 2, 2, 2]), 3).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("allocate", [row_based, threshold_based])
@pytest.mark.parametrize(("rows", "cores"), [(128, 3), (2, 5), (7, 1)])
def test_every_row_goes_to_one_core_in_order(allocate, rows: int, cores: int):
    workload = np.random.default_rng(rows).integers(0, 9, rows)
    core = allocate(workload, cores)
    assert len(core) == rows
    assert (np.diff(core) >= 0).all()
    assert 0 <= core.min() <= core.max() < cores
    assert loads(workload, core, cores).sum() == workload.sum()


def test_no_cores():
    with pytest.raises(FieldError, match="cores=0 cannot be used: give at least 1"):
        row_based(np.ones(3, dtype=np.int64), 0)
