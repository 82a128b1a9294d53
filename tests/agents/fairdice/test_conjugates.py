"""Every conjugate is the maximum that defines it, found by search; its slope is the maximiser."""

import math

import pytest
import torch

from marl.agents.fairdice.divergence import DIVERGENCES, KL, LEARNED
from marl.agents.fairdice.welfare import AlphaFair, InUnit, PatchedLog, make_welfare
from marl.errors import FieldError, MarlError

WELFARES = [AlphaFair(a) for a in (0.25, 0.5, 1.0, 1.25, 2.0, 8.0)] + [PatchedLog()]
WELFARES += [InUnit(AlphaFair(4.0), 0.3), InUnit(PatchedLog(), 0.3)]
ALL = DIVERGENCES | {"kl_to_5": KL(most=5.0)}


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


@pytest.mark.parametrize("name", ALL)
def test_conjugates_of_generators(name):
    f = ALL[name]
    y = torch.linspace(-4, 3, 57, dtype=torch.float64)
    best, most = search(lambda x: x * y - f.generator(x), torch.zeros_like(y), torch.full_like(y, 60))
    assert torch.allclose(f.conjugate(y), most, atol=1e-9)
    assert torch.allclose(f.weight(y), best, atol=1e-5)
    assert float(f.generator(torch.ones(()))) == 0
    y.requires_grad_()
    (slope,) = torch.autograd.grad(f.conjugate(y).sum(), y, create_graph=True)
    assert torch.allclose(slope, f.weight(y), atol=1e-12)
    (second,) = torch.autograd.grad(slope.sum(), y)
    kink = {"chi2": -1.0, "kl_to_5": 1 + math.log(5)}.get(name, 0.0)
    inner = (y - kink).abs() > 1e-9
    assert torch.allclose(second[inner], f.slope(y.detach())[inner], atol=1e-12)


@pytest.mark.parametrize("u", WELFARES, ids=str)
def test_conjugates_of_utilities(u):
    mu = torch.logspace(-1, 1, 41, dtype=torch.float64)
    low = torch.full_like(mu, -20.0 if isinstance(getattr(u, "whole", u), PatchedLog) else 1e-8)
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
    with pytest.raises(FieldError, match="alpha=inf"):
        AlphaFair(math.inf)


def test_the_learners_kl_is_the_tables_up_to_a_ratio():
    y = torch.linspace(-4, 3.9, 80, dtype=torch.float64)
    exact, learned = DIVERGENCES["kl"], LEARNED["kl"]
    for name in ("weight", "conjugate", "slope"):
        assert torch.equal(getattr(exact, name)(y), getattr(learned, name)(y)), name
    huge = torch.tensor([1e4])
    assert float(learned.weight(huge)) == pytest.approx(20)
    assert learned.conjugate(huge).isfinite()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_a_unit_keeps_the_order_of_returns(alpha):
    """k0 u(k / k0) is u(k) times a positive number, and plus one for the logarithm; without k0 it is u."""
    plain, other = make_welfare("alpha", alpha), make_welfare("alpha", alpha, 0.2)
    k = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    ratio = other.utility(k).diff() / plain.utility(k).diff()
    assert torch.allclose(ratio, ratio[0].expand(19))
    assert ratio[0] > 0
    assert float(other.slope(torch.tensor(0.2))) == pytest.approx(1)
    assert plain == AlphaFair(alpha)
    with pytest.raises(FieldError, match="k0=0"):
        InUnit(AlphaFair(alpha), 0.0)
