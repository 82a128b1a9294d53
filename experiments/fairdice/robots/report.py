"""Choices, tables, plots and claims of the robots' study, from its raw files.

Nash welfare is D4MORL's: mean over episodes of the sum over objectives of log of the return, a sum over at
most 500 steps of rewards scaled to [0, 1] by the data set's least and largest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from experiments.claims import ROOT, Derived, write_claim
from experiments.fairdice import stages
from experiments.fairdice.metrics import jain, nash, scaled
from experiments.fairdice.stages import Cell
from marl import plots
from marl.errors import MarlError
from marl.files import write_atomic

HERE = stages.HERE / "robots"
RAW = HERE / "raw"
SWEEPS = ("sweep", "sweep_linear")  # on the seed that chooses
CLONING, OURS, LINEAR = "cloning", "fairdice", "linear"


def scaled_returns(cell: Cell) -> np.ndarray:
    """Of its episodes (E, K)."""
    robot = cell.words["env"].rpartition("/")[2]
    row = json.loads((RAW / "data" / f"{robot}.json").read_text())
    return scaled(cell.return_EK, cell.length_E, np.array(row["low"]), np.array(row["high"]))


def welfare(cell: Cell) -> float:
    """D4MORL's Nash welfare."""
    return float(nash(scaled_returns(cell)).mean())


def cells_of(robot: str, stage: str) -> list[Cell]:
    """Seeds in order."""
    found = stages.read(sorted((RAW / robot / stage).glob("*.json")))
    return sorted(found, key=lambda cell: cell.seed)


def chosen(robot: str) -> dict[str, str]:
    """Beta and penalty of the best run of the sweep, and the weights of the best linear one ("" before)."""
    sweep, linear = (cells_of(robot, stage) for stage in SWEEPS)
    if not sweep:
        raise MarlError(f"the sweep of {robot} has no raw file: run python -m experiments.fairdice.robots")
    best = max(sweep, key=welfare).words
    weights = max(linear, key=welfare).words["agent.weights"] if linear else ""
    return {"beta": best["agent.beta"], "penalty": best["agent.penalty"], "weights": weights}


def methods(robot: str) -> dict[str, list[Cell]]:
    """The reported ones that have been measured."""
    folders = sorted(p.name for p in (RAW / robot).iterdir() if p.is_dir())
    found = {name: cells_of(robot, name) for name in folders if name not in SWEEPS}
    return {name: cells for name, cells in found.items() if cells}


def robots() -> list[str]:
    found = RAW.iterdir() if RAW.is_dir() else ()
    return sorted(p.name for p in found if p.is_dir() and p.name != "data")


# Claims


def gain(*paths: Path) -> Derived:
    """Welfare of FairDICE minus that of the other method, seed by seed: mean over seeds, of one robot."""
    found: dict[str, dict[int, float]] = {}
    for cell in stages.read(paths):
        found.setdefault(cell.path.parent.name, {})[cell.seed] = welfare(cell)
    ours = found.pop(OURS)
    ((_, other),) = found.items()
    gains = [ours[seed] - other[seed] for seed in sorted(ours)]
    return (*stages.mean(gains), len(gains))


def claim(id: str, other: str, test: str, note: str) -> None:
    """Of the robot where the gain over the other method is largest, which the note names."""
    gains: dict[str, tuple[float, list[Path]]] = {}
    for robot in robots():
        found = methods(robot)
        if {OURS, other} <= found.keys():
            sides = found[OURS], found[other]
            if [c.seed for c in sides[0]] == [c.seed for c in sides[1]]:
                paths = [cell.path for side in sides for cell in side]
                gains[robot] = gain(*paths)[0], paths
    if not gains:
        return
    robot, (_, paths) = max(gains.items(), key=lambda item: item[1][0])
    write_claim(
        id=f"fairdice.{id}",
        unit="nats",
        test=test,
        derive_with="experiments.fairdice.robots.report:gain",
        raw=[str(path.relative_to(ROOT)) for path in paths],
        command="python -m experiments.fairdice.robots",
        note=f"{note}; on {robot}, the best of {', '.join(sorted(gains))}; own amateurs' data; beta, "
        "penalty and linear weights chosen online on another seed",
        trial=len(paths) // 2 < tables.CLAIM_SEEDS,
        made=tables.made(paths),
    )


