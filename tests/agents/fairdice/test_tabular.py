"""The exact solvers: the sheet's two problems, optimality conditions, and one solver against the other."""

import sys

import pytest
import torch

from marl import momdp
from marl.agents.fairdice.divergence import DIVERGENCES
from marl.agents.fairdice.tabular import Problem, _finish, conic, newton
from marl.agents.fairdice.welfare import AlphaFair, InUnit, PatchedLog
from marl.envs.momdp import Config
from marl.errors import FieldError, MarlError
from marl.momdp import Momdp

D, GAMMA = torch.float64, 0.95
NASH = AlphaFair(1.0)
WELFARES = [AlphaFair(a) for a in (0.0, 0.5, 1.0, 1.25, 6.0)] + [PatchedLog()]
WELFARES += [InUnit(AlphaFair(8.0), 0.05), InUnit(PatchedLog(), 0.05)]


def bandit():
    """One state, two actions with rewards [1, 4] and [3, 1]."""
    reward_SAK = torch.tensor([[[1.0, 4.0], [3.0, 1.0]]], dtype=D)
    ones = torch.ones(1, dtype=D)
    return Momdp(
        start_S=ones, next_SAS=ones.expand(1, 2, 1), reward_SAK=reward_SAK, terminal_S=torch.tensor([False])
    )


def problem(seed=0, **changes):
    """A random process estimated from 100 trajectories."""
    tables = Config(model=seed, states=20).tables()
    policy = momdp.behaviour(tables.model, "mixture", gamma=GAMMA)
    rng = torch.Generator().manual_seed(seed)
    data = momdp.play(tables.model, tables.arrive_SK, policy, episodes=100, limit=50, rng=rng)
    model, data_SA = momdp.estimate(data, 20, 4)
    given = {"model": model, "data_SA": data_SA, "gamma": GAMMA, "welfare": NASH, "beta": 0.1}
    return Problem(**(given | changes))


def test_the_regularised_problem_of_one_state():
    data_SA = torch.tensor([[0.7, 0.3]], dtype=D)
    found = newton(Problem(model=bandit(), data_SA=data_SA, gamma=0.9, welfare=NASH, beta=1.0))
    assert found.mu_K.tolist() == pytest.approx([0.59590, 0.33526], abs=1e-5)
    assert found.d_SA[0].tolist() == pytest.approx([0.66093, 0.33907], abs=1e-5)


def test_the_unregularised_problem_of_one_state():
    """7/12 maximises log(3 - 2 d) + log(1 + 3 d); Newton reaches it as beta goes to 0."""
    data_SA = torch.tensor([[0.7, 0.3]], dtype=D)
    found = newton(Problem(model=bandit(), data_SA=data_SA, gamma=0.9, welfare=NASH, beta=1e-6))
    assert found.d_SA[0].tolist() == pytest.approx([0.58333, 0.41667], abs=1e-4)
    assert found.mu_K.tolist() == pytest.approx([6 / 11, 4 / 11], abs=1e-4)
    assert found.return_K.tolist() == pytest.approx([11 / 6, 11 / 4], abs=1e-4)


def test_the_unregularised_problem_by_the_conic_solver():
    pytest.importorskip("cvxpy", reason="cvxpy is in the extra morl")
    data_SA = torch.tensor([[0.7, 0.3]], dtype=D)
    found = conic(Problem(model=bandit(), data_SA=data_SA, gamma=0.9, welfare=NASH, beta=0.0))
    assert found.d_SA[0].tolist() == pytest.approx([7 / 12, 5 / 12], abs=1e-6)
    assert found.mu_K.tolist() == pytest.approx([6 / 11, 4 / 11], abs=1e-6)
    assert float(found.dual) == pytest.approx(float(found.primal), abs=1e-4)


@pytest.mark.parametrize("f", DIVERGENCES)
@pytest.mark.parametrize("u", WELFARES, ids=str)
@pytest.mark.parametrize("beta", [1e-3, 0.1, 10.0])
def test_optimality_conditions(f, u, beta):
    p = problem(welfare=u, divergence=f, beta=beta)
    found = newton(p)
    assert float(found.residual) < 1e-6
    assert float(found.primal) == pytest.approx(float(found.dual), rel=1e-5, abs=1e-5)
    assert torch.allclose(found.mu_K, u.slope(found.return_K), rtol=1e-4)
    assert (found.d_SA >= 0).all()
    assert (found.d_SA[p.data_SA == 0] == 0).all()
    again = momdp.returns(p.model, momdp.occupancy(p.model, found.policy_SA, GAMMA))
    assert torch.allclose(again, found.return_K, atol=1e-6)


