"""The regularisers' losses against numbers worked out by hand, and against finite differences."""

import math

import pytest
import torch

from marl.masks import masked_mean
from marl.robust.losses import alignment, categorical_kl, gaussian_kl, squared_distance

YES = torch.ones(1, 3, dtype=torch.bool)


def test_squared_distance_is_the_mean_over_available_actions():
    clean, other = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[0.0, 4.0, 9.0]])
    avail = torch.tensor([[True, True, False]])
    assert squared_distance(clean, other, avail).tolist() == [(1 + 4) / 2]
    assert squared_distance(clean, other, YES).item() == pytest.approx((1 + 4 + 16) / 3)
    assert squared_distance(clean, other, ~YES).tolist() == [0.0]


def test_kl_of_two_choices_among_the_available():
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2; the third action does not exist."""
    clean, other = torch.tensor([[math.log(3.0), 0.0, 50.0]]), torch.tensor([[2.0, 2.0, -50.0]])
    avail = torch.tensor([[True, True, False]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert categorical_kl(clean, other, avail).item() == pytest.approx(expected, rel=1e-6)
    assert categorical_kl(clean, clean, avail).item() == 0.0


def test_kl_of_gaussians_counts_the_real_dimensions_in_their_own_unit():
    clean, other = torch.tensor([[1.0, 0.0, 7.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    log_std = torch.tensor([0.0, math.log(2.0), 0.0])
    real = torch.tensor([True, True, False])
    assert gaussian_kl(clean, other, log_std, real).item() == pytest.approx(0.5 * 1 + 0.5 * (2 / 2) ** 2)


def test_alignment_by_hand():
    """Unit axes as clean features; the perturbed ones lie on them. Same decisions are no negatives."""
    clean = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    perturbed = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    decision, tau = torch.tensor([0, 1, 1]), 0.5
    e = math.exp(1 / tau)
    expected = [
        -math.log(e / (e + 1 + 1)),  # near to its own; both others decide otherwise
        -math.log(1 / (1 + e)),  # drifted to decision 0; its like, feature 2, is left out
        -math.log(e / (e + 1)),
    ]
    assert alignment(clean, perturbed, decision, tau).tolist() == pytest.approx(expected)
    alone = alignment(clean, perturbed, torch.zeros(3, dtype=torch.int64), tau)
    assert alone.tolist() == [0.0, 0.0, 0.0]  # nothing to be told apart from


def test_gradients_are_those_of_finite_differences():
    g = torch.Generator().manual_seed(0)
    clean, other = (torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))
    avail = torch.tensor([[True, True, False], [True, True, True], [False, True, True], [True, False, True]])
    decision = torch.tensor([0, 1, 1, 2])
    log_std = torch.tensor([0.1, -0.3, 0.0], dtype=torch.float64)
    for loss in (
        lambda a, b: squared_distance(a, b, avail),
        lambda a, b: categorical_kl(a, b, avail),
        lambda a, b: gaussian_kl(a, b, log_std, avail),
        lambda a, b: alignment(a, b, decision, 0.5),
    ):
        assert torch.autograd.gradcheck(loss, (clean, other))


def test_masked_mean_ignores_what_does_not_count():
    x, mask = torch.tensor([1.0, math.nan, 5.0]), torch.tensor([True, False, True])
    assert masked_mean(x, mask).item() == 3.0
    assert masked_mean(x, torch.zeros(3, dtype=torch.bool)).item() == 0.0
