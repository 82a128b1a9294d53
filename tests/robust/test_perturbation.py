"""Perturbations against hand-computed steps on linear scores, brute-force projections and their promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from marl.errors import FieldError
from marl.robust import Aim, Budget, Limits, away, fgsm, iterative_fgsm, pgd, project, towards
from marl.robust.perturbation import gradient
from marl.types import Discrete, EnvSpec, Slice

W_AO = torch.tensor([[1.0, -2.0, 0.5, 4.0], [-1.0, 1.0, 2.0, 0.0], [0.0, 3.0, -1.0, 1.0]])


def linear(x: Tensor) -> Tensor:
    return x @ W_AO.T


def box(low: float = -1.0, high: float = 1.0, O: int = 4) -> Limits:  # noqa: E741
    return Limits(
        free=torch.ones(O, dtype=torch.bool), low=torch.full((O,), low), high=torch.full((O,), high)
    )


def relu_net(inputs: int = 6, actions: int = 4, seed: int = 0) -> Callable[[Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randn(16, inputs, generator=g), torch.randn(actions, 16, generator=g)
    return lambda x: torch.relu(x @ first.T) @ second.T


def all_available(rows: int, actions: int = 3) -> Tensor:
    return torch.ones(rows, actions, dtype=torch.bool)


def test_fgsm_on_linear_scores_by_hand() -> None:
    x = torch.tensor([[0.0, 0.9, -0.95, 0.1]])
    moved = fgsm(linear, x, towards(torch.tensor([1]), all_available(1)), box(), Budget(linf=0.2))
    # The slope of score 1 is (-1, 1, 2, 0): each feature moves 0.2 that way, the second stops at 1.
    torch.testing.assert_close(moved, torch.tensor([[-0.2, 1.0, -0.75, 0.1]]))


@pytest.mark.parametrize(
    ("gain", "slope"),
    [
        ("score", W_AO[0]),
        ("margin", W_AO[0] - W_AO[2]),  # at x action 2 is the best other one
        ("cross_entropy", None),
    ],
)
def test_gradients_of_gains_by_hand_and_by_finite_differences(gain: str, slope: Tensor | None) -> None:
    x, avail = torch.tensor([[0.1, 0.3, -0.2, 0.1]], dtype=torch.float64), all_available(1)
    W = W_AO.double()
    aim = towards(torch.tensor([0]), avail, gain=gain)  # type: ignore[arg-type]
    found, scores = gradient(lambda x: x @ W.T, x, aim)
    torch.testing.assert_close(scores, x @ W.T)
    if slope is not None:
        torch.testing.assert_close(found[0], slope.double())
    for i, h in itertools.product(range(4), (1e-6,)):
        up, down = x.clone(), x.clone()
        up[0, i] += h
        down[0, i] -= h
        numeric = (aim.gain(up @ W.T) - aim.gain(down @ W.T)) / (2 * h)
        torch.testing.assert_close(found[0, i], numeric[0], rtol=1e-5, atol=1e-7)


def test_unavailable_actions_are_no_rivals() -> None:
    x, avail = torch.zeros(1, 4), torch.tensor([[True, True, False]])
    aim = towards(torch.tensor([1]), avail, gain="margin")
    assert gradient(linear, x, aim)[0][0].tolist() == (W_AO[1] - W_AO[0]).tolist()
    assert aim.reached is not None
    assert bool(aim.reached(torch.tensor([[0.0, 1.0, 9.0]]))[0])
    only = towards(torch.tensor([1]), torch.tensor([[False, True, False]]), gain="margin")
    assert gradient(linear, x, only)[0].isfinite().all()


def test_away_is_the_opposite_of_towards() -> None:
    x, avail = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), all_available(5)
    best = linear(x).argmax(-1)
    up, _ = gradient(linear, x, towards(best, avail, gain="margin"))
    down, _ = gradient(linear, x, away(best, avail, gain="margin"))
    torch.testing.assert_close(up, -down)


def test_one_small_targeted_step_never_lowers_the_target() -> None:
    """The step's sign: ascending the target's score, whatever the network."""
    scores, g = relu_net(), torch.Generator().manual_seed(1)
    x, target = torch.rand(200, 6, generator=g), torch.randint(4, (200,), generator=g)
    avail, at = all_available(200, 4), target[:, None]
    for norm in ("linf", "l2", "l1"):
        aim = towards(target, avail)
        never = Aim(gain=aim.gain)
        moved = pgd(scores, x, never, box(0.0, O=6), Budget(linf=1e-3), step=1e-4, iterations=1, norm=norm)
        rise = (scores(moved) - scores(x)).gather(-1, at)
        assert bool((rise >= 0).all())
        assert float(rise.mean()) > 0


def test_steps_by_hand_in_every_norm() -> None:
    x, target = torch.zeros(1, 4), torch.tensor([0])
    aim = Aim(gain=towards(target, all_available(1)).gain)
    slope = W_AO[0]
    steps = {
        "linf": 0.1 * slope.sign(),
        "l2": 0.1 * slope / slope.norm(),
        "l1": torch.tensor([0.0, 0.0, 0.0, 0.1]),
    }
    for norm, wanted in steps.items():
        moved = pgd(linear, x, aim, box(), Budget(), step=0.1, iterations=1, norm=norm)  # type: ignore[arg-type]
        torch.testing.assert_close(moved[0], wanted)
    # In L1 the feature that is at its end gives way to the next largest slope.
    far = pgd(linear, x, aim, box(), Budget(), step=1.0, iterations=2, norm="l1")
    torch.testing.assert_close(far[0], torch.tensor([0.0, -1.0, 0.0, 1.0]))


def test_iteration_stops_where_the_target_is_reached() -> None:
    x, target = torch.tensor([[0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.5, 0.0]]), torch.tensor([1, 1])
    moved = iterative_fgsm(
        linear, x, towards(target, all_available(2)), box(), Budget(), step=0.05, iterations=30
    )
    assert linear(moved).argmax(-1).tolist() == [1, 1]
    assert torch.equal(moved[1], x[1]), "the second row needed nothing"
    back = iterative_fgsm(
        linear, x, towards(target, all_available(2)), box(), Budget(), step=0.05, iterations=1
    )
    assert int(linear(back)[0].argmax()) != 1, "one step fewer would not have been enough at this size"


@pytest.mark.parametrize(
    ("delta", "radius", "wanted"),
    [((3.0, 1.0), 2.0, (2.0, 0.0)), ((3.0, -2.0), 2.0, (1.5, -0.5)), ((0.5, 0.5), 2.0, (0.5, 0.5))],
)
def test_l1_projection_by_hand(
    delta: tuple[float, float], radius: float, wanted: tuple[float, float]
) -> None:
    out = project(torch.zeros(1, 2), torch.tensor([delta]), box(-9, 9, 2), Budget(l1=radius))
    torch.testing.assert_close(out, torch.tensor([wanted]))


def test_projections_are_the_nearest_points() -> None:
    """Against a fine grid of the ball in two dimensions."""
    g = torch.Generator().manual_seed(2)
    line = torch.linspace(-1, 1, 401)
    grid = torch.cartesian_prod(line, line)
    for delta in 3 * torch.randn(20, 2, generator=g):
        for name, norm in (("l1", 1), ("l2", 2), ("linf", math.inf)):
            ball = grid[grid.norm(norm, dim=-1) <= 0.7]
            nearest = (ball - delta).norm(dim=-1).min()
            out = project(torch.zeros(2), delta, box(-9, 9, 2), Budget(**{name: 0.7}))  # type: ignore[arg-type]
            assert float(out.norm(norm)) <= 0.7 + 1e-6
            assert float((out - delta).norm()) <= float(nearest) + 1e-3


BUDGETS = [
    Budget(linf=0.1),
    Budget(l1=0.4, linf=0.3),
    Budget(l2=0.2),
    Budget(l0=2, linf=0.5),
    Budget(l0=3, l1=0.5, l2=0.3, linf=0.25),
]


def attacks(norm: str) -> Callable[..., Tensor]:
    if norm == "fgsm":
        return fgsm
    return lambda *a: pgd(*a, step=0.07, iterations=8, norm=norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("norm", ["fgsm", "linf", "l2", "l1"])
def test_budget_mask_and_range_hold(budget: Budget, norm: str) -> None:
    if norm == "fgsm" and not math.isfinite(budget.linf):
        return
    g, scores = torch.Generator().manual_seed(3), relu_net()
    x, target = torch.rand(4, 25, 6, generator=g), torch.randint(4, (4, 25), generator=g)
    x[0, 0, 0] = 1.4  # outside its range from the start
    avail = torch.ones(4, 25, 4, dtype=torch.bool)
    limits = Limits(
        free=torch.tensor([True, True, False, True, True, True]), low=torch.zeros(6), high=torch.ones(6)
    )
    moved = attacks(norm)(scores, x, towards(target, avail), limits, budget)
    eta = moved - x
    assert not torch.equal(moved, x)
    assert torch.equal(moved[..., 2], x[..., 2])
    inside = x <= 1
    assert bool((moved[inside] <= 1).all())
    assert bool((moved >= 0).all())
    assert float(moved[0, 0, 0]) <= float(x[0, 0, 0])
    assert float(eta.abs().amax()) <= budget.linf + 1e-6
    assert float(eta.abs().sum(-1).amax()) <= budget.l1 + 1e-5
    assert float(eta.norm(dim=-1).amax()) <= budget.l2 + 1e-6
    if budget.l0 is not None:
        assert int((eta != 0).sum(-1).max()) <= budget.l0


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("norm", ["fgsm", "linf", "l2", "l1"])
def test_a_budget_of_zero_changes_no_bit(name: str, norm: str) -> None:
    x = torch.rand(30, 6, generator=torch.Generator().manual_seed(4)) * 1.3
    budget = Budget(**({"linf": 0.5} | {name: 0}))  # type: ignore[arg-type]
    aim = towards(torch.zeros(30, dtype=torch.int64), all_available(30, 4))
    assert torch.equal(attacks(norm)(relu_net(), x, aim, box(0.0, O=6), budget), x)


@pytest.mark.parametrize("norm", ["fgsm", "linf", "l2", "l1"])
def test_success_never_decreases_with_the_budget(norm: str) -> None:
    """Row by row where scores are linear; one step of FGSM may overshoot elsewhere."""
    g = torch.Generator().manual_seed(5)
    x, target = torch.rand(300, 4, generator=g), torch.randint(3, (300,), generator=g)
    # The lead over one rival is linear in x, so that more of the same direction is never worse.
    avail = torch.zeros(300, 3, dtype=torch.bool).scatter(-1, target[:, None], True)
    avail |= torch.zeros_like(avail).scatter(-1, (target[:, None] + 1) % 3, True)
    before = torch.zeros(300, dtype=torch.bool)
    rates = []
    for linf in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8):
        aim = towards(target, avail, gain="margin")
        attack = fgsm if norm == "fgsm" else lambda *a: pgd(*a, step=0.05, iterations=120, norm=norm)  # type: ignore[arg-type]
        moved = attack(linear, x, aim, box(0.0), Budget(linf=linf))
        assert aim.reached is not None
        reached = aim.reached(linear(moved))
        assert bool((reached | ~before).all())
        before, rates = reached, [*rates, float(reached.float().mean())]
    assert rates[0] < rates[-1]


def test_pgd_finds_nearly_the_smallest_perturbation_that_brute_force_finds() -> None:
    """Two features, a ReLU network, L-infinity: the oracle tries every point of a fine grid."""
    scores, g = relu_net(inputs=2, actions=3, seed=7), torch.Generator().manual_seed(8)
    x, target = torch.rand(25, 2, generator=g), torch.randint(3, (25,), generator=g)
    line = torch.linspace(0, 1, 301)
    grid_P2 = torch.cartesian_prod(line, line)
    hit_PR = scores(grid_P2).argmax(-1)[:, None] == target
    distance_PR = (grid_P2[:, None] - x).abs().amax(-1)
    least_R = distance_PR.masked_fill(~hit_PR, math.inf).amin(0)
    found_R, aim = torch.full((25,), math.inf), towards(target, all_available(25), gain="margin")
    for linf in torch.linspace(0, 1, 41).tolist():
        moved = pgd(scores, x, aim, box(0.0, O=2), Budget(linf=linf), step=0.02, iterations=60)
        size_R = (moved - x).abs().amax(-1)
        found_R = torch.where(scores(moved).argmax(-1) == target, found_R.minimum(size_R), found_R)
    assert bool((found_R >= least_R - 0.01).all()), "nothing beats the oracle by more than its grid"
    reachable_R = least_R.isfinite()
    assert int(reachable_R.sum()) > 15
    # Ascent may stop at a local optimum; nearly everywhere it is within a step of the least.
    near_R = found_R[reachable_R] <= least_R[reachable_R] + 0.05
    assert float(near_R.float().mean()) >= 0.8


def test_rows_do_not_depend_on_their_batch() -> None:
    scores, g = relu_net(), torch.Generator().manual_seed(6)
    x, target = torch.rand(12, 6, generator=g), torch.randint(4, (12,), generator=g)
    avail, rest = all_available(12, 4), (box(0.0, O=6), Budget(l1=0.5))
    together = pgd(scores, x, towards(target, avail), *rest, step=0.05, iterations=10)
    for i in range(12):
        one = slice(i, i + 1)
        alone = pgd(scores, x[one], towards(target[one], avail[one]), *rest, step=0.05, iterations=10)
        torch.testing.assert_close(alone, together[one])


def test_scores_of_one_agent_perturb_that_agent_alone() -> None:
    """x is (B, N, O), scores are (B, A)."""
    x, target = torch.zeros(3, 2, 4), torch.tensor([0, 1, 2])
    limits = Limits(free=torch.tensor([[False], [True]]), low=torch.tensor(-1.0), high=torch.tensor(1.0))
    moved = pgd(
        lambda x: linear(x.sum(1)),
        x,
        towards(target, all_available(3)),
        limits,
        Budget(linf=0.3),
        step=0.1,
        iterations=9,
    )
    assert torch.equal(moved[:, 0], x[:, 0])
    assert linear(moved[:, 1]).argmax(-1).tolist() == [0, 1, 2]
    assert float(moved.abs().max()) <= 0.3


def test_a_start_is_cut_too() -> None:
    x, start = torch.zeros(1, 4), torch.full((1, 4), 5.0)
    aim = Aim(gain=towards(torch.tensor([0]), all_available(1)).gain)
    out = pgd(linear, x, aim, box(), Budget(linf=0.2), step=0.1, iterations=0, start=start)
    torch.testing.assert_close(out, torch.full((1, 4), 0.2))


def test_limits_say_what_the_world_says() -> None:
    parts = (
        Slice(name="seen", start=0, stop=1, low=0.0, high=1.0, kind="binary"),
        Slice(name="place", start=1, stop=3, low=-2.0, high=3.0, kind="real"),
    )
    spec = EnvSpec(
        name="test",
        agents=("a", "b"),
        agent_types=("big", "small"),
        obs_size=3,
        state_size=1,
        action_spaces=(Discrete(n=2),) * 2,
        obs_slices={"big": parts, "small": parts[:1]},
        episode_limit=3,
    )
    limits = Limits.of(spec, torch.device("cpu"))
    assert limits.free.tolist() == [[True, True, True], [True, False, False]]  # the rest is padding
    assert limits.low[0].tolist() == [0.0, -2.0, -2.0]
    assert limits.high[0].tolist() == [1.0, 3.0, 3.0]
    only = Limits.of(spec, torch.device("cpu"), agents=(0,), kinds=("real",))
    assert only.free.tolist() == [[False, True, True], [False, False, False]]


def test_wrong_budgets_say_so() -> None:
    with pytest.raises(FieldError, match=r"l1=-1.0 cannot be used: give a number >= 0"):
        Budget(l1=-1.0)
    with pytest.raises(FieldError, match=r"linf=inf cannot be used: give a finite number: it is FGSM's step"):
        fgsm(linear, torch.zeros(1, 4), towards(torch.tensor([0]), all_available(1)), box(), Budget(l1=1.0))
