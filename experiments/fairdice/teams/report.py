"""Table, plot and claims of the teams' study, from its raw files.

Returns are scaled as the learners see them: sums of rewards in [0, 1] by the data set's least and largest.
Jain's index and Nash welfare are those of a run's mean returns over its episodes, one per agent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import tables
from experiments.claims import ROOT, Derived, write_claim
from experiments.fairdice import stages
from experiments.fairdice.metrics import jain, nash, scaled
from experiments.fairdice.stages import Cell
from marl import plots
from marl.files import write_atomic

HERE = stages.HERE / "teams"
RAW = HERE / "raw"
BETA = "1"  # of the claims: the middle one, chosen before any run
Returns = dict[str, list[np.ndarray]]  # mean scaled returns (K,), one per seed, by method


def limits(world: str) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest reward of every agent in the data."""
    row = json.loads((RAW / "data" / f"{world}.json").read_text())
    return np.array(row["low"]), np.array(row["high"])


def method(cell: Cell) -> str:
    words = cell.words
    if words["agent"] == "bc":
        return "cloning"
    names = {"0": "sum", "1": "Nash"}
    alpha = words["agent.alpha"]
    return f"{names.get(alpha, f'alpha {alpha}')}, beta {words['agent.beta']}"


def returns(world: str, cells: Sequence[Cell]) -> Returns:
    """Of every method the runs' mean returns, seeds in order."""
    low_K, high_K = limits(world)
    out: Returns = {}
    for cell in sorted(cells, key=lambda c: (c.part, method(c), c.seed)):
        found = scaled(cell.return_EK, cell.length_E, low_K, high_K).mean(0)
        out.setdefault(method(cell), []).append(found)
    return out


def jain_gain(*paths: Path) -> Derived:
    """Jain's index of Nash minus that of the sum at `BETA`, seed by seed: mean over seeds."""
    cells = stages.read(paths)
    found = returns(paths[0].parent.name, cells)
    pairs = zip(found[f"Nash, beta {BETA}"], found[f"sum, beta {BETA}"], strict=True)
    gains = [float(jain(ours) - jain(theirs)) for ours, theirs in pairs]
    return (*stages.mean(gains), len(gains))


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
    """Jain's index against the sum, a point per run."""
    figure, axes = plots.canvas(len(worlds), "Teams from uneven data: fairness and sum, a point per run")
    kinds = ("cloning", "sum", "Nash", "alpha 2")
    for ax, (world, cells) in zip(axes, worlds.items(), strict=False):
        found = returns(world, cells)
        for i, kind in enumerate(kinds):
            points = [r for name, seeds in found.items() if name.split(",")[0] == kind for r in seeds]
            if points:
                x, y = [float(r.sum()) for r in points], [float(jain(r)) for r in points]
                ax.plot(x, y, plots.MARKERS[i], color=plots.COLOURS[i], markersize=4, alpha=0.7, label=kind)
        ax.set_title(world, fontsize=10)
        ax.set_xlabel("sum of returns", fontsize=9)
        ax.set_ylabel("Jain's index", fontsize=9)
    axes[0].legend(fontsize=7, frameon=False)
    plots.save(figure, HERE / "plots" / "teams.png")


def claim(world: str, cells: Sequence[Cell]) -> None:
    """Nash against the sum at `BETA`, where both have been run."""
    mine = [c for c in cells if method(c) in (f"Nash, beta {BETA}", f"sum, beta {BETA}")]
    seeds = [{c.seed for c in mine if method(c).startswith(kind)} for kind in ("Nash", "sum")]
    if not seeds[0] or seeds[0] != seeds[1]:
        return
    paths = [c.path for c in mine]
    write_claim(
        id=f"fairdice.team_jain_gain_{world}",
        unit="1",
        test="low > 0",
        derive_with="experiments.fairdice.teams.report:jain_gain",
        raw=[str(path.relative_to(ROOT)) for path in paths],
        command="python -m experiments.fairdice.teams",
        note=f"Jain's index of the agents' returns, Nash welfare minus the sum, both with beta {BETA}; "
        f"{world}, own rewards, data of teams whose members take 0, 50 and 90 % random actions",
        trial=len(seeds[0]) < tables.CLAIM_SEEDS,
        made=tables.made(paths),
    )


def main() -> None:
    worlds = {
        folder.name: stages.read(sorted(folder.glob("*.json")))
        for folder in sorted(RAW.iterdir() if RAW.is_dir() else ())
        if folder.is_dir() and folder.name != "data"
    }
    worlds = {world: cells for world, cells in worlds.items() if cells}
    if not worlds:
        print("no run has been measured")
        return
    text = table(worlds)
    page = stages.HERE / "README.md"
    write_atomic(page, tables.fill_block(page.read_text(), text, "teams").encode())
    draw(worlds)
    for world, cells in worlds.items():
        claim(world, cells)
    print(text)


if __name__ == "__main__":
    main()
