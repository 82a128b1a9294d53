"""What an attack leaves: a table, report.json, the robustness curve, and two episodes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from marl import config, files, plots, results, stats, tree
from marl import video as films
from marl.canvas import GLYPH_HEIGHT, Canvas
from marl.checkpoint import Saved
from marl.config import RunConfig
from marl.evaluate import for_evaluation, record
from marl.rng import Rng

if TYPE_CHECKING:
    from marl.robust.attack import AttackConfig, Measured

SCHEMA = 1
REPORT, CURVE, FILM = "report.json", "curve.png", "side_by_side.gif"
_ROWS = {  # of the table: name in report.json, what it is called, format
    "return": ("team return", "{:.2f}"),
    "success": ("win rate", "{:.1%}"),
    "length": ("steps per episode", "{:.1f}"),
    "steps_attacked": ("attacked agent-steps per episode", "{:.1f}"),
    "misclassified": ("misclassification rate", "{:.1%}"),
    "target_reached": ("target success rate", "{:.1%}"),
    "l0": ("mean L0 per attacked step", "{:.2f}"),
    "l1": ("mean L1 per attacked step", "{:.3f}"),
    "linf": ("mean L-infinity per attacked step", "{:.3f}"),
    "seconds": ("seconds for all episodes", "{:.1f}"),
}
_FILM_FRAMES = 300  # CHOICE: 30 s
_STRIP = 22  # pixels of the line with the captions


def content(
    cfg: RunConfig,
    saved: Saved,
    attack: AttackConfig,
    seed: int,
    clean: Measured,
    attacked: Measured,
    budget: str,
    points: Sequence[tuple[float, Measured]],
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        cfg, saved: the victim's run and checkpoint.
        attack: its settings.
        seed: which episodes.
        clean, attacked: what they gave.
        budget, points: of the robustness curve; none may be there.
    """
    return {
        "schema": SCHEMA,
        "run_id": cfg.run_id,
        "checkpoint": saved.step,
        "config_hash": cfg.hash,
        "seed": seed,
        "attack": tree.encode(config.unmake(attack)),
        "label": attack.label,
        "clean": clean.numbers(),
        "attacked": attacked.numbers(),
        "curve": {
            "budget": budget,
            "values": [value for value, _ in points],
            "numbers": [one.numbers() for _, one in points],
            "returns": [one.episodes["return"] for _, one in points],
        },
        "episodes": {"clean": clean.episodes, "attacked": attacked.episodes},
        "threads": cfg.threads,
        "versions": results.versions(),
        "git": results.git(),
        "hardware": results.hardware(),
    }


def show(out: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    episodes = len(out["episodes"]["clean"]["return"])
    title = f"{out['run_id']}, checkpoint {out['checkpoint']}: {out['label']}, {episodes} episodes"
    if out.get("victims"):
        title += f", victims {', '.join(map(str, out['victims']))}"
    if out.get("learned_on", "") not in ("", out["run_id"]):
        title += f", adversary of {out['learned_on']} (transfer)"
    table = Table("", "clean", "attacked")
    for name, (words, form) in _ROWS.items():
        cells = [out[side].get(name) for side in ("clean", "attacked")]
        if cells != [None, None]:
            table.add_row(words, *("-" if cell is None else form.format(cell) for cell in cells))
    Console().print(title, highlight=False, soft_wrap=True)
    Console().print(table)


def write(folder: Path, out: dict[str, Any], *, film: tuple[RunConfig, Any, Any, int] | None) -> list[Path]:
    """Write the report and its pictures; returns their paths.

    Args:
        folder: of the report.
        out: of `content`.
        film: the run's config, the team alone and under attack, and the seed; None makes no GIF.
    """
    path = folder / REPORT
    files.write_json(path, out)
    for name in (CURVE, FILM):  # of the same attack asked for with another curve
        (folder / name).unlink(missing_ok=True)
    made = [path]
    if out["curve"]["values"]:
        made.append(plots.save(curve(out), folder / CURVE))
    if film is not None:
        try:
            frames = side_by_side(*film)
        except NotImplementedError:  # a world without pictures
            return made
        made.append(films.gif(frames[:_FILM_FRAMES], folder / FILM))
    return made


def curve(out: dict[str, Any]) -> Figure:
    """Return, and wins where the world has them, against the budget."""
    names = {"steps": "attacked steps per episode", "linf": "L-infinity", "l2": "L2", "l1": "L1", "l0": "L0"}
    one, rng = out["curve"], np.random.default_rng(0)
    wins = [numbers["success"] for numbers in one["numbers"]]
    figure, axes = plots.canvas(1 + (None not in wins), f"{out['run_id']}: {out['label']}")
    x = one["values"]
    bands = [
        stats.interval(returns, stats.mean, rng=rng, resamples=1000).numbers() for returns in one["returns"]
    ]
    middle, low, high = (
        np.array([np.nan if v is None else v for v in side]) for side in zip(*bands, strict=True)
    )
    axes[0].plot(x, middle, marker="o", color=plots.COLOURS[0])
    axes[0].fill_between(x, low, high, color=plots.COLOURS[0], alpha=0.18, linewidth=0)
    axes[0].axhline(out["clean"]["return"], color="#555555", linestyle="--", linewidth=1.0)
    axes[0].annotate("no attack", (x[-1], out["clean"]["return"]), ha="right", va="bottom", fontsize=7)
    axes[0].set_ylabel("team return", fontsize=9)
    if None not in wins:
        axes[1].plot(x, wins, marker="s", color=plots.COLOURS[1])
        axes[1].set_ylim(-0.03, 1.03)
        axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes[1].set_ylabel("wins", fontsize=9)
    for ax in axes[: 1 + (None not in wins)]:
        ax.set_xlabel(f"budget: {names[one['budget']]}", fontsize=9)
    return figure


def side_by_side(cfg: RunConfig, clean: Any, attacked: Any, seed: int) -> list[np.ndarray]:
    """Pictures of the first episode without and with the attack; the shorter one waits at its end.

    Raises:
        NotImplementedError: the world draws no pictures.
    """
    both = []
    for team, title in ((clean, "NO ATTACK"), (attacked, "UNDER ATTACK")):
        env = for_evaluation(cfg.env).build(num_envs=1, device=torch.device(cfg.device), threads=cfg.threads)
        if hasattr(team, "attach"):
            team.attach(env)
        frames = record(team, env, episodes=1, rng=Rng(seed, "final"), channel=cfg.channel)
        both.append([_titled(frame, title) for frame in frames])
    length = max(len(frames) for frames in both)
    left, right = ([*frames, *[frames[-1]] * (length - len(frames))] for frames in both)
    gap = np.full((left[0].shape[0], 6, 3), 255, np.uint8)
    return [np.concatenate([a, gap, b], 1) for a, b in zip(left, right, strict=True)]


def _titled(frame: np.ndarray, title: str) -> np.ndarray:
    """The picture below a line of text."""
    strip = Canvas(_STRIP, frame.shape[1])
    strip.text(
        frame.shape[1] / 2, (_STRIP - 2 * GLYPH_HEIGHT) / 2, title, (255, 255, 255), scale=2, anchor=0.5
    )
    return np.concatenate([strip.image(), frame])
