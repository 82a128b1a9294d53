"""The LSTM cell beside torch's own."""

import pytest
import torch

from marl.nets import LSTM


@pytest.mark.parametrize("hidden", [7, 32])  # below and at whole vectors of the native form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # float64 has the torch form alone
def test_a_step_is_torchs_cell(hidden, dtype):
    cell = LSTM(5, hidden, generator=torch.Generator().manual_seed(0)).to(dtype)
    oracle = torch.nn.LSTMCell(5, hidden, dtype=dtype)
    names = {"input": "ih", "recurrent": "hh"}
    with torch.no_grad():
        for ours, theirs in names.items():
            getattr(oracle, f"weight_{theirs}").copy_(getattr(cell, ours).weight)
            getattr(oracle, f"bias_{theirs}").copy_(getattr(cell, ours).bias)
    g = torch.Generator().manual_seed(1)
    sizes = (5, hidden, hidden)
    x, h, c = (torch.randn(4, 3, k, generator=g, dtype=dtype).requires_grad_() for k in sizes)
    mine = cell.step(x, h, c)
    other = oracle(x.flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1)))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a.flatten(0, 1), b)
    with torch.no_grad():
        assert torch.equal(cell.step(x, h, c)[0], mine[0])
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
