"""The encoding loop against a hand-made case, and against the mask found weight by weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from marl.sparse import Layout
from marl.sparse.encoding import Encoding, encode, encode_by_loop

SHAPES = [(1, 1, 1), (7, 5, 3), (6, 20, 9), (30, 12, 4), (16, 64, 8), (128, 512, 16), (5, 9, 40)]


def layout_of(inputs: int, outputs: int, groups: int) -> Layout:
    generator = torch.Generator().manual_seed(inputs + groups)
    drawn = (torch.randint(groups, (size,), generator=generator) for size in (inputs, outputs))
    return Layout.of(*drawn, groups)


def test_by_hand():
    """Group 2 has a row and no columns, group 3 a column and no rows, group 1 neither at first."""
    group_in, group_out = [2, 0, 2, 1, 0], [0, 1, 0, 3, 1, 0, 0, 0, 0, 1]
    found = encode(Layout.of(torch.tensor(group_in), torch.tensor(group_out), 4))
    assert found.index_M.tolist() == group_in
    assert found.hit_M.tolist() == [False, False, True, False, True]
    assert found.valid_G.tolist() == [True, True, True, False]
    assert found.bits_GW.tolist() == [[0b11100101, 0b01], [0b00010010, 0b10], [0, 0], [0, 0]]
    assert found.workload_G.tolist() == [6, 3, 0, 0]
    assert found.start_G1.tolist() == [0, 6, 9, 9, 9]
    assert [found.nonzero_of(g).tolist() for g in range(4)] == [[0, 2, 5, 6, 7, 8], [1, 4, 9], [], []]
    assert (found.rows, found.columns, found.groups, found.misses, found.nnz) == (5, 10, 4, 3, 15)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), SHAPES)
def test_mask_is_where_a_loop_over_weights_finds_it(inputs: int, outputs: int, groups: int, transposed: bool):
    layout = layout_of(inputs, outputs, groups)
    rows, columns = layout.group_in_I.tolist(), layout.group_out_O.tolist()
    if transposed:
        rows, columns = columns, rows
    found = encode(layout, transposed=transposed)
    brute = [[row == column for column in columns] for row in rows]
    assert found.mask_MN().tolist() == brute
    assert found.workload_M.tolist() == [sum(row) for row in brute]
    assert found.nnz == layout.nnz
    seen: set[int] = set()
    for row, hit in zip(rows, found.hit_M.tolist(), strict=True):
        assert hit == (row in seen)
        seen.add(row)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), SHAPES)
def test_all_at_once_is_the_loop_bit_for_bit(inputs: int, outputs: int, groups: int, transposed: bool):
    layout = layout_of(inputs, outputs, groups)
    one, other = encode(layout, transposed=transposed), encode_by_loop(layout, transposed=transposed)
    for name in Encoding.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        assert np.array_equal(a, b), name
        assert np.asarray(a).dtype == np.asarray(b).dtype, name


def test_one_group_may_take_every_column():
    """512 ones do not fit into the paper's field of 9 bits."""
    found = encode(Layout.of(torch.zeros(3, dtype=torch.long), torch.zeros(512, dtype=torch.long), 2))
    assert found.workload_G.tolist() == [512, 0]
    assert (found.bits_GW[0] == 255).all()
