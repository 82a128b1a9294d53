"""Choices, tables, plots and claims of the robots' study, from its raw files.

Nash welfare is D4MORL's: mean over episodes of the sum over objectives of log of the return, a sum over at
most 500 steps of rewards scaled to [0, 1] by the data set's least and largest; minus infinity where a return
is not positive, and of a run that diverged.

A robot of one size is a folder raw/<size>/<robot>, named "<robot> (<size>)".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
SWEEPS = ("sweep", "sweep_equal", "sweep_linear")  # on the seed that chooses
SWEPT = ("agent.beta", "agent.penalty", "agent.weights")  # what they vary
_CHOOSING = {SWEEPS[0]: "beta", SWEEPS[1]: "linear_beta"}  # what each chooses, as `chosen` names it
CLONING, OURS, LINEAR, FAULT = "cloning", "fairdice", "linear", "wrong_broadcast"
TOLD = ("bc_p", "rvs_p", "modt_p")
FULL = "_768x3"  # after the name of a method with the code's own sizes


def _data(robot: Path) -> dict[str, Any]:
    """The row of its data set."""
    row: dict[str, Any] = json.loads((robot.parent / "data" / f"{robot.name}.json").read_text())
    return row


def policies(robot: Path) -> int:
    """How many play in its data set: one leaves nothing to weigh, but how well it is imitated."""
    return len(_data(robot)["sources"])


def scaled_returns(cell: Cell) -> np.ndarray:
    """Of its episodes (E, K)."""
    row = _data(cell.path.parents[1])
    return scaled(cell.return_EK, cell.length_E, np.array(row["low"]), np.array(row["high"]))


def welfare(cell: Cell) -> float:
    """D4MORL's Nash welfare."""
    return float(nash(scaled_returns(cell)).mean()) if len(cell.return_EK) else -np.inf


def cells_of(robot: Path, stage: str) -> list[Cell]:
    """Seeds in order; files of two settings are refused."""
    found = stages.read(sorted((robot / stage).glob("*.json")))
    stages.agree(found, SWEPT if stage in SWEEPS else ())
    return sorted(found, key=lambda cell: cell.seed)


def chosen(robot: Path) -> dict[str, str]:
    """Beta and penalty of the best run of each sweep, and the weights of the best linear one ("" before)."""
    fair, equal, linear = (cells_of(robot, stage) for stage in SWEEPS)
    if not fair or not equal:
        raise MarlError(f"a sweep of {robot.name} has no raw file: run python -m experiments.fairdice.robots")
    ours, theirs = _best(fair), _best(equal)
    return {
        "beta": ours["agent.beta"],
        "penalty": ours["agent.penalty"],
        "linear_beta": theirs["agent.beta"],
        "linear_penalty": theirs["agent.penalty"],
        "weights": _best(linear)["agent.weights"] if linear else "",
    }


def _best(cells: list[Cell]) -> dict[str, str]:
    """The settings of the run with the largest welfare; where none is finite, of the largest least return."""
    whole = [cell for cell in cells if len(cell.return_EK)]
    if not whole:
        raise MarlError(f"every run in {cells[0].path.parent} diverged: there is nothing to choose from")
    return max(whole, key=lambda cell: (welfare(cell), scaled_returns(cell).mean(0).min())).words


def methods(robot: Path) -> dict[str, list[Cell]]:
    """The reported ones that have been measured."""
    folders = sorted(p.name for p in robot.iterdir() if p.is_dir())
    found = {name: cells_of(robot, name) for name in folders if name not in SWEEPS}
    return {name: cells for name, cells in found.items() if cells}


def robots() -> list[Path]:
    """Folders of the robots that have been run, size by size."""
    found = RAW.glob("*/*") if RAW.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and p.name != "data")


def named(robot: Path) -> str:
    return f"{robot.name} ({robot.parent.name})"


# Claims


