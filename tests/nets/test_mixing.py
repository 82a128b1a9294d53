"""The native mixing network against its torch form, and against numbers worked out by hand."""

import pytest
import torch

from marl.nets import kernels, monotonic_mix
from marl.nets.mixing import monotonic_mix_torch

NATIVE = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="needs a C++ compiler")


def _arguments(lead, N, E, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    sizes = (N, N * E, E, E, 1)
    return [torch.randn(*lead, size, generator=g, dtype=dtype, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("form", [monotonic_mix, monotonic_mix_torch])
def test_a_mix_worked_out_by_hand(form):
    """q |W_1| + b_1 = (2 * 1 + 3 * 1 - 1, 2 * 2 + 3 * 1 - 8) = (4, -1)."""
    q, b2 = torch.tensor([[2.0, 3.0]]), torch.tensor([[10.0]])
    w1 = torch.tensor([[-1.0, 2.0, 1.0, -1.0]])
    b1, w2 = torch.tensor([[-1.0, -8.0]]), torch.tensor([[-0.5, 2.0]])
    expected = 4 * 0.5 + (torch.tensor(-1.0).exp() - 1) * 2 + 10
    torch.testing.assert_close(form(q, w1, b1, w2, b2), expected.reshape(1, 1))


@NATIVE
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("E", [1, 8, 21, 32, 50])
def test_values_and_gradients_equal_the_torch_form(N, E):
    arguments = _arguments((7, 9), N, E)
    with torch.no_grad():
        arguments[1][0, 0], arguments[3][0, 0] = 0.0, -0.0  # |w| has slope 0 there, as in torch
    weights = torch.randn(7, 9, 1, generator=torch.Generator().manual_seed(1))
    ours, reference = monotonic_mix(*arguments), monotonic_mix_torch(*arguments)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(monotonic_mix(*arguments), ours)
    pairs = (torch.autograd.grad((y * weights).sum(), arguments) for y in (ours, reference))
    for mine, torchs in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-5 * float(torchs.abs().max()))
        assert torchs.abs().max() > 0


def test_the_torch_form_has_the_right_gradient():
    assert torch.autograd.gradcheck(monotonic_mix, _arguments((4,), 2, 3, torch.float64))


@NATIVE
def test_threads_change_nothing_and_nan_stays():
    arguments = _arguments((6000,), 3, 32)  # enough work for two threads
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = monotonic_mix(*arguments)
            results.append((y.detach(), *torch.autograd.grad(y.square().sum(), arguments)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    for i in range(len(arguments)):
        broken = [x.detach().clone() for x in arguments]
        broken[i][5] = torch.nan
        with torch.no_grad():
            assert monotonic_mix(*broken).isnan().flatten().nonzero().tolist() == [[5]]
