"""FairDICE on known or estimated tables, solved exactly: the oracle of the learners.

| symbol | name here | meaning |
|---|---|---|
| d(s,a) | d_SA | discounted occupancy times (1 - gamma); 0 where the data are silent |
| dD(s,a) | data_SA | occupancy of the data |
| J_i, k_i | return_K | sum over (s,a) of d r_i |
| mu_i | mu_K | weight of objective i; u'(J_i) at the optimum |
| nu(s) | nu_S | multiplier of the flow at s; 0 in terminal states |
| e | e_SA | mu . r + gamma E[nu(s')] - nu(s) |
| w | | weight of (s,a): argmax over x >= 0 of x e / beta - f(x); d = w dD |

    primal   max  sum_i u(J_i) - beta sum dD f(d / dD)   over d >= 0 with the Bellman flow
    dual     min  (1 - gamma) E_p0[nu(s0)] + beta E_D[f*0(e / beta)] + sum_i u*(-mu_i)   over nu, mu

`newton` minimises the dual of one problem or of a stack of them; `conic` maximises the primal of one with
cvxpy, which also takes beta = 0. With given weights (`mu_K`) the welfare is mu . J and u* falls away: that is
FairDICE-fixed, and with equal weights the utilitarian problem.

Reference: Kim et al., "FairDICE", NeurIPS 2025, sections 4 and 5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl import momdp
from marl.agents.fairdice.check import refuse_unrewarded
from marl.agents.fairdice.divergence import DIVERGENCES, Divergence
from marl.agents.fairdice.welfare import AlphaFair, InUnit, PatchedLog, Welfare
from marl.errors import FieldError, MarlError, require
from marl.momdp import Momdp

_ROUNDS = 400  # Newton steps at one beta; CHOICE, tens are usual
_TOLERANCE = 1e-9  # of the largest gradient entry, which is a residual of flow or return
_ACCEPTED = 1e-6  # the same where rounding allows no better
_CONIC_TOLERANCES = (1e-10, 1e-8)  # the second is CLARABEL's own, for where it gives up at the first; CHOICE


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be solved; tables may be a stack with leading dimensions (...).

    Args:
        model: the process.
        data_SA: dD, sums to 1; all tables are float64.
        gamma: discount, [0, 1).
        welfare: u.
        divergence: name of f: chi2, soft_chi2 or kl.
        beta: > 0 (0 in `conic` alone).
        mu_K: fixed weights (K,) or (..., K), >= 0, or None to find them.

    Raises:
        FieldError: a number is out of its range, or a table of another shape, type or sum.
    """

    model: Momdp
    data_SA: Tensor
    gamma: float
    welfare: Welfare
    divergence: str = "chi2"
    beta: float
    mu_K: Tensor | None = None

    def __post_init__(self) -> None:
        require(0 <= self.gamma < 1, "gamma", self.gamma, "give a number in [0, 1)")
        require(self.beta >= 0, "beta", self.beta, "give a number >= 0")
        names = ", ".join(DIVERGENCES)
        require(self.divergence in DIVERGENCES, "divergence", self.divergence, f"give one of {names}")
        self._check_tables()

    def _check_tables(self) -> None:
        m, mu_K = self.model, self.mu_K
        tables = {"start_S": m.start_S, "next_SAS": m.next_SAS, "reward_SAK": m.reward_SAK}
        tables |= {"data_SA": self.data_SA} | ({} if mu_K is None else {"mu_K": mu_K})
        for name, table in tables.items():
            require(table.dtype == torch.float64, name, table.dtype, "give float64 (`.double()`)")
            bad = table[~table.isfinite()].flatten().tolist()
            require(not bad, name, bad[:1], "give finite numbers")
        shape = m.reward_SAK.shape[:-1]
        fix = f"give the shape {tuple(shape)} of the rewards' states and actions"
        require(self.data_SA.shape == shape, "data_SA", tuple(self.data_SA.shape), fix)
        least, sums = float(self.data_SA.min()), self.data_SA.sum((-2, -1)).flatten()
        require(least >= 0, "data_SA", least, "give shares >= 0")
        far = float(sums[(sums - 1).abs().argmax()])
        require(abs(far - 1) < 1e-6, "data_SA", f"a sum of {far:g}", "give shares of the data that sum to 1")
        if mu_K is not None:
            K = m.sizes[2]
            fits = mu_K.dim() > 0 and mu_K.shape[-1] == K and mu_K.shape[:-1] in ((), shape[:-2])
            require(fits, "mu_K", tuple(mu_K.shape), f"give {K} weights, one per objective")
            fits = bool((mu_K >= 0).all()) and bool((mu_K.sum(-1) > 0).all())
            require(fits, "mu_K", mu_K.tolist(), "give numbers >= 0 with a sum above 0")

    @property
    def f(self) -> Divergence:
        return DIVERGENCES[self.divergence]

    def weights_K(self) -> Tensor | None:
        """The weights that are fixed: given ones, or all 1 where the welfare is a sum."""
        if self.mu_K is not None or self.welfare.learns_weights:
            return self.mu_K
        return torch.ones_like(self.model.reward_SAK[..., 0, 0, :])

    def refuse_unrewarded(self) -> None:
        """Raise MarlError where the data never reward an objective whose weight would then be infinite."""
        if self.weights_K() is None:
            seen_SAK = torch.where(self.data_SA[..., None] > 0, self.model.reward_SAK, 0.0)
            K = seen_SAK.shape[-1]
            most_RK = seen_SAK.amax((-3, -2)).reshape(-1, K)
            refuse_unrewarded(self.welfare, most_RK.amin(0), [f"objective_{k}" for k in range(K)])

    def value(self, d_SA: Tensor) -> Tensor:
        """The primal objective (...)."""
        J_K, fixed_K = momdp.returns(self.model, d_SA), self.weights_K()
        gain = self.welfare.utility(J_K) if fixed_K is None else fixed_K * J_K
        seen_SA = self.data_SA > 0
        ratio_SA = torch.where(seen_SA, d_SA / self.data_SA.clamp(min=1e-300), 0.0)
        cost_SA = torch.where(seen_SA, self.data_SA * self.f.generator(ratio_SA), 0.0)
        return gain.sum(-1) - self.beta * cost_SA.sum((-2, -1))

    def flow(self, d_SA: Tensor) -> Tensor:
        """Residual of the Bellman flow at every state that goes on (..., S)."""
        m = self.model
        into_S = (d_SA[..., None] * m.moving_SAS()).sum((-3, -2))
        out_S = d_SA.sum(-1)
        return ((1 - self.gamma) * m.start_S + self.gamma * into_S - out_S) * ~m.terminal_S


