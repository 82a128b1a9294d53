"""Figures in one style: curves with intervals, performance profiles, intervals side by side.

Colours are Okabe and Ito's, told apart by the colour-blind; every series also has its own marker
and dash pattern, so that a grey print reads as well. Functions return the figure; `save` writes it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from marl import files, stats

# Okabe, Ito: "Color Universal Design", 2008; yellow left out, it does not show on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
PANEL = (4.0, 3.0)  # inches
SHARES = ("success",)  # quantities that are shares of episodes, shown in per cent
_INSIDE = 30  # characters: a longer label does not fit into a panel, and its legend goes below
_FEW = 3  # CHOICE: lines whose legend finds room beside them; more go below
_WRAPPED = 60  # characters of a legend's line below a panel
_LEGEND_LINE = 0.14  # inches of a legend's line
_AXIS = 0.36  # inches of ticks and label of an x axis


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a panel: x of shape (T,), and an estimate whose arrays have that shape."""

    label: str
    x_T: ArrayLike
    estimate: stats.Estimate


def canvas(panels: int, title: str = "", panel: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, at most four in a row."""
    columns = max(1, min(4, panels))
    rows = max(1, -(-panels // columns))
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax in axes[panels:]:
        ax.set_visible(False)
    for ax in axes:
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, whole or not at all; makes the folder."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    files.make_folder(path.parent)
    files.write_atomic(path, buffer.getvalue())
    return path


def draw(
    ax: Axes, lines: Sequence[Line], *, ylabel: str, share: bool = False, xlabel: str = "team steps"
) -> None:
    """Draw lines with their bands over team steps, or what else they count.

    Args:
        ax: the panel.
        lines: one per method; a line without interval (one run) has no band.
        ylabel: quantity and unit.
        share: the quantity is a share in [0, 1]: per cent, and the axis shows all of it.
        xlabel: what x counts.
    """
    for i, line in enumerate(lines):
        x_T, one = np.asarray(line.x_T), line.estimate
        colour = COLOURS[i % len(COLOURS)]
        every = max(1, len(x_T) // 8)
        ax.plot(
            x_T,
            one.value,
            label=_wrapped(line.label),
            color=colour,
            marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],  # the eighth line is not the first again
            linestyle=DASHES[(i + i // len(COLOURS)) % len(DASHES)],
            linewidth=1.4,
            markersize=4,
            markevery=(i * every // max(1, len(lines)), every),
        )
        if one.low is not None and one.high is not None:
            ax.fill_between(x_T, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    if share:
        ax.set_ylim(-0.03, 1.03)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if len(lines) > 1:
        ax.legend(fontsize=7, frameon=False, **(_place_below(ax) if _below(lines) else {}))


def panel(*panels: Sequence[Line]) -> tuple[float, float]:
    """Width and height in inches of panels that hold these lines, with room for legends below them."""
    return PANEL[0], PANEL[1] + _LEGEND_LINE * max(map(_below, panels), default=0)


def _place_below(ax: Axes) -> dict[str, Any]:
    """Where a legend stands below ticks and label of the x axis, whatever the panel's height."""
    assert ax.figure is not None
    down = ScaledTranslation(0, -_AXIS, ax.figure.dpi_scale_trans)
    return {"loc": "upper left", "bbox_to_anchor": (-0.1, 0.0), "bbox_transform": ax.transAxes + down}


def _below(lines: Sequence[Line]) -> int:
    """Lines of text of a legend that goes below its panel; 0: it fits inside."""
    short = all(len(line.label) <= _INSIDE for line in lines)
    if len(lines) < 2 or (short and len(lines) <= _FEW):
        return 0
    return sum(_wrapped(line.label).count("\n") + 1 for line in lines)


def _wrapped(label: str) -> str:
    return textwrap.fill(label, _WRAPPED, subsequent_indent="  ", break_long_words=False)


def curves(
    panels: Mapping[str, Sequence[Line]], *, title: str = "", ylabel: str = "wins (IQM)", share: bool = True
) -> Figure:
    """Learning curves: a panel per task, a line per method.

    Args:
        panels: title of each panel and its lines; `learning_line` makes one from scores.
        title: above all panels.
        ylabel, share: as for `draw`.
    """
    figure, axes = canvas(len(panels), title, panel(*panels.values()))
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
        draw(ax, lines, ylabel=ylabel, share=share)
        ax.set_title(textwrap.fill(name, 40), fontsize=10)
    return figure


def learning_line(label: str, x_T: ArrayLike, scores_TRM: ArrayLike, rng: np.random.Generator) -> Line:
    """IQM over runs and tasks with its 95 % band at every point.

    Args:
        label: name of the method; the number of runs is added.
        x_T: team steps.
        scores_TRM: (T, R, M) scores of R runs on M tasks.
        rng: draws the bootstrap.
    """
    estimate = stats.interval(scores_TRM, rng=rng)
    return Line(label=f"{label} (n={estimate.runs})", x_T=x_T, estimate=estimate)


def run_curves(
    curve: Sequence[Mapping[str, Any]], title: str, rng: np.random.Generator, xlabel: str = "team steps"
) -> Figure:
    """The evaluations of one run: mean over its episodes with the 95 % interval over episodes.

    Args:
        curve: entries of results.json: "step" and, per name, numbers [seed][episode].
        title: above the panels.
        rng: draws the bootstrap.
        xlabel: what "step" counts.
    """
    names = [name for name in ("success", "return", "length") if curve and name in curve[0]]
    labels = {"success": "wins", "return": "return per episode", "length": "episode length (team steps)"}
    figure, axes = canvas(len(names), title)
    for ax, name in zip(axes, names, strict=False):
        values_TE = np.array([np.concatenate(entry[name]) for entry in curve], dtype=float)
        estimate = over_episodes(name, values_TE, rng, resamples=1000)
        line = Line(label=name, x_T=[entry["step"] for entry in curve], estimate=estimate)
        draw(ax, [line], ylabel=labels[name], share=name in SHARES, xlabel=xlabel)
    return figure


def over_episodes(
    name: str, values_E: ArrayLike, rng: np.random.Generator, resamples: int = stats.RESAMPLES
) -> stats.Estimate:
    """Mean over the episodes of one team, with its 95 % interval over episodes.

    Args:
        name: of the quantity; one of SHARES has Wilson's interval where every episode has 0 or 1, all else
            that of the bootstrap.
        values_E: (E,) or (T, E).
        rng: draws the bootstrap.
        resamples: bootstrap draws.
    """
    x_E = np.asarray(values_E, dtype=np.float64)
    if name in SHARES and np.isin(x_E, (0.0, 1.0)).all():
        return stats.share(x_E)
    return stats.interval(x_E[..., None], stats.mean, rng=rng, resamples=resamples)


def profiles(
    scores: Mapping[str, ArrayLike],
    tau_K: ArrayLike,
    *,
    rng: np.random.Generator,
    xlabel: str = "score",
    title: str = "",
) -> Figure:
    """Performance profiles: share of runs with a score above each threshold, with pointwise bands.

    Args:
        scores: (R, M) per method.
        tau_K: thresholds.
        rng: draws the bootstrap.
        xlabel: quantity and unit of the score.
        title: above the panel.

    Reference: Agarwal et al. 2021, section 4.2.
    """
    lines = [
        Line(label=label, x_T=tau_K, estimate=stats.profile_interval(values, tau_K, rng=rng, resamples=1000))
        for label, values in scores.items()
    ]
    figure, (ax,) = canvas(1, title, (5.0, 3.4 + _LEGEND_LINE * _below(lines)))
    draw(ax, lines, ylabel="share of runs above", share=True)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel(f"{xlabel} threshold", fontsize=9)
    return figure


def intervals(
    panels: Mapping[str, Mapping[str, stats.Estimate]], *, title: str = "", share: bool = False
) -> Figure:
    """Estimates side by side: a panel per quantity, a row per method, a bar for the interval.

    Args:
        panels: quantity with its unit, and per method a single-number estimate.
        title: above all panels.
        share: the quantities are shares in [0, 1], shown in per cent.
    """
    height = 0.9 + 0.32 * max(len(methods) for methods in panels.values())
    figure, axes = canvas(len(panels), title, (PANEL[0], height))
    for ax, (quantity, methods) in zip(axes, panels.items(), strict=False):
        for row, one in enumerate(methods.values()):
            value, low, high = one.numbers()
            colour = COLOURS[row % len(COLOURS)]
            if low is not None and high is not None:
                ax.barh(row, high - low, left=low, height=0.55, color=colour, alpha=0.3)
            ax.plot([value, value], [row - 0.3, row + 0.3], color=colour, linewidth=2.2)
        ax.set_yticks(range(len(methods)), list(methods), fontsize=8)
        ax.set_ylim(len(methods) - 0.4, -0.6)
        ax.use_sticky_edges = False  # bars would otherwise stick to the edge of the panel
        ax.margins(x=0.06)
        ax.set_xlabel(quantity, fontsize=9)
        ax.grid(axis="y", visible=False)
        if share:
            ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def conversation(wanted_TNN: ArrayLike, delivered_TNN: ArrayLike, *, title: str = "") -> Figure:
    """Who talks to whom over one episode: every ordered pair over time, and how often in all.

    Args:
        wanted_TNN: bool (receiver, sender), an entry per exchange.
        delivered_TNN: bool; what arrived, whenever it was sent.
        title: above both panels.
    """
    wanted, delivered = np.asarray(wanted_TNN, dtype=bool), np.asarray(delivered_TNN, dtype=bool)
    T, N, _ = wanted.shape
    pairs = [(j, i) for j in range(N) for i in range(N) if i != j]  # sender, receiver
    figure, (ax, total) = canvas(2, title, (PANEL[0] * 1.3, max(PANEL[1], 0.9 + 0.09 * len(pairs))))
    for row, (j, i) in enumerate(pairs):
        colour = COLOURS[j % len(COLOURS)]
        sent, got = np.flatnonzero(wanted[:, i, j]), np.flatnonzero(delivered[:, i, j])
        ax.scatter(sent, [row] * len(sent), s=16, facecolors="none", edgecolors=colour, linewidths=0.7)
        ax.scatter(got, [row] * len(got), s=6, color=colour, linewidths=0)
    middle = [(N - 1) * j + (N - 2) / 2 for j in range(N)]
    ax.set_yticks(middle, [f"{j} to others" for j in range(N)], fontsize=8)
    for j in range(1, N):
        ax.axhline((N - 1) * j - 0.5, color="#bbbbbb", linewidth=0.5)
    ax.set_xlim(-1, T)
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.set_xlabel("exchange (circle: sent, dot: arrived)", fontsize=9)
    ax.grid(axis="y", visible=False)
    counts_NN = wanted.sum(0)
    total.imshow(counts_NN, cmap="Blues", vmin=0, vmax=T)
    for i in range(N):
        for j in range(N):
            if i != j:
                ink = "w" if counts_NN[i, j] > T / 2 else "k"
                total.text(j, i, f"{counts_NN[i, j]}", ha="center", va="center", fontsize=7, color=ink)
    total.set_xticks(range(N))
    total.set_yticks(range(N))
    total.set_xlabel(f"sender; messages sent in {T} exchanges", fontsize=9)
    total.set_ylabel("receiver", fontsize=9)
    total.grid(visible=False)
    return figure
