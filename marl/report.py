"""What a finished run shows: its curves, its team at work, and five lines of summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl import plots, video
from marl.channel import PerfectLink
from marl.config import RunConfig, label
from marl.evaluate import for_evaluation, record
from marl.progress import duration
from marl.rng import Rng
from marl.sparse import pictures as sparse
from marl.sparse.pictures import HISTORY, WEIGHTS

CURVES, VIDEO = "curves.png", "team.gif"
PICTURES = (CURVES, VIDEO, WEIGHTS, HISTORY)
_VIDEO_EPISODES = 3  # CHOICE: enough to see that spawns differ, few enough for a small file
_ENOUGH = 120  # CHOICE: frames, 12 s; after them no further episode begins
# CHOICE: 45 s; three of 2c_vs_64zg's longest episodes, 1,200 frames, fit into 1 MB at no readable size.
_VIDEO_FRAMES = 450


def unit(cfg: RunConfig) -> str:
    """What the steps of a run count: team steps, unless its loop says otherwise."""
    return str(getattr(cfg.loop, "unit", "team steps"))


def summary(cfg: RunConfig, out: Mapping[str, Any], train_link: PerfectLink | None = None) -> list[str]:
    """Five lines: what came out, and where everything lies; more where a channel was asked for in vain.

    Args:
        cfg: of the run.
        out: content of its results.json.
        train_link: that the config's `train_channel` made, after training.
    """
    folder, final = cfg.folder, out["final"] or {}
    words = []
    if "success" in final:
        words.append(f"{np.mean(final['success']):.1%} success")
    if "return" in final:
        words.append(f"return {np.mean(final['return']):.2f}")
    count = len(final["return"][0]) if "return" in final else 0
    what = f"{', '.join(words)} over {count} episodes" if words else "no final evaluation was asked for"
    listed = [name for name in PICTURES if name in out["files"]]
    wandb = sorted((folder / "wandb").glob("offline-run-*"))
    metrics = [str(folder / "metrics.jsonl"), *(f"{path} (offline)" for path in wandb[-1:])]
    metrics += [str(path) for path in (folder / "tensorboard",) if path.is_dir()]
    return [
        f"{out['run_id']}: {what} ({out['steps']:,} {unit(cfg)} in {duration(out['wall_s'])})",
        f"  results     {folder / 'results.json'}",
        f"  pictures    {', '.join(str(folder / name) for name in listed) or 'none'}",
        f"  metrics     {', '.join(metrics)}",
        f"  evaluate    marl evaluate run={folder}",
        *filter(None, [silence(cfg, {name: rows[0] for name, rows in final.items()})]),
        *filter(None, [silence_in_training(cfg, train_link)]),
    ]


def silence(cfg: RunConfig, episodes: Mapping[str, Sequence[float]]) -> str | None:
    """A line that says that a channel was asked for and nobody used it, or None.

    Args:
        episodes: numbers of the last evaluation by name, an entry per episode.
    """
    if cfg.channel is None or not episodes or any(episodes.get("link.messages", ())):
        return None
    return f"  channel     it changed nothing: {label(cfg.agent)} sent no messages"


def silence_in_training(cfg: RunConfig, link: PerfectLink | None) -> str | None:
    """The same of the link that a team was trained over. Args: link: after training; None where none is."""
    if link is None or link.statistics()["messages"]:
        return None
    return f"  channel     train_channel changed nothing: {label(cfg.agent)} sent no messages in training"


def pictures(
    cfg: RunConfig,
    agent: Any,
    curve: Sequence[Mapping[str, Any]],
    sparsity: Sequence[Mapping[str, Any]] = (),
) -> list[Path]:
    """Write the curves, those of sparse layers, and where the world can be drawn a GIF of the greedy team.

    Args:
        cfg: of the run.
        agent: as it is at the end.
        curve: of its results.json.
        sparsity: rows of sparsity.jsonl.
    """
    figure = plots.run_curves(curve, cfg.run_id, np.random.default_rng(0), unit(cfg))
    made = [plots.save(figure, cfg.folder / CURVES)]
    if sparsity:
        made += sparse.pictures(cfg.folder, agent.pruners, sparsity)
    if cfg.video:
        try:
            frames = film(cfg, agent, Rng(cfg.seed, "video"))
        except NotImplementedError:  # a world without pictures
            return made
        made.append(video.gif(frames[:_VIDEO_FRAMES], cfg.folder / VIDEO))
    return made


def film(cfg: RunConfig, agent: Any, rng: Rng, explore: float = 0.0) -> list[np.ndarray]:
    """Pictures of a few episodes in one world, as it is in evaluation.

    Raises:
        NotImplementedError: the world draws none.
    """
    world = for_evaluation(cfg.env)
    env = world.build(num_envs=1, device=torch.device(cfg.device), threads=cfg.threads)
    link = cfg.channel
    return record(
        agent, env, episodes=_VIDEO_EPISODES, enough=_ENOUGH, rng=rng, explore=explore, channel=link
    )