@dataclass(frozen=True, kw_only=True)
class Solution:
    """An optimum; every tensor with the problem's leading dimensions.

    Args:
        policy_SA: d / sum_a d; the data's own policy where d(s) = 0, and uniform where that is unknown.
        primal, dual: values of the two problems.
        residual: largest error of flow.
    """

    d_SA: Tensor
    mu_K: Tensor
    nu_S: Tensor
    return_K: Tensor
    policy_SA: Tensor
    primal: Tensor
    dual: Tensor
    residual: Tensor


def _finish(p: Problem, d_SA: Tensor, mu_K: Tensor, nu_S: Tensor) -> Solution:
    share_SA = p.data_SA / p.data_SA.sum(-1, keepdim=True).clamp(min=1e-300)
    fallback_SA = torch.where(p.data_SA.sum(-1, keepdim=True) > 0, share_SA, 1 / d_SA.shape[-1])
    d_S1 = d_SA.sum(-1, keepdim=True)
    policy_SA = torch.where(d_S1 > 1e-12, d_SA / d_S1.clamp(min=1e-300), fallback_SA)
    return Solution(
        d_SA=d_SA,
        mu_K=mu_K,
        nu_S=nu_S,
        return_K=momdp.returns(p.model, d_SA),
        policy_SA=policy_SA,
        primal=p.value(d_SA),
        dual=_Dual(p)
        .value(torch.cat([nu_S, mu_K], -1).reshape(-1, nu_S.shape[-1] + mu_K.shape[-1]))
        .view(mu_K.shape[:-1]),
        residual=p.flow(d_SA).abs().amax(-1),
    )


# The dual


