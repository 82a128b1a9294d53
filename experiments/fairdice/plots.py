"""Pictures and tables of the tabular studies, redrawn from their raw files.

    python -m experiments.fairdice.plots

writes plots/rooms.png (welfare, sum and Jain's index of every data set's policies) and, where its raw files
are there, plots/random.png (the same over beta, a line per alpha); and the numbers as tables of README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import tables
from experiments.claims import ROOT
from experiments.fairdice.metrics import jain, nash, read
from experiments.fairdice.stages import mean, shown
from marl import plots
from marl.files import write_atomic

HERE = ROOT / "experiments" / "fairdice"
Measure = Callable[[np.ndarray], np.ndarray]
_MEASURES: dict[str, Measure] = {
    "Nash welfare (nats)": nash,
    "sum of returns": lambda r: r.sum(-1),
    "Jain's index": jain,
}
_SAMPLED = {
    "behaviour": "behaviour",
    "shifted": "learned, shift=true (default)",
    "unshifted": "learned, shift=false",
    "exact": "exact",
}
_TABLE_BETAS = (0.0001, 0.01, 0.1, 1.0, 100.0)  # of 13, for a table that can be read


def _returns(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[f"return_{k}"]) for k in range(3)] for row in rows])


def _of_rooms() -> dict[str, np.ndarray]:
    """Returns (X, 3) of every policy, from those data sets that give all of them."""
    rows = read(HERE / "raw" / "rooms.csv")
    refused = {row["seed"] for row in rows if row["solver"] == "refused"}
    return {
        name: _returns([row for row in rows if row["policy"] == name and row["seed"] not in refused])
        for name in ("behaviour", "utilitarian", "nash")
    }


def _of_random() -> dict[float, dict[float, np.ndarray]]:
    """Returns (X, 3) by alpha and beta."""
    rows = [row for path in sorted((HERE / "raw" / "random").glob("*.csv")) for row in read(path)]
    out: dict[float, dict[float, list[dict[str, str]]]] = {}
    for row in rows:
        if row["solver"] != "refused":
            out.setdefault(float(row["alpha"]), {}).setdefault(float(row["beta"]), []).append(row)
    return {
        alpha: {beta: _returns(found) for beta, found in sorted(by.items())}
        for alpha, by in sorted(out.items())
    }


def rooms(policies: dict[str, np.ndarray]) -> None:
    """A panel per measure, a column of points per policy; the mean is the bar."""
    figure, axes = plots.canvas(len(_MEASURES), "Four rooms: exact policies of generated data sets")
    rng = np.random.default_rng(0)
    for ax, (title, measure) in zip(axes, _MEASURES.items(), strict=False):
        for i, returns in enumerate(policies.values()):
            values = measure(returns)
            x = i + rng.uniform(-0.12, 0.12, len(values))
            ax.plot(x, values, plots.MARKERS[i], color=plots.COLOURS[i], markersize=2.5, alpha=0.5)
            ax.hlines(values.mean(), i - 0.25, i + 0.25, color="black", linewidth=1.4)
        ax.set_xticks(range(len(policies)), list(policies), fontsize=8)
        ax.set_title(title, fontsize=10)
    plots.save(figure, HERE / "plots" / "rooms.png")


def random(by_alpha: dict[float, dict[float, np.ndarray]]) -> None:
    """A panel per measure over beta, a line per alpha: mean with its interval over processes."""
    figure, axes = plots.canvas(len(_MEASURES), "Random processes: exact policies in the true process")
    for ax, (title, measure) in zip(axes, _MEASURES.items(), strict=False):
        for i, (alpha, by_beta) in enumerate(by_alpha.items()):
            found = {beta: measure(returns) for beta, returns in by_beta.items()}
            lost = sum(int((~np.isfinite(values)).sum()) for values in found.values())
            means = [mean(values[np.isfinite(values)]) for values in found.values()]
            style: dict[str, Any] = {"color": plots.COLOURS[i], "marker": plots.MARKERS[i], "markersize": 3}
            label = f"alpha {alpha:g}" + f", {lost} infinite" * bool(lost)
            ax.plot(list(found), [m[0] for m in means], label=label, **style)
            low, high = (np.array([m[side] for m in means], dtype=float) for side in (1, 2))  # None: NaN
            ax.fill_between(list(found), low, high, color=plots.COLOURS[i], alpha=0.18, linewidth=0)
        ax.set_xscale("log")
        ax.set_xlabel("beta", fontsize=9)
        ax.set_title(title, fontsize=10)
    axes[0].legend(fontsize=7, frameon=False)
    plots.save(figure, HERE / "plots" / "random.png")


def table(first: str, rows: dict[str, np.ndarray]) -> str:
    """Markdown, every measure of the returns (X, 3) of each row: mean with its 95 % interval.

    Args:
        first: heads of the columns that a row's name fills.
        rows: by name.
    """
    heads = f"| {first} | data sets | {' | '.join(_MEASURES)} |"
    lines = [heads, "|---" * (heads.count("|") - 1) + "|"]
    for name, returns in rows.items():
        values = " | ".join(shown(measure(returns)) for measure in _MEASURES.values())
        lines.append(f"| {name} | {len(returns)} | {values} |")
    return "\n".join(lines) + "\n"


def of_sampled(rows: list[dict[str, str]]) -> str:
    """Markdown: Nash welfare of the learners on sampled batches, and how often it is below the data's."""
    lines = ["| policy | processes | Nash welfare (nats) | below the behaviour |", "|---|---|---|---|"]
    base = np.array([float(row["behaviour"]) for row in rows])
    for name, title in _SAMPLED.items():
        values = np.array([float(row[name]) for row in rows])
        lines.append(f"| {title} | {len(rows)} | {shown(values)} | {int((values < base).sum())} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    policies = _of_rooms()
    rooms(policies)
    blocks = {"rooms": table("policy", policies), "sampled": of_sampled(read(HERE / "raw" / "sampled.csv"))}
    if (HERE / "raw" / "random").is_dir():
        by_alpha = _of_random()
        random(by_alpha)
        rows = {
            f"{alpha:g} | {beta:g}": by_beta[beta]
            for alpha, by_beta in by_alpha.items()
            for beta in _TABLE_BETAS
        }
        blocks["random"] = table("alpha | beta", rows)
    page = HERE / "README.md"
    text = page.read_text()
    for name, block in blocks.items():
        text = tables.fill_block(text, block, name)
    write_atomic(page, text.encode())


if __name__ == "__main__":
    main()
