"""The LSTM cell beside torch's own."""

import torch

from marl.nets import LSTM


def test_a_step_is_torchs_cell():
    cell = LSTM(5, 7, generator=torch.Generator().manual_seed(0))
    oracle = torch.nn.LSTMCell(5, 7)
    names = {"input": "ih", "recurrent": "hh"}
    with torch.no_grad():
        for ours, theirs in names.items():
            getattr(oracle, f"weight_{theirs}").copy_(getattr(cell, ours).weight)
            getattr(oracle, f"bias_{theirs}").copy_(getattr(cell, ours).bias)
    g = torch.Generator().manual_seed(1)
    x, h, c = (torch.randn(4, 3, k, generator=g).requires_grad_() for k in (5, 7, 7))
    mine = cell.step(x, h, c)
    other = oracle(x.flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1)))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a.flatten(0, 1), b)
    slopes = torch.autograd.grad(mine[0].square().sum() + mine[1].sum(), (x, h, c))
    expected = torch.autograd.grad(other[0].square().sum() + other[1].sum(), (x, h, c))
    for a, b in zip(slopes, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_initial_weights_are_bounded_and_of_the_generator():
    first, same, other = (LSTM(3, 16, generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1))
    for a, b, c in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert a.abs().max() <= 0.25


def test_copies_are_independent():
    cell = LSTM(3, 4, generator=torch.Generator().manual_seed(0), copies=2)
    x, h = torch.ones(1, 2, 3), torch.zeros(1, 2, 4)
    out, _ = cell.step(x, h, h)
    assert not torch.equal(out[:, 0], out[:, 1])