class _Dual:
    """L(nu, mu), its gradient and its Hessian for a stack of R problems; x = [nu | mu] (R, S + K)."""

    def __init__(self, p: Problem) -> None:
        m, (S, A, K) = p.model, p.model.sizes
        self.welfare, self.f, self.beta, self.S, self.A = p.welfare, p.f, p.beta, S, A
        self.learns = p.weights_K() is None
        alive_S = (~m.terminal_S).to(m.next_SAS.dtype)
        own_SAS = torch.eye(S, dtype=m.next_SAS.dtype)[:, None] * alive_S[..., :, None, None]
        step_SAS = p.gamma * m.moving_SAS() - own_SAS
        rewards = m.reward_SAK * alive_S[..., None, None]
        X = S + K
        self.features = torch.cat([step_SAS, rewards], -1).reshape(-1, S * A, X)  # e = features [nu | mu]
        self.data = (p.data_SA * alive_S[..., None]).reshape(-1, S * A)
        self.linear = ((1 - p.gamma) * m.start_S * alive_S).reshape(-1, S)

    def rows(self, index_R: Tensor) -> _Dual:
        """The problems of these rows."""
        out: _Dual = object.__new__(_Dual)
        out.__dict__.update(self.__dict__)
        for name in ("features", "data", "linear"):
            setattr(out, name, getattr(self, name)[index_R])
        return out

    def value(self, x: Tensor) -> Tensor:
        """L (R,); where beta = 0, its limit for e <= 0."""
        total = (self.linear * x[:, : self.S]).sum(-1)
        if self.beta > 0:
            y = (self.features @ x[..., None])[..., 0] / self.beta
            total = total + self.beta * (self.data * self.f.conjugate(y)).sum(-1)
        return total + self.welfare.conjugate(x[:, self.S :]).sum(-1) if self.learns else total

    def derivatives(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (R, X), Hessian (R, X, X), and d (R, S A)."""
        S, y = self.S, (self.features @ x[..., None])[..., 0] / self.beta
        d = self.data * self.f.weight(y)
        gradient = (self.features.mT @ d[..., None])[..., 0]
        gradient[:, :S] += self.linear
        curve = self.data * self.f.slope(y) / self.beta
        hessian = self.features.mT @ (curve[..., None] * self.features)
        if self.learns:
            gradient[:, S:] -= self.welfare.best(x[:, S:])
            hessian.diagonal(dim1=-2, dim2=-1)[:, S:] += self.welfare.curvature(x[:, S:])
        else:
            gradient[:, S:] = 0.0
            hessian[:, S:, :] = 0.0
            hessian[:, :, S:] = 0.0
        return gradient, hessian, d


def newton(p: Problem, start: Solution | None = None) -> Solution:
    """Damped Newton steps on the dual.

    Args:
        p: the problem.
        start: optimum of a similar one (of another beta, say) to start from; without it the problem is solved
            at betas that fall tenfold from 1 down to its own.

    Raises:
        FieldError: beta is 0.
        MarlError: an objective is never rewarded, or the steps did not converge.
    """
    require(p.beta > 0, "beta", p.beta, "give a number above 0; `conic` takes 0")
    p.refuse_unrewarded()
    dual, (S, A, K) = _Dual(p), p.model.sizes
    lead, fixed_K = p.model.start_S.shape[:-1], p.weights_K()
    betas = [p.beta]
    if start is None:
        mu_K = torch.ones(*lead, K, dtype=p.data_SA.dtype) if fixed_K is None else fixed_K.expand(*lead, K)
        x = torch.cat([torch.zeros(*lead, S, dtype=p.data_SA.dtype), mu_K], -1)
        while betas[-1] < 1.0:
            betas.append(min(betas[-1] * 10, 1.0))
    else:
        x = torch.cat([start.nu_S, start.mu_K], -1)
    x = x.reshape(-1, S + K).clone()
    for dual.beta in reversed(betas):
        worst = _descend(dual, x)
    if not bool((worst < _ACCEPTED).all()):
        raise MarlError(
            f"the dual did not converge (residual {float(worst.max()):.2g} at beta={p.beta:g}); use `conic`, "
            "a larger beta, or divergence=soft_chi2, whose dual is smooth"
        )
    d_SA = dual.derivatives(x)[2].view(*lead, S, A)
    x = x.view(*lead, S + K)
    return _finish(p, d_SA, x[..., S:], x[..., :S])


def _descend(dual: _Dual, x: Tensor) -> Tensor:
    """Minimise from x (R, X), in place; returns the largest gradient entry at the end (R,)."""
    going = torch.arange(len(x))
    damping, worst = torch.full((len(x),), 1e-8, dtype=x.dtype), torch.zeros(len(x), dtype=x.dtype)
    for _ in range(_ROUNDS):
        part, old = dual.rows(going), x[going]
        old = _wake(part, old)
        gradient, hessian, _ = part.derivatives(old)
        worst[going] = gradient.abs().amax(-1)
        step = _step(part, old, gradient, hessian, damping[going])
        slope, value = (gradient * step).sum(-1), part.value(old)
        # At the optimum, or as near as the rounding of the value can tell.
        left = (worst[going] >= _TOLERANCE) & (-slope > 1e-17 * (1 + value.abs()))
        going, part, old = going[left], part.rows(left), old[left]
        if not len(going):
            break
        size = _line_search(part, old, step[left], slope[left], value[left])
        x[going] = old + size[:, None] * step[left]
        damping[going] = torch.where(size == 1, damping[going] / 10, damping[going] * 10).clamp(1e-12, 1e3)
    return worst


def _wake(part: _Dual, x: Tensor) -> Tensor:
    """x with nu lowered at states that flow enters and none leaves, until an action of theirs has weight
    again.

    Where chi2 gives all actions of a state weight 0, L has no curvature there and Newton's step none to go
    by. Each move alone makes L smaller; all at once are made only where L falls.
    """
    S, A = part.S, part.A
    y = (part.features @ x[..., None])[..., 0] / part.beta
    weight = part.data * part.f.weight(y)
    seen_RSA = (part.data > 0).unflatten(-1, (S, A))
    silent_RS = (weight.unflatten(-1, (S, A)).sum(-1) <= 0) & seen_RSA.any(-1)
    if not bool(silent_RS.any()):
        return x
    inflow_RS = part.linear + (part.features[..., :S].clamp(min=0) * weight[..., None]).sum(-2)
    own_RSA = (
        part.features[..., :S].unflatten(-2, (S, A)).diagonal(dim1=-3, dim2=-1).mT
    )  # of nu(s) in e(s, a)
    wanted = -part.beta * (1 - 1e-3)  # just inside, where chi2's weight is above 0
    move_RSA = (wanted - part.beta * y.unflatten(-1, (S, A))) / own_RSA.clamp(max=-1e-12)
    move_RS = torch.where(seen_RSA, move_RSA, -torch.inf).amax(-1)
    move_RS = torch.where(silent_RS & (inflow_RS > 0), move_RS.clamp(max=0), 0.0)
    new = torch.cat([x[:, :S] + move_RS, x[:, S:]], -1)
    return torch.where((part.value(new) <= part.value(x))[:, None], new, x)


def _step(part: _Dual, x: Tensor, gradient: Tensor, hessian: Tensor, damping: Tensor) -> Tensor:
    """Newton's step with a ridge relative to the Hessian's diagonal, cut to stay inside mu > 0."""
    scale = hessian.diagonal(dim1=-2, dim2=-1)
    ridge = damping[:, None] * scale + 1e-14 * scale.amax(-1, keepdim=True)
    ridge = torch.where(scale == 0, 1.0, ridge)  # a state that the data do not know
    step = -torch.linalg.solve(hessian + torch.diag_embed(ridge), gradient)
    if not part.learns:
        return step
    ratio = (-step[:, part.S :] / x[:, part.S :]).amax(-1).clamp(min=1e-300)
    return step * (0.9 / ratio).clamp(max=1.0)[:, None]


def _line_search(part: _Dual, x: Tensor, step: Tensor, slope: Tensor, value: Tensor) -> Tensor:
    """The largest of 1, 1/2, 1/4 ... that makes L fall enough, 0 where none does (R,)."""
    size, found = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool)
    for _ in range(30):
        trial = part.value(x + size[:, None] * step)
        found |= trial <= value + 1e-4 * size * slope + 1e-15 * value.abs()
        if bool(found.all()):
            break
        size = torch.where(found, size, size / 2)
    return torch.where(found, size, 0.0)


# The primal


def import_cvxpy() -> Any:
    """cvxpy, or one sentence on how to get it."""
    try:
        import cvxpy
    except ImportError as error:
        raise MarlError(
            f"the conic solver needs cvxpy, which cannot be imported ({error}): "
            "install it with pip install 'marl-suite[morl]'"
        ) from error
    return cvxpy


def conic(p: Problem) -> Solution:
    """The primal of one problem by cvxpy and CLARABEL.

    Raises:
        MarlError: cvxpy is not installed, or the solver found no optimum.
    """
    cp = import_cvxpy()
    p.refuse_unrewarded()
    m, (S, A, K) = p.model, p.model.sizes
    alive_S = ~m.terminal_S
    seen = ((p.data_SA > 0) & alive_S[:, None]).flatten().nonzero()[:, 0].numpy()
    if not len(seen):
        raise FieldError("data_SA", "all zero", "give data")
    into_XS = (p.gamma * m.moving_SAS()).flatten(0, 1).numpy()[seen]
    into_XS[range(len(seen)), seen // A] -= 1.0
    dD_X, reward_XK = p.data_SA.flatten().numpy()[seen], m.reward_SAK.flatten(0, 1).numpy()[seen]
    x = cp.Variable(len(seen), nonneg=True)  # d / dD: of one size, whatever the data
    d = cp.multiply(dD_X, x)
    flow = (into_XS.T[alive_S.numpy()] @ d) + ((1 - p.gamma) * m.start_S)[alive_S].numpy() == 0
    constraints, J, fixed_K = [flow], reward_XK.T @ d, p.weights_K()
    if fixed_K is None:
        gain, more = _utility(cp, p.welfare, J, K)
        constraints += more
    else:
        gain = fixed_K.numpy() @ J
    if p.beta > 0:
        cost, more = _divergence(cp, p.divergence, x, dD_X)
        constraints += more
        gain = gain - p.beta * cost
    problem = cp.Problem(cp.Maximize(gain), constraints)
    status = "it gave up"
    for tolerance in _CONIC_TOLERANCES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": the solution says how much
            goals = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
            try:
                problem.solve(solver="CLARABEL", **goals)
            except cp.error.SolverError:
                continue
        status = problem.status
        if status in ("optimal", "optimal_inaccurate"):
            break
    else:
        raise MarlError(f"the conic solver found no optimum ({status}): is every objective rewarded?")
    d_SA = torch.zeros(S * A, dtype=torch.float64)
    d_SA[seen] = torch.from_numpy(dD_X * x.value.clip(min=0))
    d_SA = d_SA.view(S, A)
    nu_S = torch.zeros(S, dtype=torch.float64)
    nu_S[alive_S] = -torch.from_numpy(flow.dual_value)  # of the sign that cvxpy gives a maximum's multipliers
    mu_K = p.welfare.slope(momdp.returns(m, d_SA)) if fixed_K is None else fixed_K
    return _finish(p, d_SA, mu_K, nu_S)


def _utility(cp: Any, welfare: Welfare, J: Any, K: int) -> tuple[Any, list[Any]]:
    """sum_i u(J_i), and the constraints that define it."""
    if isinstance(welfare, InUnit):
        gain, more = _utility(cp, welfare.whole, J / welfare.k0, K)
        return welfare.k0 * gain, more
    if isinstance(welfare, PatchedLog):  # log(y) + z - z^2 / 2 at its best split J = y + z, y >= 1, z <= 0
        y, z = cp.Variable(K), cp.Variable(K)
        return cp.sum(cp.log(y)) + cp.sum(z) - cp.sum_squares(z) / 2, [y + z == J, y >= 1, z <= 0]
    assert isinstance(welfare, AlphaFair)
    if welfare.alpha == 1:
        return cp.sum(cp.log(J)), []
    return cp.sum(cp.power(J, 1 - welfare.alpha)) / (1 - welfare.alpha), []


def _divergence(cp: Any, name: str, x: Any, dD_X: Any) -> tuple[Any, list[Any]]:
    """E_D[f(x)], and the constraints that define it."""
    if name == "chi2":
        return dD_X @ cp.square(x - 1) / 2, []
    if name == "kl":
        return -(dD_X @ cp.entr(x)), []
    low, over = cp.Variable(x.shape), cp.Variable(x.shape, nonneg=True)  # x = low + over, low <= 1
    f = -cp.entr(low) - low + 1 + cp.square(over) / 2
    return dD_X @ f, [low + over == x, low <= 1]
