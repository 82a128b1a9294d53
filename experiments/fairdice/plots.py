"""Pictures of the tabular studies, redrawn from their raw files.

    python -m experiments.fairdice.plots

writes plots/rooms.png (welfare, sum and Jain's index of every data set's policies) and, where its raw file is
there, plots/random.png (the same over beta, a line per alpha).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.claims import ROOT
from experiments.fairdice.metrics import jain, nash, read
from marl import plots, stats

HERE = ROOT / "experiments" / "fairdice"
Measure = Callable[[np.ndarray], np.ndarray]
_MEASURES: dict[str, Measure] = {
    "Nash welfare (nats)": nash,
    "sum of returns": lambda r: r.sum(-1),
    "Jain's index": jain,
}


def _returns(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[f"return_{k}"]) for k in range(3)] for row in rows])


def rooms() -> None:
    """A panel per measure, a column of points per policy; the mean is the bar."""
    rows = [row for row in read(HERE / "raw" / "rooms.csv") if row["solver"] != "refused"]
    names = ("behaviour", "utilitarian", "nash")
    figure, axes = plots.canvas(len(_MEASURES), "Four rooms: exact policies of generated data sets")
    rng = np.random.default_rng(0)
    for ax, (title, measure) in zip(axes, _MEASURES.items(), strict=False):
        for i, name in enumerate(names):
            values = measure(_returns([row for row in rows if row["policy"] == name]))
            x = i + rng.uniform(-0.12, 0.12, len(values))
            ax.plot(x, values, plots.MARKERS[i], color=plots.COLOURS[i], markersize=2.5, alpha=0.5)
            ax.hlines(values.mean(), i - 0.25, i + 0.25, color="black", linewidth=1.4)
        ax.set_xticks(range(len(names)), names, fontsize=8)
        ax.set_title(title, fontsize=10)
    plots.save(figure, HERE / "plots" / "rooms.png")


def random() -> None:
    """A panel per measure over beta, a line per alpha: mean with its interval over processes."""
    files = sorted((HERE / "raw" / "random").glob("*.csv"))
    rows = [row for path in files for row in read(path) if row["solver"] != "refused"]
    alphas, betas = (sorted({float(row[name]) for row in rows}) for name in ("alpha", "beta"))
    figure, axes = plots.canvas(len(_MEASURES), "Random processes: exact policies in the true process")
    for ax, (title, measure) in zip(axes, _MEASURES.items(), strict=False):
        for i, alpha in enumerate(alphas):
            mine = [row for row in rows if float(row["alpha"]) == alpha]
            found = [measure(_returns([row for row in mine if float(row["beta"]) == beta])) for beta in betas]
            finite = [values[np.isfinite(values)] for values in found]
            means = [stats.interval(values, stats.mean, rng=np.random.default_rng(0)) for values in finite]
            style: dict[str, Any] = {"color": plots.COLOURS[i], "marker": plots.MARKERS[i], "markersize": 3}
            ax.plot(betas, [float(m.value) for m in means], label=f"alpha {alpha:g}", **style)
            bounds = [m.numbers()[1:] for m in means]
            low, high = ([b[side] or np.nan for b in bounds] for side in (0, 1))
            ax.fill_between(betas, low, high, color=plots.COLOURS[i], alpha=0.18, linewidth=0)
        ax.set_xscale("log")
        ax.set_xlabel("beta", fontsize=9)
        ax.set_title(title, fontsize=10)
    axes[0].legend(fontsize=7, frameon=False)
    plots.save(figure, HERE / "plots" / "random.png")


def main() -> None:
    rooms()
    if (HERE / "raw" / "random").is_dir():
        random()


if __name__ == "__main__":
    main()