def claims() -> None:
    note = "Nash welfare of FairDICE minus that of"
    claim("nsw_minus_bc_best_env", CLONING, "low > 0", f"{note} behaviour cloning")
    claim("nsw_minus_best_linear", LINEAR, "low > 0", f"{note} the best of 30 linear weights")


# Tables and plots


def table() -> str:
    """Markdown, a row per robot and method."""
    lines = [
        "| robot | method | seeds | Nash welfare | sum of returns | Jain's index | returns |",
        "|---|---|---|---|---|---|---|",
    ]
    for robot in robots():
        for name, cells in methods(robot).items():
            returns = [scaled_returns(cell).mean(0) for cell in cells]
            row = [
                stages.shown([welfare(cell) for cell in cells]),
                stages.shown([float(r.sum()) for r in returns], ".1f"),
                stages.shown([float(jain(r)) for r in returns]),
                " / ".join(f"{v:.1f}" for v in np.mean(returns, axis=0)),
            ]
            lines.append(f"| {robot} | {name} | {len(cells)} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def choices() -> str:
    """Markdown: what the sweeps chose, on seed 100."""
    lines = ["| robot | beta | penalty | linear weights |", "|---|---|---|---|"]
    for robot in robots():
        if cells_of(robot, "sweep"):
            lines.append(f"| {robot} | {' | '.join(chosen(robot).values())} |")
    return "\n".join(lines) + "\n"


def pareto() -> None:
    """Objective against objective: the linear weights, the sweep and the reported runs."""
    shown = [robot for robot in robots() if methods(robot)]
    if not shown:
        return
    figure, axes = plots.canvas(len(shown), "Scaled returns, a point per run")
    for ax, robot in zip(axes, shown, strict=False):
        groups: dict[str, Iterable[Cell]] = {
            "30 linear weights": cells_of(robot, SWEEPS[1]),
            **methods(robot),
        }
        for i, (name, cells) in enumerate(groups.items()):
            points = np.array([scaled_returns(cell).mean(0) for cell in cells])
            if len(points):
                style: dict[str, Any] = {"color": plots.COLOURS[(i - 1) % 7], "alpha": 0.75, "markersize": 4}
                marker = plots.MARKERS[(i - 1 + (i - 1) // 7) % 7]  # the eighth method: another shape
                if not i:
                    marker, style = ".", {"color": "0.6", "markersize": 3}
                ax.plot(*points.T[:2], marker, label=name, **style)
        first, second = next(iter(methods(robot).values()))[0].objectives[:2]
        ax.set_xlabel(first, fontsize=9)
        ax.set_ylabel(second, fontsize=9)
        ax.set_title(robot, fontsize=10)
    axes[0].legend(fontsize=6, frameon=False)
    plots.save(figure, HERE / "plots" / "pareto.png")


def swept() -> None:
    """Welfare over beta, a line per penalty."""
    shown = [robot for robot in robots() if cells_of(robot, "sweep")]
    if not shown:
        return
    figure, axes = plots.canvas(len(shown), "Nash welfare over beta, seed 100")
    for ax, robot in zip(axes, shown, strict=False):
        by: dict[str, list[tuple[float, float]]] = {}
        for cell in cells_of(robot, "sweep"):
            point = float(cell.words["agent.beta"]), welfare(cell)
            by.setdefault(cell.words["agent.penalty"], []).append(point)
        for i, (penalty, points) in enumerate(sorted(by.items())):
            style: dict[str, Any] = {"color": plots.COLOURS[i], "marker": plots.MARKERS[i], "markersize": 4}
            ax.plot(*np.array(sorted(points)).T, label=f"penalty {penalty}", **style)
        ax.set_xscale("log")
        ax.set_xlabel("beta", fontsize=9)
        ax.set_title(robot, fontsize=10)
    axes[0].legend(fontsize=7, frameon=False)
    plots.save(figure, HERE / "plots" / "sweep.png")


def main() -> None:
    page = stages.HERE / "README.md"
    text = tables.fill_block(page.read_text(), f"{choices()}\n{table()}", "robots")
    write_atomic(page, text.encode())
    pareto()
    swept()
    claims()
    print(choices(), table(), sep="\n")


if __name__ == "__main__":
    main()
