"""Tables, plot and claims of the teams' study, from its raw files.

Returns are scaled as the learners see them: sums of rewards in [0, 1] by the data set's least and largest.
Jain's index and Nash welfare are those of a run's mean returns over its episodes, one per agent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import tables
from experiments.claims import ROOT, Derived, write_claim
from experiments.fairdice import stages
from experiments.fairdice.metrics import jain, nash, scaled
from experiments.fairdice.stages import Cell
from marl import plots
from marl.agents.fairdice.welfare import make_welfare
from marl.errors import MarlError
from marl.files import write_atomic

HERE = stages.HERE / "teams"
RAW = HERE / "raw"
NAMES = {"0": "sum", "1": "Nash", "2": "alpha 2"}
Returns = dict[str, list[np.ndarray]]  # mean scaled returns (K,), one per seed, by method


def limits(world: str) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest reward of every agent in the data."""
    row = json.loads((RAW / "data" / f"{world}.json").read_text())
    return np.array(row["low"]), np.array(row["high"])


def method(cell: Cell) -> str:
    words = cell.words
    return "cloning" if words["agent"] == "bc" else NAMES[words["agent.alpha"]]


def cells_of(world: Path, part: str) -> list[Cell]:
    return stages.read(sorted((world / part).glob("*.json")))


def aim(cell: Cell) -> float:
    """The welfare that a FairDICE run was to raise, of its mean returns: the sum for alpha 0."""
    if not len(cell.return_EK):
        return -np.inf  # it diverged
    low_K, high_K = limits(cell.path.parents[1].name)
    mean_K = scaled(cell.return_EK, cell.length_E, low_K, high_K).mean(0)
    utility = make_welfare("alpha", float(cell.words["agent.alpha"])).utility
    if float(cell.words["agent.alpha"]) > 0 and mean_K.min() <= 0:
        return -np.inf
    return float(utility(torch.tensor(mean_K)).sum())


def chosen(world: Path) -> dict[str, str]:
    """Beta by alpha: the best of the part tune."""
    found: dict[str, list[Cell]] = {}
    tuning = cells_of(world, "tune")
    stages.agree(tuning, ("agent.alpha", "agent.beta"))
    for cell in tuning:
        found.setdefault(cell.words["agent.alpha"], []).append(cell)
    if not found:
        raise MarlError(f"nothing is tuned on {world.name}: run python -m experiments.fairdice.teams")
    return {alpha: max(found[alpha], key=aim).words["agent.beta"] for alpha in sorted(found)}


def _at_edge(world: str, alpha: str) -> bool:
    tried = [cell for cell in cells_of(RAW / world, "tune") if cell.words["agent.alpha"] == alpha]
    return bool(tried) and stages.at_edge(chosen(RAW / world)[alpha], tried)


def returns(world: str, cells: Sequence[Cell]) -> Returns:
    """Of every method the runs' mean returns, seeds in order; files of two settings are refused."""
    low_K, high_K = limits(world)
    out: Returns = {}
    for name in {method(cell) for cell in cells}:
        stages.agree([cell for cell in cells if method(cell) == name])
    for cell in sorted(cells, key=lambda c: (c.words["agent"], c.words.get("agent.alpha", ""), c.seed)):
        if not len(cell.return_EK):
            continue  # it diverged; the seeds of its row say so
        found = scaled(cell.return_EK, cell.length_E, low_K, high_K).mean(0)
        out.setdefault(method(cell), []).append(found)
    return out


def jain_gain(*paths: Path) -> Derived:
    """Jain's index of Nash minus that of the sum, seed by seed: mean over seeds."""
    return _gain(paths, jain)


def least_gain(*paths: Path) -> Derived:
    """The least agent's return under Nash minus that under the sum, as `jain_gain`."""
    return _gain(paths, lambda return_K: return_K.min())


def _gain(paths: Sequence[Path], measure: Callable[[np.ndarray], Any]) -> Derived:
    found = returns(paths[0].parents[1].name, stages.read(paths))
    pairs = zip(found["Nash"], found["sum"], strict=True)
    gains = [float(measure(ours) - measure(theirs)) for ours, theirs in pairs]
    return (*stages.mean(gains), len(gains))


