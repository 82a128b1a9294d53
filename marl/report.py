"""What a finished run shows: its curves, its team at work, and five lines of summary."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl import files
from marl.config import RunConfig
from marl.progress import duration

CURVES, VIDEO = "curves.png", "team.gif"
PICTURES = (CURVES, VIDEO)


def curves(path: Path, curve: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw every per-episode quantity of the evaluations over team steps: mean and, over seeds, range.

    Args:
        path: the .png to write.
        curve: entries of results.json: step, wall_s, and per name [seed][episode].
        title: above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [n for n in ("success", "return", "length") if curve and n in curve[0]]
    figure = Figure(figsize=(4.2 * max(1, len(names)), 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, max(1, len(names))))
    steps = [entry["step"] for entry in curve]
    for ax, name in zip(axes, names, strict=False):
        means_TS = np.array([[np.mean(row) for row in entry[name]] for entry in curve])  # S seeds
        ax.plot(steps, means_TS.mean(1), marker=".")
        if means_TS.shape[1] > 1:
            ax.fill_between(steps, means_TS.min(1), means_TS.max(1), alpha=0.2)
        ax.set(xlabel="team steps", title=name)
        if name == "success":
            ax.set_ylim(-0.02, 1.02)
        ax.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    files.write_atomic(path, buffer.getvalue())


def summary(folder: Path, out: Mapping[str, Any]) -> list[str]:
    """Five lines: what came out, and where everything lies.

    Args:
        folder: the run's folder.
        out: content of its results.json.
    """
    final = out["final"] or {}
    words = []
    if "success" in final:
        words.append(f"{np.mean(final['success']):.1%} success")
    if "return" in final:
        words.append(f"return {np.mean(final['return']):.2f}")
    count = len(final["return"][0]) if "return" in final else 0
    what = f"{', '.join(words)} over {count} episodes" if words else "no final evaluation was asked for"
    listed = [name for name in PICTURES if name in out["files"]]
    wandb = sorted((folder / "wandb").glob("offline-run-*"))
    return [
        f"{out['run_id']}: {what} ({out['steps']:,} team steps in {duration(out['wall_s'])})",
        f"  results     {folder / 'results.json'}",
        f"  pictures    {', '.join(str(folder / name) for name in listed) or 'none'}",
        f"  metrics     {folder / 'metrics.jsonl'}" + (f", {wandb[-1]} (offline)" if wandb else ""),
        f"  evaluate    marl evaluate run={folder}",
    ]


def pictures(cfg: RunConfig, agent: Any, curve: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the curves and, where the world can be drawn, a GIF of the greedy team."""
    made = [cfg.folder / CURVES]
    curves(made[0], curve, cfg.run_id)
    return made
