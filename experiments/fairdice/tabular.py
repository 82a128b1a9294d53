"""FairDICE on finite worlds, solved exactly; and the learner against that.

    python -m experiments.fairdice.tabular rooms      four rooms, 100 generated data sets
    python -m experiments.fairdice.tabular random     1,000 random processes over alpha x beta; resumable
    python -m experiments.fairdice.tabular learner    the learner against the exact optimum, 10 processes
    python -m experiments.fairdice.tabular sampled    a network on sampled batches, the same processes

Every policy is solved on the process estimated from its data set and measured in the true one: returns are
discounted sums. Each command writes experiments/fairdice/raw/<name>.csv, or a file per stack of processes in
raw/random, one row per data set and policy, and the claims that follow. With --count it is a trial of so many
data sets, which writes to runs/fairdice_tabular instead and claims nothing.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims import ROOT, Derived, write_claim
from experiments.fairdice.metrics import jain, nash, read
from experiments.fairdice.random_processes import solved, stack_files
from marl import momdp, stats
from marl.agents.fairdice.tabular import Problem, Solution, conic, newton
from marl.agents.fairdice.welfare import AlphaFair
from marl.envs.momdp import Config as World
from marl.errors import MarlError
from marl.files import write_atomic

RAW = ROOT / "experiments" / "fairdice" / "raw"
TRIAL = Path("runs/fairdice_tabular")  # below the folder in which the command runs
COUNTS = {"rooms": 100, "random": 1000, "learner": 10, "sampled": 10}
GAMMA = 0.95  # CHOICE: of the rooms, for which the paper states none; that of its random processes


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A raw file of rows with equal keys, whole or not at all."""
    text, writer = io.StringIO(), None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, row, lineterminator="\n")
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())
    print(path)


def _measured(returns_K: Tensor, gamma: float) -> dict[str, float]:
    """Discounted returns of every objective."""
    return {f"return_{k}": float(v) / (1 - gamma) for k, v in enumerate(returns_K)}


def _true(tables: Any, gamma: float, policy_SA: Tensor) -> Tensor:
    return momdp.returns(tables.model, momdp.occupancy(tables.model, policy_SA, gamma))


# Four rooms


def rooms(count: int) -> Iterable[dict[str, Any]]:
    """Behaviour, utilitarian and Nash policies of `count` data sets; one that misses a goal is said so.

    300 trajectories of the uniform policy, beta 0.01, chi2 (paper). CHOICE: 100 steps, because in 50 many
    data sets never see the far goal, and the Nash optimum is then not defined.
    """
    world = World(world="four_rooms", limit=100)
    tables = world.tables()
    uniform_SA = momdp.behaviour(tables.model, "uniform", gamma=GAMMA)
    for seed in range(count):
        rng = torch.Generator().manual_seed(seed)
        data = momdp.play(tables.model, tables.arrive_SK, uniform_SA, episodes=300, limit=100, rng=rng)
        model, data_SA = momdp.estimate(data, tables.model.sizes[0], 4)
        row = {"seed": seed, "policy": "behaviour", "solver": ""}
        yield row | _measured(_true(tables, GAMMA, uniform_SA), GAMMA)
        for name, alpha in (("utilitarian", 0.0), ("nash", 1.0)):
            problem = Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=AlphaFair(alpha), beta=0.01)
            solver, found = _solved(problem)
            measured: dict[str, Any] = dict.fromkeys(_measured(torch.zeros(3), GAMMA), "")
            if found is not None:
                measured |= _measured(_true(tables, GAMMA, found.policy_SA), GAMMA)
            yield row | {"policy": name, "solver": solver, **measured}


def _solved(problem: Problem) -> tuple[str, Solution | None]:
    """By Newton's steps, or where these end early by the conic solver; None for data that are refused."""
    try:
        problem.refuse_unrewarded()
    except MarlError:
        return "refused", None
    try:
        return "newton", newton(problem)
    except MarlError:
        return "conic", conic(problem)


