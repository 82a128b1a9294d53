"""JSMA and d-JSMA against Jacobians by finite differences, hand-made saliency and brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from marl.agents.cmarl_attack.jsma import choose_feature, choose_pair, choose_pair_torch, jsma, slopes
from marl.nets import kernels
from marl.robust.perturbation import Budget, Limits, chosen
from tests.agents.cmarl_attack.hand import relu_net

W_AO = torch.tensor([[1.0, -2.0, 0.5, 4.0], [-1.0, 1.0, 2.0, 0.0], [0.0, 3.0, -1.0, 1.0]])


def rows(function: object) -> object:
    return lambda x_XKO, row_X: function(x_XKO)  # type: ignore[operator]


def box(O: int, low: float = 0.0, high: float = 1.0) -> Limits:  # noqa: E741
    free = torch.ones(1, O, dtype=torch.bool)
    return Limits(free=free, low=torch.full((1, O), low), high=torch.full((1, O), high))


def test_slopes_are_those_of_finite_differences() -> None:
    net = relu_net(actions=3)
    g = torch.Generator().manual_seed(0)
    x, target = torch.rand(4, 2, 6, generator=g), torch.randint(3, (4, 2), generator=g)
    avail = torch.rand(4, 2, 3, generator=g) < 0.7
    avail.scatter_(-1, target[..., None], True)
    worlds: list[Tensor] = []

    def scores(x_XKO: Tensor, row_X: Tensor) -> Tensor:
        worlds.append(row_X)
        return net(x_XKO)

    towards, others, at_x = slopes(scores, x, torch.tensor([7, 8, 3, 1]), target, avail)
    assert len(worlds) == 1, "one pass for all"
    assert worlds[0].tolist() == [7, 8, 3, 1] * 2
    torch.testing.assert_close(at_x, net(x))
    wanted = torch.zeros_like(avail).scatter(-1, target[..., None], True)
    h = 1e-3
    for i in range(6):
        up, down = x.clone(), x.clone()
        up[..., i] += h
        down[..., i] -= h
        numeric = (net(up) - net(down)) / (2 * h)
        for found, counted in ((towards, wanted), (others, avail & ~wanted)):
            # A kink between the two points shows in a few entries.
            close = (found[..., i] - (numeric * counted).sum(-1)).abs() < 2e-2
            assert float(close.float().mean()) > 0.8


def test_saliency_by_hand() -> None:
    """Features: good, both up (dropped), good downwards, at its end, weak."""
    towards = torch.tensor([[2.0, 5.0, -3.0, 9.0, 1.0]])
    others = torch.tensor([[-1.0, 4.0, 2.0, -9.0, -0.5]])
    up = torch.tensor([[True, True, True, False, True]])
    down = torch.ones(1, 5, dtype=torch.bool)
    move = choose_feature(towards, others, up, down)
    assert move.tolist() == [[0.0, 0.0, -1.0, 0.0, 0.0]]  # 3 * 2 = 6 beats 2 * 1


@pytest.mark.parametrize("find", [choose_pair, choose_pair_torch])
@pytest.mark.parametrize("seed", range(8))
def test_the_pair_is_the_best_of_all_pairs(seed: int, find: Callable[..., Tensor]) -> None:
    g = torch.Generator().manual_seed(seed)
    towards, others = torch.randn(6, 7, generator=g), torch.randn(6, 7, generator=g)
    up, down = torch.rand(6, 7, generator=g) < 0.8, torch.rand(6, 7, generator=g) < 0.8
    move = find(towards, others, up, down)
    for row in range(6):
        best, pick = 0.0, torch.zeros(7)
        for p, q in itertools.combinations(range(7), 2):
            a, b = float(towards[row, p] + towards[row, q]), float(others[row, p] + others[row, q])
            can = up if a > 0 else down
            if a * b < 0 and can[row, p] and can[row, q] and abs(a * b) > best:
                best, pick = abs(a * b), torch.zeros(7)
                pick[p] = pick[q] = math.copysign(1.0, a)
        assert torch.equal(move[row], pick)


@pytest.mark.parametrize(("rows", "features"), [(1, 1), (3, 2), (64, 17), (40, 97)])
def test_both_forms_choose_the_same_pair_also_of_equals(rows: int, features: int) -> None:
    if not kernels.usable(torch.zeros(1)):
        pytest.skip("without a compiler there is one form")
    g = torch.Generator().manual_seed(rows)
    towards, others = torch.randint(-4, 5, (2, rows, features), generator=g) / 2
    up, down = torch.rand(2, rows, features, generator=g) < 0.7
    move = choose_pair(towards, others, up, down)
    assert torch.equal(move, choose_pair_torch(towards, others, up, down))
    assert features < 17 or int(move.any(-1).sum()) > 0.9 * rows


def test_nothing_moves_where_no_pair_tells_against_the_others() -> None:
    same = torch.ones(1, 4)
    can = torch.ones(1, 4, dtype=torch.bool)
    assert not choose_pair(same, same, can, can).any()
    assert not choose_feature(same, same, can, can).any()


def attack(x: Tensor, target: Tensor, budget: Budget, *, pairs: bool = True, **changes: object) -> Tensor:
    net = relu_net()
    avail = torch.ones(*target.shape, 4, dtype=torch.bool)
    settings = {"thetas": (0.05, 0.2, 0.5), "iterations": 12, "pairs": pairs} | changes
    wanted = torch.ones_like(target, dtype=torch.bool)
    return jsma(rows(net), x, target, avail, wanted, box(6), budget, **settings)  # type: ignore[arg-type]


def some(rows: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.rand(rows, 1, 6, generator=g), torch.randint(4, (rows, 1), generator=g)


def reached(x: Tensor, target: Tensor) -> Tensor:
    return chosen(relu_net()(x), torch.ones(*target.shape, 4, dtype=torch.bool)) == target


@pytest.mark.parametrize("pairs", [False, True])
def test_it_succeeds_often_and_stays_in_range(pairs: bool) -> None:
    x, target = some()
    moved = attack(x, target, Budget(), pairs=pairs)
    assert float(reached(moved, target).float().mean()) > 0.6
    assert float(reached(x, target).float().mean()) < 0.4
    assert bool(((moved >= 0) & (moved <= 1)).all())
    already = reached(x, target)
    assert torch.equal(moved[already], x[already]), "what is there already costs nothing"


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", ["l0", "l1", "l2"])
def test_success_never_decreases_with_the_budget_row_by_row(pairs: bool, name: str) -> None:
    x, target = some()
    before, rates = torch.zeros_like(target, dtype=torch.bool), []
    for value in {"l0": (0, 1, 2, 4, 6), "l1": (0.0, 0.2, 0.6, 1.5, 4.0), "l2": (0.0, 0.2, 0.5, 1.5)}[name]:
        budget = Budget(**{name: value})  # type: ignore[arg-type]
        moved = attack(x, target, budget, pairs=pairs)
        eta, now = moved - x, reached(moved, target)
        if value == 0:
            assert torch.equal(moved, x)
        sizes = {"l0": (eta != 0).sum(-1), "l1": eta.abs().sum(-1), "l2": eta.norm(dim=-1)}
        assert float(sizes[name].max()) <= value + 1e-4
        assert bool((now | ~before).all())
        before, rates = now, [*rates, float(now.float().mean())]
    assert rates[-1] > rates[0] + 0.2


def test_the_smallest_theta_that_succeeds_is_kept() -> None:
    x, target = some()
    small = attack(x, target, Budget(), thetas=(0.05,))
    grown = attack(x, target, Budget())
    done = reached(small, target)
    assert torch.equal(grown[done], small[done])
    assert float(reached(grown, target).float().mean()) > float(done.float().mean())


def test_wanted_alone_are_changed() -> None:
    x, target = some()
    wanted = torch.arange(60)[:, None] % 2 == 0
    avail = torch.ones(60, 1, 4, dtype=torch.bool)
    moved = jsma(
        rows(relu_net()),  # type: ignore[arg-type]
        x, target, avail, wanted, box(6), Budget(), thetas=(0.3,), iterations=9, pairs=True,
    )  # fmt: skip
    assert torch.equal(moved[1::2], x[1::2])
    assert not torch.equal(moved[::2], x[::2])


@pytest.mark.parametrize("pairs", [False, True])
def test_against_brute_force_over_all_grids_of_steps(pairs: bool) -> None:
    """Linear scores, four features, steps of 0.25: the oracle tries every point that such steps reach."""
    g = torch.Generator().manual_seed(5)
    x, target = torch.full((30, 1, 4), 0.5), torch.randint(3, (30, 1), generator=g)
    x = (x + 0.25 * torch.randint(-1, 2, x.shape, generator=g)).clamp(0, 1)
    avail = torch.ones(30, 1, 3, dtype=torch.bool)
    moved = jsma(
        rows(lambda v: v @ W_AO.T),  # type: ignore[arg-type]
        x, target, avail, torch.ones(30, 1, dtype=torch.bool), box(4), Budget(),
        thetas=(0.25,), iterations=20, pairs=pairs,
    )  # fmt: skip
    points = torch.tensor(list(itertools.product((0.0, 0.25, 0.5, 0.75, 1.0), repeat=4)))
    hit = chosen(points @ W_AO.T, torch.ones(625, 3, dtype=torch.bool))
    ratio = []
    for row in range(30):
        there = points[hit == int(target[row])]
        least = float((there - x[row, 0]).abs().sum(-1).min()) if len(there) else math.inf
        if int((moved[row, 0] @ W_AO.T).argmax()) != int(target[row]):
            continue
        cost = float((moved[row] - x[row]).abs().sum())
        assert cost >= least - 1e-6, "the greedy way cannot beat the true minimum"
        ratio.append(cost - least)
    assert len(ratio) >= 20
    assert sum(ratio) / len(ratio) <= 0.5, "on average within two steps of the minimum"
