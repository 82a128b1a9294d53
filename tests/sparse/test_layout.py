"""The layout against a count by hand, and against loops over single weights."""

from __future__ import annotations

import pytest
import torch

from marl.errors import FieldError
from marl.sparse import Layout


def brute_force(group_in: list[int], group_out: list[int], groups: int) -> list[tuple[int, int]]:
    """(output, input) of every packed weight, found one by one."""
    return [
        (o, i)
        for g in range(groups)
        for o in range(len(group_out))
        if group_out[o] == g
        for i in range(len(group_in))
        if group_in[i] == g
    ]


def test_by_hand():
    layout = Layout.of(torch.tensor([1, 0, 1, 0, 0]), torch.tensor([0, 2, 0]), groups=3)
    assert layout.order_in_I.tolist() == [1, 3, 4, 0, 2]
    assert layout.order_out_O.tolist() == [0, 2, 1]
    assert layout.start_in.tolist() == [0, 3, 5, 5]  # group 2 has no inputs, group 1 no outputs
    assert layout.start_out.tolist() == [0, 2, 2, 3]
    assert layout.start_block.tolist() == [0, 6, 6, 6]
    assert (layout.nnz, layout.density) == (6, 6 / 15)
    assert (layout.sizes_in, layout.sizes_out) == ((3, 2, 0), (2, 0, 1))
    assert layout.index_of_packed.tolist() == [1, 3, 4, 11, 13, 14]


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(1, 1, 1), (7, 5, 3), (6, 20, 9), (30, 12, 4)])
def test_every_weight_is_where_a_loop_finds_it(inputs: int, outputs: int, groups: int):
    generator = torch.Generator().manual_seed(inputs)
    group_in = torch.randint(groups, (inputs,), generator=generator)
    group_out = torch.randint(groups, (outputs,), generator=generator)
    layout = Layout.of(group_in, group_out, groups)
    expected = brute_force(group_in.tolist(), group_out.tolist(), groups)
    pairs = zip(layout.output_of_packed.tolist(), layout.input_of_packed.tolist(), strict=True)
    assert list(pairs) == expected
    assert layout.mask_OI().nonzero().tolist() == sorted(list(pair) for pair in expected)


def test_pack_and_unpack_are_inverse_and_keep_what_sleeps():
    layout = Layout.of(torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0]), groups=2)
    weight_OI = torch.arange(1.0, 13.0).view(3, 4)
    packed = layout.pack(weight_OI)
    assert packed.tolist() == [9, 11, 2, 4, 6, 8]
    assert layout.unpack(packed).equal(weight_OI * layout.mask_OI())
    assert layout.unpack(packed, fill=weight_OI).equal(weight_OI)
    assert layout.unpack(-packed, fill=weight_OI).equal(torch.where(layout.mask_OI(), -weight_OI, weight_OI))


def test_sums_are_those_of_the_dense_matrix():
    layout = Layout.of(torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0]), groups=2)
    packed = torch.arange(1.0, 7.0)
    sum_I, sum_O = layout.sums(packed)
    assert sum_I.tolist() == [1, 8, 2, 10]
    assert sum_O.tolist() == [7, 11, 3]
    assert sum_I.equal(layout.unpack(packed).sum(0))


def test_gradients_pass_through_pack_and_unpack():
    layout = Layout.of(torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0]), groups=2)
    weight_OI = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    fill_OI = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, f: layout.unpack(layout.pack(w) ** 2, f), (weight_OI, fill_OI))


@pytest.mark.parametrize(
    ("group_in", "groups", "field"), [([0, 3], 3, "group_in_I"), ([], 1, "group_in_I"), ([0, 0], 0, "groups")]
)
def test_bad_indices_are_named(group_in: list[int], groups: int, field: str):
    with pytest.raises(FieldError, match=field):
        Layout.of(torch.tensor(group_in, dtype=torch.int64), torch.tensor([0]), groups)