def test_no_feasible_neighbour_is_better():
    """The primal at the occupancy of policies mixed with the optimal one never exceeds the optimum."""
    p = problem(beta=0.05)
    found, g = newton(p), torch.Generator().manual_seed(0)
    for size in (0.3, 0.03, 0.003):
        for _ in range(20):
            noise = torch.rand(20, 4, generator=g, dtype=D) * (p.data_SA > 0)
            mixed = (1 - size) * found.policy_SA + size * noise / noise.sum(-1, keepdim=True).clamp(min=1e-9)
            d_SA = momdp.occupancy(p.model, mixed / mixed.sum(-1, keepdim=True), GAMMA)
            assert p.value(d_SA) <= found.primal + 1e-9


@pytest.mark.parametrize("f", DIVERGENCES)
@pytest.mark.parametrize("u", WELFARES[:4] + WELFARES[5:], ids=str)
def test_both_solvers_agree(f, u):
    pytest.importorskip("cvxpy", reason="cvxpy is in the extra morl")
    p = problem(3, welfare=u, divergence=f, beta=0.02)
    one, other = newton(p), conic(p)
    assert float(one.primal) == pytest.approx(float(other.primal), abs=1e-5)
    assert torch.allclose(one.d_SA, other.d_SA, atol=1e-5)
    assert torch.allclose(one.mu_K, other.mu_K, rtol=1e-4)
    visited = other.d_SA.sum(-1) > 1e-4
    assert torch.allclose(one.nu_S[visited], other.nu_S[visited], rtol=1e-2, atol=1e-3)
    assert float(other.dual) == pytest.approx(float(other.primal), abs=1e-4)


def test_a_state_without_weight_keeps_the_datas_policy():
    """Of three states d has the first; the data the second as well."""
    one_hot = torch.zeros(3, 2, 3, dtype=D)
    one_hot[..., 0] = 1
    model = Momdp(
        start_S=torch.tensor([1.0, 0.0, 0.0], dtype=D),
        next_SAS=one_hot,
        reward_SAK=torch.ones(3, 2, 1, dtype=D),
        terminal_S=torch.zeros(3, dtype=torch.bool),
    )
    data_SA = torch.tensor([[0.3, 0.3], [0.3, 0.1], [0.0, 0.0]], dtype=D)
    p = Problem(model=model, data_SA=data_SA, gamma=0.9, welfare=NASH, beta=1.0)
    d_SA = torch.tensor([[0.8, 0.2], [0.0, 0.0], [0.0, 0.0]], dtype=D)
    found = _finish(p, d_SA, torch.ones(1, dtype=D), torch.zeros(3, dtype=D))
    assert found.policy_SA.flatten().tolist() == pytest.approx([0.8, 0.2, 0.75, 0.25, 0.5, 0.5])


def test_a_stack_is_its_problems_and_a_start_changes_nothing():
    parts = [problem(seed) for seed in range(3)]
    many = problem(
        model=momdp.stack([p.model for p in parts]), data_SA=torch.stack([p.data_SA for p in parts])
    )
    together = newton(many)
    for i, p in enumerate(parts):
        assert torch.allclose(together.d_SA[i], newton(p).d_SA, atol=1e-7)
    other = newton(problem(model=many.model, data_SA=many.data_SA, beta=0.3))
    assert torch.allclose(newton(many, start=other).d_SA, together.d_SA, atol=1e-7)


def test_states_that_no_weight_leaves_are_woken():
    """Uniform walks in the rooms, chi2: many states carry no weight on the way to the optimum."""
    tables = Config(world="four_rooms", limit=100).tables()
    uniform = momdp.behaviour(tables.model, "uniform", gamma=GAMMA)
    rng = torch.Generator().manual_seed(1)
    data = momdp.play(tables.model, tables.arrive_SK, uniform, episodes=300, limit=100, rng=rng)
    model, data_SA = momdp.estimate(data, 104, 4)
    found = newton(Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=NASH, beta=0.01))
    assert float(found.residual) < 1e-6
    assert found.mu_K.tolist() == pytest.approx([91.9119, 99.3731, 146.6316], rel=1e-4)  # the conic solver's
    nash, total = (
        found,
        newton(Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=AlphaFair(0.0), beta=0.01)),
    )
    assert NASH.utility(nash.return_K).sum() > NASH.utility(total.return_K).sum()
    assert total.return_K.sum() > nash.return_K.sum()


def test_given_weights_are_linear():
    """FairDICE-fixed at the Nash weights has the Nash optimum (proposition 1); equal weights do not."""
    p = problem()
    nash = newton(p)
    fixed = newton(problem(mu_K=nash.mu_K))
    assert torch.allclose(fixed.d_SA, nash.d_SA, atol=1e-6)
    equal, total = newton(problem(mu_K=torch.ones(3, dtype=D))), newton(problem(welfare=AlphaFair(0.0)))
    assert torch.allclose(equal.d_SA, total.d_SA, atol=1e-9)
    assert NASH.utility(nash.return_K).sum() > NASH.utility(equal.return_K).sum()
    assert equal.return_K.sum() > nash.return_K.sum()