def choices(worlds: Iterable[str]) -> str:
    """Markdown: what seed 100 chose; a beta beyond which none was tried is marked."""
    lines = [f"| world | {' | '.join(f'beta, {name}' for name in NAMES.values())} |", "|---|---|---|---|"]
    for world in worlds:
        best = chosen(RAW / world)
        row = [best.get(alpha, "-") + " (edge)" * _at_edge(world, alpha) for alpha in NAMES]
        lines.append(f"| {world} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def betas(worlds: Iterable[str]) -> str:
    """Markdown: what every beta gave on seed 100, the agents' mean returns in the world's own units."""
    lines = ["| world | aim | beta | returns, seed 100 |", "|---|---|---|---|"]
    for world in worlds:
        cells = [c for c in cells_of(RAW / world, "tune") if len(c.return_EK)]
        for cell in sorted(cells, key=lambda c: (method(c), float(c.words["agent.beta"]))):
            shown = " / ".join(f"{value:.1f}" for value in cell.return_EK.mean(0))
            lines.append(f"| {world} | {method(cell)} | {cell.words['agent.beta']} | {shown} |")
    return "\n".join(lines) + "\n"


def table(worlds: dict[str, list[Cell]]) -> str:
    """Markdown, a row per world and method."""
    lines = [
        "| world | method | seeds | Jain's index | Nash welfare | sum | least return |",
        "|---|---|---|---|---|---|---|",
    ]
    for world, cells in worlds.items():
        data = json.loads((RAW / "data" / f"{world}.json").read_text())
        found = {"data": [np.array(data["mean_scaled"])], **returns(world, cells)}
        for name, seeds in found.items():
            measures = (jain, nash, lambda r: r.sum(-1), lambda r: r.min(-1))
            row = [stages.shown([float(measure(r)) for r in seeds]) for measure in measures]
            lines.append(f"| {world} | {name} | {len(seeds)} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def draw(worlds: dict[str, list[Cell]]) -> None:
    """Jain's index and the least return against the sum, a point per run."""
    figure, axes = plots.canvas(2 * len(worlds), "Teams from uneven data: fairness and sum, a point per run")
    panels = ((world, name) for world in worlds for name in ("Jain's index", "least return"))
    for ax, (world, name) in zip(axes, panels, strict=False):
        found = returns(world, worlds[world])
        for i, kind in enumerate(("cloning", *NAMES.values())):
            points = found.get(kind, [])
            if points:
                y = [float(jain(r) if name == "Jain's index" else r.min()) for r in points]
                x, colour = [float(r.sum()) for r in points], plots.COLOURS[i]
                ax.plot(x, y, plots.MARKERS[i], color=colour, markersize=4, alpha=0.7, label=kind)
        if name == "Jain's index":
            ax.set_ylim(1 / 3, 1.02)  # from one agent that has all to equal ones: three agents
        ax.set_title(world, fontsize=10)
        ax.set_xlabel("sum of returns", fontsize=9)
        ax.set_ylabel(name, fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    plots.save(figure, HERE / "plots" / "teams.png")


def claim(world: str, cells: Sequence[Cell]) -> None:
    """Nash against the sum, where both have been run on the same seeds."""
    mine = [c for c in cells if method(c) in ("Nash", "sum") and len(c.return_EK)]
    seeds = [{c.seed for c in mine if method(c) == kind} for kind in ("Nash", "sum")]
    if not seeds[0] or seeds[0] != seeds[1]:
        print(f"{world}: no claim before Nash and the sum have been run on the same seeds")
        return
    paths, best = [c.path for c in mine], chosen(RAW / world)
    nash_beta, sum_beta = (
        f"beta {best[alpha]}" + ", at the edge of those tried" * _at_edge(world, alpha) for alpha in "10"
    )
    for gain, derive, what in (
        ("jain", jain_gain, "Jain's index of the agents' returns"),
        ("least", least_gain, "the least agent's scaled return"),
    ):
        write_claim(
            id=f"fairdice.team_{gain}_gain_{world}",
            unit="1",
            test="low > 0",
            derive_with=f"experiments.fairdice.teams.report:{derive.__name__}",
            raw=[str(path.relative_to(ROOT)) for path in paths],
            command="python -m experiments.fairdice.teams",
            note=f"{what}, Nash welfare ({nash_beta}) minus the sum ({sum_beta}), each with the beta that "
            f"served its own aim best on another seed; {world}, own rewards, one data set of teams whose "
            "members take 0, 50 and 90 % random actions",
            trial=len(seeds[0]) < tables.CLAIM_SEEDS,
            made=tables.made(paths),
        )


def main() -> None:
    folders = sorted(p for p in RAW.iterdir() if p.is_dir()) if RAW.is_dir() else []
    worlds = {
        folder.name: [cell for part in ("cloned", "fair") for cell in cells_of(folder, part)]
        for folder in folders
        if folder.name != "data" and cells_of(folder, "tune")
    }
    worlds = {world: cells for world, cells in worlds.items() if cells}
    if not worlds:
        print("no run has been measured")
        return
    text = f"{choices(worlds)}\n{table(worlds)}\n{betas(worlds)}"
    page = stages.HERE / "README.md"
    write_atomic(page, tables.fill_block(page.read_text(), text, "teams").encode())
    draw(worlds)
    for world, cells in worlds.items():
        claim(world, cells)
    print(text)


if __name__ == "__main__":
    main()