def _rooms_of(path: Path, policy: str, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Of the data sets from which a Nash policy can be learned."""
    rows = read(path)
    refused = {row["seed"] for row in rows if row["solver"] == "refused"}
    returns = [row for row in rows if row["policy"] == policy and row["seed"] not in refused]
    return value(np.array([[float(row[f"return_{k}"]) for k in range(3)] for row in returns]))


def _mean(values: np.ndarray) -> Derived:
    value, low, high = stats.interval(values, stats.mean, rng=np.random.default_rng(0)).numbers()
    return value, low, high, len(values)


def rooms_jain(path: Path) -> Derived:
    """Mean of Jain's index of the Nash policy over data sets."""
    return _mean(_rooms_of(path, "nash", jain))


def rooms_nash_gain(path: Path) -> Derived:
    """Mean over data sets of the Nash welfare of the Nash policy minus the utilitarian's."""
    return _mean(_rooms_of(path, "nash", nash) - _rooms_of(path, "utilitarian", nash))


# Random processes


def random(folder: Path, count: int) -> None:
    """Solve the stacks that have no raw file yet; the first 200 processes by both solvers."""
    checked = min(count, 200)
    for path, seeds in stack_files(folder, count):
        if not path.is_file():
            started = time.process_time()
            _write(path, solved(seeds, checked))
            print(f"  {time.process_time() - started:.0f} s of a core", flush=True)


def conic_gap(*paths: Path) -> Derived:
    """Largest difference between the two solvers' optima; the bounds are the extremes, n the processes."""
    rows = [row for path in paths for row in read(path) if row["gap"] not in ("", "no conic optimum")]
    gaps = np.array([float(row["gap"]) for row in rows])
    return float(gaps.max()), float(gaps.min()), float(gaps.max()), len({row["seed"] for row in rows})


def random_jain_gain(*paths: Path) -> Derived:
    """Mean over processes of Jain's index of the Nash policy minus the utilitarian's, at beta 0.01."""
    rows = [row for path in paths for row in read(path) if row["beta"] == "0.01"]
    values = [
        jain(
            np.array([[float(row[f"return_{k}"]) for k in range(3)] for row in rows if row["alpha"] == alpha])
        )
        for alpha in ("1", "0")
    ]
    return _mean(values[0] - values[1])


# The learner


def learner(count: int) -> Iterable[dict[str, Any]]:
    """Nash welfare of the learned policy and of the exact one in the estimated process."""
    from experiments.fairdice.against_oracle import learned

    for seed in range(count):
        yield {"seed": seed, **learned(seed)}


def sampled(count: int) -> Iterable[dict[str, Any]]:
    """Nash welfare of a network's policies from sampled batches, beside the behaviour's and the exact one."""
    from experiments.fairdice.against_oracle import sampled as of

    for seed in range(count):
        yield {"seed": seed, **of(seed)}


def oracle_gap(path: Path) -> Derived:
    """Mean over processes of |learned - exact| / |exact| Nash welfare, with its 95 % interval."""
    rows = read(path)
    exact = np.array([float(row["exact"]) for row in rows])
    return _mean(np.abs(np.array([float(row["learned"]) for row in rows]) - exact) / np.abs(exact))


def _claim(
    id: str, test: str, function: str, name: str, note: str, unit: str = "1", paths: Sequence[Path] = ()
) -> None:
    write_claim(
        id=f"fairdice.{id}",
        unit=unit,
        test=test,
        derive_with=f"experiments.fairdice.tabular:{function}",
        raw=[str(path.relative_to(ROOT)) for path in paths or [RAW / f"{name}.csv"]],
        command=f"python -m experiments.fairdice.tabular {name}",
        note=note,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("part", choices=COUNTS)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--count", type=int, help="a trial of so many data sets, in runs/fairdice_tabular")
    one.add_argument(
        "--claims", action="store_true", help="only write the claims, from the raw file as it is"
    )
    given = parser.parse_args()
    if given.count is not None and given.count < 1:
        parser.error(f"--count {given.count}: give 1 or more")
    torch.set_num_threads(1)
    if not given.claims:
        _run(given.part, RAW if given.count is None else TRIAL, given.count or COUNTS[given.part])
    if given.count is None:
        claims = {"rooms": _claim_rooms, "random": _claim_random, "learner": _claim_learner}
        claims.get(given.part, lambda: None)()  # sampled: a table alone


def _run(part: str, folder: Path, count: int) -> None:
    if part == "random":
        random(folder / "random", count)
    else:
        parts = {"rooms": rooms, "learner": learner, "sampled": sampled}
        _write(folder / f"{part}.csv", parts[part](count))


def _claim_rooms() -> None:
    note = (
        "mean over data sets of 300 uniform trajectories of 100 steps, gamma 0.95, layout of "
        "docs/momdp.md; data sets that never see a goal are refused: n says how many of 100 remain"
    )
    _claim("four_rooms_jain_nash", "value >= 0.94", "rooms_jain", "rooms", f"Jain's index of Nash, {note}")
    note = f"Nash welfare of the Nash policy minus the utilitarian's, {note}"
    _claim("four_rooms_nash_minus_utilitarian", "low > 0", "rooms_nash_gain", "rooms", note, "nats")


def _claim_random() -> None:
    stacks = stack_files(RAW / "random", COUNTS["random"])
    asked_paths = [path for path, seeds in stacks if seeds[0] < 200]
    asked = [row["gap"] for path in asked_paths for row in read(path) if row["gap"]]
    note = (
        "largest difference of the optimal values found by Newton's steps and by cvxpy with CLARABEL, of "
        f"{len(asked)} problems; in {asked.count('no conic optimum')} of them CLARABEL found none"
    )
    _claim("newton_minus_conic", "high <= 1e-4", "conic_gap", "random", note, paths=asked_paths)
    note = (
        "Jain's index of the Nash policy minus the utilitarian's, exact on the estimated processes and "
        "measured in the true ones, beta 0.01, soft-chi2; 100 trajectories of half-way optimal behaviour"
    )
    name = "random_jain_nash_minus_utilitarian"
    _claim(name, "low > 0", "random_jain_gain", "random", note, paths=[path for path, _ in stacks])


def _claim_learner() -> None:
    note = (
        "Nash welfare of the learned policy against the exact optimum, in the process estimated "
        "from the data; 2,000 full batches, tables of nu and of logits (layers=0), advantages averaged over "
        "equal states and actions (advantage=mean), shift=false, penalty=0, inputs as they are, rates of 0.1 "
        "that fall to 0"
    )
    _claim("oracle_gap", "value <= 0.01", "oracle_gap", "learner", note)


if __name__ == "__main__":
    main()
