"""Pictures of a sparse run: weights before and after the permutation, groups and density over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, PercentFormatter

from marl import plots, stats
from marl.sparse.layer import GroupedLayer
from marl.sparse.pruning import Pruner

WEIGHTS, HISTORY = "weights.png", "sparsity.png"
MOST = 4  # layers that are shown, the largest; CHOICE


def pictures(folder: Path, pruners: Mapping[str, Pruner], rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the pictures of a run into its folder.

    Args:
        folder: of the run.
        pruners: of the agent, by the part of it that they prune.
        rows: `record` with the "step" at which it was made.
    """
    made = [plots.save(history(rows), folder / HISTORY)] if rows else []
    layers = {
        _name(part, name): layer for part, pruner in pruners.items() for name, layer in pruner.grouped()
    }
    if layers:
        made.append(plots.save(weights(layers), folder / WEIGHTS))
    return made


def record(pruners: Mapping[str, Pruner]) -> dict[str, dict[str, Any]]:
    """Plain data of every sparse layer as it is now: kept and all weights; the sizes of its groups."""
    out: dict[str, dict[str, Any]] = {}
    for part, pruner in pruners.items():
        for name, (kept, count) in pruner.kept().items():
            out[_name(part, name)] = {"kept": kept, "count": count}
        for name, layer in pruner.grouped():
            sizes = {"in": list(layer.layout.sizes_in), "out": list(layer.layout.sizes_out)}
            out[_name(part, name)] |= sizes
    return out


def _name(part: str, name: str) -> str:
    return f"{part}.{name}" if part else name


def weights(layers: Mapping[str, GroupedLayer]) -> Figure:
    """Kept weights of the largest layers: as the features stand, and sorted by group."""
    largest = sorted(layers, key=lambda name: -layers[name].weight.numel())[:MOST]
    figure, axes = plots.canvas(2 * len(largest), "kept weights, |W|: in feature order, and sorted by group")
    for name, left, right in zip(largest, axes[::2], axes[1::2], strict=False):
        layout = layers[name].layout
        size_OI = layers[name].dense().abs().cpu().numpy()
        size_OI = np.where(layout.mask_OI().cpu().numpy(), size_OI, np.nan)
        rows, columns = layout.order_out_O.cpu().numpy(), layout.order_in_I.cpu().numpy()
        top = np.nanquantile(size_OI, 0.99) if layout.nnz else 1.0
        for ax, shown in ((left, size_OI), (right, size_OI[rows][:, columns])):
            ax.imshow(shown, aspect="auto", cmap="Blues", vmin=-0.3 * top, vmax=top, interpolation="nearest")
            ax.grid(visible=False)
            ax.set_xlabel("input", fontsize=9)
            ax.set_ylabel("output", fontsize=9)
        left.set_title(name, fontsize=9)
        right.set_title(f"{layout.groups} groups, density {layout.density:.1%}", fontsize=9)
        _outline(right, layers[name])
    return figure


def _outline(ax: Axes, layer: GroupedLayer) -> None:
    """The borders of the blocks."""
    start_in, start_out = layer.layout.start_in.tolist(), layer.layout.start_out.tolist()
    for g in range(layer.layout.groups):
        corner = start_in[g] - 0.5, start_out[g] - 0.5
        size = start_in[g + 1] - start_in[g], start_out[g + 1] - start_out[g]
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=plots.COLOURS[1], linewidth=0.8))


def history(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Density of every layer over training, and the shares of the groups in the largest ones."""
    layers: dict[str, Any] = rows[-1]["layers"]
    steps = [row["step"] for row in rows]
    grouped = [name for name in layers if "in" in layers[name]]
    largest = sorted(grouped, key=lambda name: -layers[name]["count"])[:MOST]
    figure, axes = plots.canvas(1 + 2 * len(largest))
    shown = sorted(layers, key=lambda name: -layers[name]["count"])[: len(plots.COLOURS)]
    plots.draw(axes[0], [_density(name, steps, rows) for name in shown], ylabel="density", share=True)
    axes[0].set_title("kept weights", fontsize=9)
    panels = [(name, side) for name in largest for side in ("in", "out")]
    for ax, (name, side) in zip(axes[1:], panels, strict=False):
        sizes_TG = np.array([row["layers"][name][side] for row in rows], dtype=float)
        shares_GT = (sizes_TG / sizes_TG.sum(1, keepdims=True)).T
        colours = [plots.COLOURS[g % len(plots.COLOURS)] for g in range(len(shares_GT))]
        ax.stackplot(steps, shares_GT, colors=colours, edgecolor="white", linewidth=0.4, alpha=0.75)
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlabel("team steps", fontsize=9)
        ax.set_ylabel(f"share of {'inputs' if side == 'in' else 'outputs'}", fontsize=9)
        ax.set_title(f"{name}, {len(shares_GT)} groups", fontsize=9)
    return figure


def _density(name: str, steps: list[int], rows: Sequence[Mapping[str, Any]]) -> plots.Line:
    entries = [row["layers"][name] for row in rows]
    density_T = np.array([entry["kept"] / entry["count"] for entry in entries])
    one = stats.Estimate(value=density_T, low=None, high=None, runs=1)
    return plots.Line(label=name, x_T=steps, estimate=one)
