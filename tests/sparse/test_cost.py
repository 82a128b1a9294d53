"""The byte and cycle models against counts by hand and against the paper's published figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from marl.sparse import Layout
from marl.sparse.cost import cycles, dense_cycles, dense_memory, inference_memory, memory
from marl.sparse.encoding import Encoding, encode

PLOTTED = {2: 66e3, 4: 36e3, 8: 25e3, 16: 24e3, 32: 34e3}  # cycles, read from the paper's plot, +-2e3


def equal_groups(groups: int, inputs: int = 128, outputs: int = 512) -> Encoding:
    return encode(Layout.of(torch.arange(inputs) % groups, torch.arange(outputs) % groups, groups))


def test_bytes_by_hand():
    """Five rows, ten columns, three groups; kept: 2 rows x 4 columns + 2 x 3 + 1 x 3."""
    cost = memory(equal_groups(3, 5, 10))
    assert cost.parts() == {
        "weights": 4 * (2 * 4 + 2 * 3 + 1 * 3),
        "grouping": 2 * 15 * 3,
        "bitvectors": 3 * 10 / 8,
        "workload_and_index": (3 * (4 + 2) + 5 * 2) / 8,
    }
    assert cost.total == 68 + 90 + 3.75 + 3.5
    assert inference_memory(equal_groups(3, 5, 10)) == 68 + 15 * 2 / 8
    assert dense_memory(equal_groups(3, 5, 10)) == 200


@pytest.mark.parametrize(
    ("groups", "published", "within"),
    [
        (2, 1.95, 0.02),
        (16, 6.81, 0.02),
        (2, 1.96, 0.003),
        (4, 3.69, 0.003),
        (8, 6.01, 0.003),
        (32, 5.11, 0.003),
    ],
)
def test_bytes_are_the_papers(groups: int, published: float, within: float):
    """1.95 and 6.81 are printed; the others are computed from the paper's field widths."""
    encoding = equal_groups(groups)
    assert dense_memory(encoding) / memory(encoding).total == pytest.approx(published, rel=within)


def test_memory_shares_are_the_papers():
    shares = [memory(equal_groups(groups)).shares() for groups in PLOTTED]
    mean = {name: 100 * np.mean([share[name] for share in shares]) for name in shares[0]}
    printed = {"weights": 64.48, "grouping": 32.84, "bitvectors": 2.05, "workload_and_index": 0.63}
    assert mean == pytest.approx(printed, abs=0.6)


def test_cycle_constants_solve_their_equations():
    encoding = equal_groups(16)
    assert dense_cycles(encoding) / cycles(encoding).total == pytest.approx(5.72, rel=1e-4)
    shares = [cycles(equal_groups(groups)).shares() for groups in PLOTTED]
    mean = {name: np.mean([share[name] for share in shares]) for name in shares[0]}
    printed = {"compression": 57.06, "miss": 26.45, "max_index": 10.88, "hit": 5.62}
    assert mean == pytest.approx({k: v / sum(printed.values()) for k, v in printed.items()}, rel=1e-3)


@pytest.mark.parametrize("groups", PLOTTED)
def test_cycles_meet_the_plot_that_was_not_fitted(groups: int):
    assert cycles(equal_groups(groups)).total == pytest.approx(PLOTTED[groups], rel=0.06)
    assert dense_cycles(equal_groups(groups)) == pytest.approx(130e3, abs=2e3)


def test_a_group_without_rows_costs_no_miss():
    encoding = encode(Layout.of(torch.zeros(8, dtype=torch.long), torch.arange(8) % 2, 2))
    parts = cycles(encoding).parts()
    one = cycles(encode(Layout.of(torch.arange(8) % 2, torch.arange(8) % 2, 2))).parts()
    assert parts["miss"] == one["miss"] / 2
    assert parts["hit"] == pytest.approx(one["hit"] * 7 / 6)
