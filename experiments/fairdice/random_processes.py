"""Random processes, solved exactly over alpha x beta, in stacks that each leave a raw file.

A stack is solved from the largest beta to the smallest, each problem starting where the last ended. Data that
never reward an objective are refused, for all alphas alike, so that these are compared on the same processes.
Where Newton's steps do not converge for a whole stack, its problems are solved one by one, and by the conic
solver where they still do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl import momdp
from marl.agents.fairdice.tabular import Problem, Solution, conic, newton
from marl.agents.fairdice.welfare import AlphaFair
from marl.envs.momdp import Config as World
from marl.errors import MarlError

GAMMA = 0.95  # paper
ALPHAS = (0.0, 0.5, 1.0, 1.25)  # paper
BETAS = (1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0)  # paper
CHECKED = (1e-3, 0.1, 10.0)  # betas at which the conic solver is asked too; CHOICE
STACK = 50  # processes solved at once; CHOICE, fits the cache's next level


def stack_files(folder: Path, count: int) -> list[tuple[Path, range]]:
    """The raw file of every stack, and its seeds."""
    parts = [range(first, min(first + STACK, count)) for first in range(0, count, STACK)]
    return [(folder / f"{seeds[0]:04d}-{seeds[-1]:04d}.csv", seeds) for seeds in parts]


def solved(seeds: Sequence[int], checked: int) -> Iterable[dict[str, Any]]:
    """Rows of a stack: every alpha and beta of its seeds; those below `checked` also by the conic solver.

    100 trajectories of 50 steps of a policy half-way between the uniform and the optimal one, soft-chi2.
    """
    worlds = {seed: World(model=seed).tables() for seed in seeds}
    data = {seed: _data(seed, tables) for seed, tables in worlds.items()}
    kept = [seed for seed in seeds if _rewarded(*data[seed])]
    for seed in seeds:
        if seed not in kept:
            yield {"seed": seed, "alpha": "", "beta": "", "solver": "refused"} | _measured(None) | {"gap": ""}
    model = momdp.stack([data[seed][0] for seed in kept])
    data_SA = torch.stack([data[seed][1] for seed in kept])
    true = momdp.stack([worlds[seed].model for seed in kept])
    for alpha in ALPHAS:
        start: Solution | None = None
        for beta in sorted(BETAS, reverse=True):
            problem = Problem(
                model=model,
                data_SA=data_SA,
                gamma=GAMMA,
                welfare=AlphaFair(alpha),
                divergence="soft_chi2",
                beta=beta,
            )
            start, solvers = _solve(problem, start)
            J_RK = momdp.returns(true, momdp.occupancy(true, start.policy_SA, GAMMA))
            for i, seed in enumerate(kept):
                ask = seed < checked and beta in CHECKED and solvers[i] == "newton"
                gap = _gap(single(problem, i), float(start.primal[i])) if ask else ""
                row = {"seed": seed, "alpha": alpha, "beta": beta, "solver": solvers[i]}
                yield row | _measured(J_RK[i]) | {"gap": gap}


def _measured(returns_K: Tensor | None) -> dict[str, Any]:
    """Discounted returns of every objective in the true process."""
    found = ["", "", ""] if returns_K is None else [float(v) / (1 - GAMMA) for v in returns_K]
    return {f"return_{k}": value for k, value in enumerate(found)}


def _data(seed: int, tables: Any) -> tuple[momdp.Momdp, Tensor]:
    policy_SA = momdp.behaviour(tables.model, "halfway", gamma=GAMMA)
    rng = torch.Generator().manual_seed(seed)
    data = momdp.play(tables.model, tables.arrive_SK, policy_SA, episodes=100, limit=50, rng=rng)
    return momdp.estimate(data, 50, 4)


def _rewarded(model: momdp.Momdp, data_SA: Tensor) -> bool:
    problem = Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=AlphaFair(1.0), beta=1.0)
    try:
        problem.refuse_unrewarded()
    except MarlError:
        return False
    return True


def single(problem: Problem, i: int) -> Problem:
    """One problem of a stack."""
    m = problem.model
    one = momdp.Momdp(
        start_S=m.start_S[i],
        next_SAS=m.next_SAS[i],
        reward_SAK=m.reward_SAK[i],
        terminal_S=m.terminal_S[i],
    )
    return Problem(**(vars(problem) | {"model": one, "data_SA": problem.data_SA[i]}))


def _gap(problem: Problem, primal: float) -> float | str:
    """|primal of the conic solver - primal of Newton's|; said where the former finds none."""
    try:
        return abs(float(conic(problem).primal) - primal)
    except MarlError:
        return "no conic optimum"


def _solve(problem: Problem, start: Solution | None) -> tuple[Solution, list[str]]:
    """The optima of a stack, and who found each."""
    try:
        return newton(problem, start), ["newton"] * len(problem.data_SA)
    except MarlError:
        found = [_one(single(problem, i)) for i in range(len(problem.data_SA))]
        names = vars(found[0][0])
        stacked = {name: torch.stack([getattr(one, name) for one, _ in found]) for name in names}
        return Solution(**stacked), [solver for _, solver in found]


def _one(problem: Problem) -> tuple[Solution, str]:
    try:
        return newton(problem), "newton"
    except MarlError:
        return conic(problem), "conic"