def gain(*paths: Path) -> Derived:
    """Welfare of FairDICE minus that of the other method, seed by seed: mean over seeds, of one robot."""
    found: dict[str, dict[int, float]] = {}
    for cell in stages.read(paths):
        found.setdefault(cell.path.parent.name, {})[cell.seed] = welfare(cell)
    ours = found.pop(next(name for name in found if name.removesuffix(FULL) == OURS))
    ((_, other),) = found.items()
    gains = [ours[seed] - other[seed] for seed in sorted(ours)]
    return (*stages.mean(gains), len(gains))


def claim(robot: Path, other: str, note: str, full: str = "") -> None:
    """Of one robot, where both methods have been run on the same seeds.

    Args:
        robot: its folder.
        other: the method that FairDICE is compared with.
        note: what that is.
        full: FULL for the code's own sizes.
    """
    found, ours, theirs = methods(robot), OURS + full, other + full
    if not {ours, theirs} <= found.keys():
        return
    cells = found[ours] + found[theirs]
    if [c.seed for c in found[ours]] != [c.seed for c in found[theirs]]:
        print(f"{named(robot)}: no claim about {theirs} before all its seeds have been run")
        return
    if not all(np.isfinite(welfare(cell)) for cell in cells):
        print(f"{named(robot)}: no claim about {theirs}: a run's Nash welfare is minus infinity")
        return
    paths = [cell.path for cell in cells]
    size = "" if robot.parent.name == "small" else f"_{robot.parent.name}"
    how = " --full" if full else f" --size {robot.parent.name}" * bool(size)
    how += " --told" * (other in TOLD)
    edges = "".join(
        f"; the {said} of {chosen(robot)[name]} lies at the edge of those tried"
        for (stage, name), said in zip(_CHOOSING.items(), ("beta", "linear weights' beta"), strict=True)
        if name == "beta" or other == LINEAR
        if stages.at_edge(chosen(robot)[name], cells_of(robot, stage))
    )
    alone = " of one policy, which leaves no trade-off" * (policies(robot) < 2)
    write_claim(
        id=f"fairdice.nsw_minus_{other}_{robot.name}{size}{full}",
        unit="nats",
        test="low > 0",
        derive_with="experiments.fairdice.robots.report:gain",
        raw=[str(path.relative_to(ROOT)) for path in paths],
        command="python -m experiments.fairdice.robots" + how,
        note=f"Nash welfare of FairDICE minus that of {note}; {robot.name}, one data set of own amateurs"
        f"{alone}, {cells[0].words['total_steps']} updates; beta of both and linear weights chosen online on "
        f"another seed, the interval is over the learners' seeds{edges}",
        trial=len(found[ours]) < tables.CLAIM_SEEDS,
        made=tables.made(paths),
    )


def claims() -> None:
    for robot in robots():
        for full in ("", FULL):
            claim(robot, CLONING, "behaviour cloning", full)
            claim(robot, LINEAR, f"the best of {len(cells_of(robot, SWEEPS[2]))} linear weights", full)
            claim(robot, FAULT, "the same with the broadcasting fault of the code's first revisions", full)
        for name in TOLD:
            claim(robot, name, f"{name}, which is told that both objectives weigh alike")


# Tables and plots


