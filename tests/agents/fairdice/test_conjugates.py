"""Every conjugate is the maximum that defines it, found by search; its slope is the maximiser."""

import pytest
import torch

from marl.agents.fairdice.divergence import DIVERGENCES
from marl.agents.fairdice.welfare import AlphaFair, PatchedLog
from marl.errors import FieldError, MarlError

WELFARES = [AlphaFair(a) for a in (0.25, 0.5, 1.0, 1.25, 2.0, 8.0)] + [PatchedLog()]


def search(function, low, high):
    """Argmax and maximum of concave functions, one per element, by golden sections."""
    ratio = (5**0.5 - 1) / 2
    low, high = low.clone(), high.clone()
    for _ in range(120):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        left = function(a) >= function(b)
        low, high = torch.where(left, low, a), torch.where(left, b, high)
    best = (low + high) / 2
    return best, function(best)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_conjugates_of_generators(name):
    f = DIVERGENCES[name]
    y = torch.linspace(-4, 3, 57, dtype=torch.float64)
    best, most = search(lambda x: x * y - f.generator(x), torch.zeros_like(y), torch.full_like(y, 60))
    assert torch.allclose(f.conjugate(y), most, atol=1e-9)
    assert torch.allclose(f.weight(y), best, atol=1e-5)
    assert float(f.generator(torch.ones(()))) == 0
    y.requires_grad_()
    (slope,) = torch.autograd.grad(f.conjugate(y).sum(), y, create_graph=True)
    assert torch.allclose(slope, f.weight(y), atol=1e-12)
    (second,) = torch.autograd.grad(slope.sum(), y)
    inner = (y + 1).abs() > 1e-9 if name == "chi2" else y.abs() > 1e-9  # but for the kink
    assert torch.allclose(second[inner], f.slope(y.detach())[inner], atol=1e-12)


@pytest.mark.parametrize("u", WELFARES, ids=str)
def test_conjugates_of_utilities(u):
    mu = torch.logspace(-1, 1, 41, dtype=torch.float64)
    low = torch.full_like(mu, -20.0 if isinstance(u, PatchedLog) else 1e-8)
    best, most = search(lambda k: u.utility(k) - mu * k, low, torch.full_like(mu, 2e4))
    assert torch.allclose(u.conjugate(mu), most, rtol=1e-8, atol=1e-9)
    assert torch.allclose(u.best(mu), best, rtol=1e-4, atol=1e-5)
    mu.requires_grad_()
    (slope,) = torch.autograd.grad(u.conjugate(mu).sum(), mu, create_graph=True)
    assert torch.allclose(slope, -u.best(mu), rtol=1e-12)
    (second,) = torch.autograd.grad(slope.sum(), mu)
    inner = (mu - 1).abs() > 1e-9
    assert torch.allclose(second[inner], u.curvature(mu.detach())[inner], rtol=1e-12)


@pytest.mark.parametrize("u", [AlphaFair(0.0), *WELFARES], ids=str)
def test_slopes_of_utilities(u):
    k = torch.linspace(0.2, 4, 39, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(u.utility(k).sum(), k)
    assert torch.allclose(slope, u.slope(k.detach()), rtol=1e-12)
    if u.learns_weights:
        assert torch.allclose(u.best(slope), k.detach(), rtol=1e-10)


def test_the_sum_has_no_conjugate_and_alpha_is_not_negative():
    assert not AlphaFair(0.0).learns_weights
    with pytest.raises(MarlError, match="hold the weights fixed at 1"):
        AlphaFair(0.0).conjugate(torch.ones(2))
    with pytest.raises(FieldError, match="alpha=-1"):
        AlphaFair(-1)
