"""Counter-based streams: one definition for integers, numpy and torch."""

import torch

from marl.native import steps
from marl.rng import Rng, Stream, _signed, fold_int, mix, mix_int

EDGES = [0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF]


def test_mix_is_one_function_in_all_forms():
    x = torch.tensor(EDGES)
    expected = [_signed(mix_int(v)) for v in EDGES]
    assert mix(x).tolist() == expected
    assert [int(mix(v)) for v in x] == expected  # tensors without dimensions take the torch form
    assert mix(x.view(2, 3).t()).t().flatten().tolist() == expected
    assert mix(x.to("meta")).shape == x.shape


def test_mix_is_the_published_splitmix64():
    """First two outputs of SplitMix64 seeded with 1234567, as its reference implementation prints them."""
    bits = Stream(torch.tensor([1234567])).bits(2)[0]
    assert [v % 2**64 for v in bits.tolist()] == [6457827717110365317, 3203168211198807973]


def test_rows_are_those_of_their_index():
    rng = Rng(3)
    whole = rng.stream("x", 8).fold(torch.arange(8), "step", 5).uniform(4)
    part = rng.stream("x", torch.tensor([2, 7])).fold(torch.tensor([2, 7]), "step", 5).uniform(4)
    assert torch.equal(part, whole[[2, 7]])
    assert whole.unique().numel() == 32


def test_the_native_fold_is_that_of_integers():
    keys, words = torch.tensor(EDGES), torch.tensor(EDGES).flip(0)
    expected = [_signed(fold_int(k % 2**64, w)) for k, w in zip(EDGES, reversed(EDGES), strict=True)]
    assert Stream(keys).fold(words).key_B.tolist() == expected
    doubled = torch.stack([words, words], 1)[:, 0]  # every second number of its storage
    assert Stream(keys).fold(doubled).key_B.tolist() == expected
    if steps.usable(keys):
        assert steps.fold(keys, words).tolist() == expected