def table() -> str:
    """Markdown, a row per robot and method."""
    lines = [
        "| robot | method | seeds | Nash welfare | sum of returns | Jain's index | returns |",
        "|---|---|---|---|---|---|---|",
    ]
    for robot in robots():
        for name, cells in methods(robot).items():
            returns = [scaled_returns(cell).mean(0) for cell in cells if len(cell.return_EK)]
            row = [
                stages.shown([welfare(cell) for cell in cells]),
                stages.shown([float(r.sum()) for r in returns], ".1f"),
                stages.shown([float(jain(r)) for r in returns]),
                " / ".join(f"{v:.1f}" for v in np.mean(returns, axis=0)) if returns else "-",
            ]
            lines.append(f"| {named(robot)} | {name} | {len(cells)} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def choices() -> str:
    """Markdown: what the sweeps chose, on seed 100, and how many of their runs diverged.

    A beta beyond which none was tried is marked.
    """
    lines = [
        "| robot | policies in the data | beta | penalty | linear: beta | penalty | weights | diverged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for robot in robots():
        cells = [cell for stage in SWEEPS for cell in cells_of(robot, stage)]
        if all(cells_of(robot, stage) for stage in SWEEPS[:2]):
            lost = sum(not len(cell.return_EK) for cell in cells)
            best = chosen(robot)
            for stage, name in _CHOOSING.items():
                best[name] += " (edge)" * stages.at_edge(best[name], cells_of(robot, stage))
            row = [str(policies(robot)), *best.values(), f"{lost} of {len(cells)}"]
            lines.append(f"| {named(robot)} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def pareto() -> None:
    """Objective against objective: the linear weights, the sweep and the reported runs."""
    shown = [robot for robot in robots() if methods(robot)]
    if not shown:
        return
    names = sorted({name for robot in shown for name in methods(robot)})
    figure, axes = plots.canvas(len(shown), "Scaled returns, a point per run")
    for ax, robot in zip(axes, shown, strict=False):
        _points(ax, cells_of(robot, SWEEPS[2]), marker=".", color="0.6", markersize=3, label="linear weights")
        found = methods(robot)
        for i, name in enumerate(names):  # also of those that it lacks: the first panel's legend is of all
            marker = plots.MARKERS[(i + i // 7) % 7]  # the eighth method: another shape
            style: dict[str, Any] = {"color": plots.COLOURS[i % 7], "marker": marker, "markersize": 4}
            _points(ax, found.get(name, []), alpha=0.75, label=name, **style)
        first, second = next(iter(methods(robot).values()))[0].objectives[:2]
        ax.set_xlabel(first, fontsize=9)
        ax.set_ylabel(second, fontsize=9)
        ax.set_title(named(robot), fontsize=10)
    axes[0].legend(fontsize=6, frameon=False)
    plots.save(figure, HERE / "plots" / "pareto.png")


def _points(ax: Any, cells: Sequence[Cell], **style: Any) -> None:
    """Two objectives of every run that did not diverge."""
    points = [scaled_returns(cell).mean(0)[:2] for cell in cells if len(cell.return_EK)]
    ax.plot(*np.array(points).reshape(-1, 2).T, linestyle="", **style)


def swept() -> None:
    """Welfare over beta, a line per penalty, of FairDICE and of equal weights."""
    shown = [robot for robot in robots() if cells_of(robot, SWEEPS[0])]
    if not shown:
        return
    lines: dict[str, list[list[tuple[float, float]]]] = {}  # of every robot its points (beta, welfare)
    for at, robot in enumerate(shown):
        for stage, who in zip(SWEEPS[:2], ("FairDICE", "equal weights"), strict=True):
            for cell in cells_of(robot, stage):
                line = lines.setdefault(f"{who}, penalty {cell.words['agent.penalty']}", [[] for _ in shown])
                if np.isfinite(welfare(cell)):
                    line[at].append((float(cell.words["agent.beta"]), welfare(cell)))
    figure, axes = plots.canvas(len(shown), "Nash welfare over beta, seed 100")
    for at, (ax, robot) in enumerate(zip(axes, shown, strict=False)):
        for i, name in enumerate(sorted(lines)):
            style: dict[str, Any] = {"color": plots.COLOURS[i], "marker": plots.MARKERS[i], "markersize": 4}
            ax.plot(*np.array(sorted(lines[name][at])).reshape(-1, 2).T, label=name, **style)
        ax.set_xscale("log")
        ax.set_xlabel("beta", fontsize=9)
        ax.set_title(named(robot), fontsize=10)
    axes[0].legend(fontsize=7, frameon=False)
    plots.save(figure, HERE / "plots" / "sweep.png")


def main() -> None:
    if not robots():
        print("no run has been measured")
        return
    page = stages.HERE / "README.md"
    text = tables.fill_block(page.read_text(), f"{choices()}\n{table()}", "robots")
    write_atomic(page, text.encode())
    pareto()
    swept()
    claims()
    print(choices(), table(), sep="\n")


if __name__ == "__main__":
    main()