def test_a_large_alpha_is_near_max_min():
    smallest = [
        float(newton(problem(welfare=AlphaFair(a), beta=1e-3)).return_K.min()) for a in (0.0, 1.0, 8.0)
    ]
    assert smallest == sorted(smallest)


def test_a_patched_log_is_nash_above_its_unit():
    """Where every return is above k0; and Nash in the unit k0 at beta is Nash at beta / k0."""
    k0 = 0.01
    nash = newton(problem(welfare=InUnit(NASH, k0), beta=0.1))
    patched = newton(problem(welfare=InUnit(PatchedLog(), k0), beta=0.1))
    assert (nash.return_K > k0).all()
    assert torch.allclose(patched.d_SA, nash.d_SA, atol=1e-7)
    plain = newton(problem(beta=0.1 / k0))
    assert torch.allclose(plain.d_SA, nash.d_SA, atol=1e-7)
    assert torch.allclose(k0 * plain.mu_K, nash.mu_K, rtol=1e-5)
    near_sum = newton(problem(welfare=PatchedLog(), beta=0.1))
    assert not torch.allclose(near_sum.d_SA, nash.d_SA, atol=1e-3)


def test_an_objective_that_is_never_rewarded_is_refused():
    p = problem()
    p.model.reward_SAK[..., 1] = 0
    with pytest.raises(
        MarlError, match=r"objective 1 \(objective_1\) is never rewarded .* use welfare=patched_log with"
    ):
        newton(p)
    newton(problem(model=p.model, data_SA=p.data_SA, welfare=PatchedLog()))


def test_a_conic_solver_that_gives_up_is_asked_for_less(monkeypatch):
    """The second tolerance is tried; where both fail, one sentence says so."""
    cp = pytest.importorskip("cvxpy", reason="cvxpy is in the extra morl")
    data_SA = torch.tensor([[0.7, 0.3]], dtype=D)
    one = Problem(model=bandit(), data_SA=data_SA, gamma=0.9, welfare=NASH, beta=1.0)
    solve, asked, failures = cp.Problem.solve, [], [1]

    def fails(self, *args, tol_feas, **kwargs):
        asked.append(tol_feas)
        if len(asked) <= failures[0]:
            raise cp.error.SolverError("it failed")
        return solve(self, *args, tol_feas=tol_feas, **kwargs)

    monkeypatch.setattr(cp.Problem, "solve", fails)
    assert conic(one).d_SA[0].tolist() == pytest.approx([0.66093, 0.33907], abs=1e-4)
    assert asked == [1e-10, 1e-8]
    failures[0] = 9
    with pytest.raises(MarlError, match=r"the conic solver found no optimum \(it gave up\)"):
        conic(one)


def test_wrong_problems_are_refused(monkeypatch):
    for changes, field in (
        ({"gamma": 1.0}, "gamma=1"),
        ({"beta": -1.0}, "beta=-1"),
        ({"divergence": "tv"}, "tv"),
    ):
        with pytest.raises(FieldError, match=field):
            problem(**changes)
    p = problem()
    counts, shares = p.data_SA * 1000, p.data_SA.clone()
    shares[0] *= -1
    nan = momdp.Momdp(**{**vars(p.model), "reward_SAK": p.model.reward_SAK * torch.nan})
    ones = torch.ones(3, dtype=D)
    for changes, words in (
        ({"data_SA": counts}, "data_SA='a sum of 1000' cannot be used: give shares"),
        ({"data_SA": shares}, r"data_SA=-.* cannot be used: give shares >= 0"),
        ({"data_SA": p.data_SA.float()}, r"data_SA=torch.float32 cannot be used: give float64"),
        ({"data_SA": p.data_SA[0]}, r"data_SA=\(4,\) cannot be used: give the shape \(20, 4\)"),
        ({"model": nan}, r"reward_SAK=\[nan\] cannot be used: give finite"),
        ({"mu_K": ones[:2]}, r"mu_K=\(2,\) cannot be used: give 3 weights"),
        ({"mu_K": ones.float()}, "mu_K=torch.float32"),
        ({"mu_K": -ones}, r"mu_K=\[-1.0, -1.0, -1.0\] cannot be used: give numbers >= 0"),
        ({"mu_K": 0 * ones}, "with a sum above 0"),
    ):
        with pytest.raises(FieldError, match=words):
            problem(**changes)
    with pytest.raises(FieldError, match="`conic` takes 0"):
        newton(problem(beta=0.0))
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(MarlError, match=r"pip install 'marl-suite\[morl\]'"):
        conic(problem())
