"""`marl evaluate`: a trained team from its run folder, measured on fresh episodes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl import checkpoint, compose, config, files, plots
from marl.config import RunConfig
from marl.errors import FieldError, MarlError
from marl.evaluate import Evaluation, conversation, evaluate
from marl.process import prepare_process
from marl.rng import Rng
from marl.types import Agent


def load_run(
    folder: Path,
    *,
    step: int | None = None,
    trust: tuple[str, ...] = (),
    words: Sequence[str] = (),
    **changes: Any,
) -> tuple[RunConfig, checkpoint.Saved]:
    """The config and the newest whole checkpoint of a run, its memory not needed.

    Args:
        folder: the run's folder.
        step: a checkpoint other than the newest.
        trust: packages besides marl that its config may name.
        words: `channel=<name>`, `channel.<field>=<value>`: the link between agents; `agent.<field>=<value>`:
            settings of the team that its networks do not depend on.
        changes: settings of RunConfig to replace (device, threads, seed).

    Raises:
        MarlError: there is no run or no such checkpoint, or it is damaged.
    """
    if step is not None:
        if step not in checkpoint.steps(folder):
            there = ", ".join(map(str, checkpoint.steps(folder))) or "none"
            raise FieldError("checkpoint", step, f"the run has: {there}")
        saved = checkpoint.read(folder / "checkpoints" / str(step), memory=False)
    else:
        newest, _ = checkpoint.latest(folder, memory=False)
        if newest is None:
            raise FieldError(
                "run", str(folder), "there is no checkpoint in this folder; give the folder of a run"
            )
        saved = newest
    node = saved.info["config"] | {k: v for k, v in changes.items() if v is not None}
    node = compose.over(node, words)
    cfg = config.load(node, trust=trust)
    return dataclasses.replace(cfg, run_id=folder.resolve().name, runs_dir=folder.resolve().parent), saved


def load_agent(cfg: RunConfig, saved: checkpoint.Saved) -> Any:
    """The team as the checkpoint has it, on the config's device."""
    device = torch.device(cfg.device)
    env = cfg.env.build(num_envs=1, device=device, threads=1)
    agent = cfg.agent.build(spec=env.spec, rng=Rng(cfg.seed).child("agent"), device=device)
    agent.load_state_dict(saved.state["agent"])
    return agent


def play(agent: Agent, cfg: RunConfig, *, episodes: int, seed: int, **settings: Any) -> Evaluation:
    """The episodes that a run ends with, or with another seed others, over the run's own channel.

    Args:
        agent: the run's team, or one in its place.
        cfg: of the run.
        episodes, settings: as `marl.evaluate.evaluate`.
        seed: which episodes.
    """
    return evaluate(
        agent,
        cfg.env,
        episodes=episodes,
        rng=Rng(seed, "final"),
        device=torch.device(cfg.device),
        threads=cfg.threads,
        channel=cfg.channel,
        **settings,
    )


def evaluate_run(
    folder: Path,
    *,
    episodes: int,
    seed: int | None = None,
    explore: float = 0.0,
    step: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    trust: tuple[str, ...] = (),
    words: Sequence[str] = (),
    talk: bool = False,
    film: str = "",
) -> dict[str, Any]:
    """Measure a run's team, print the numbers and write them beside its results.

    Args:
        folder: the run's folder.
        episodes: how many, 1 or more.
        seed: other than the run's own, for other episodes.
        explore: 0 is greedy, 1 the policy itself.
        step, device, threads, trust, words: as `load_run`.
        talk: also draw who talks to whom in the first episode.
        film: "mp4" or "gif": also a video, which begins with the first episode; "": none.

    Returns:
        Per-episode numbers by name.
    """
    from marl import report, video

    cfg, saved = load_run(folder, step=step, trust=trust, words=words, device=device, threads=threads)
    prepare_process(cfg)
    chosen = cfg.seed if seed is None else seed
    agent = _load_as_told(cfg, saved, words)
    said = _conversation(agent, cfg, chosen) if talk else None  # both refuse before the episodes are played
    frames = _film(agent, cfg, chosen, explore, film) if film else []
    measured = play(agent, cfg, episodes=episodes, seed=chosen, explore=explore)
    out = measured.lists()
    print(f"{cfg.run_id}, checkpoint {saved.step}, {episodes} episodes, seed {chosen}, explore {explore:g}")
    for name, values in out.items():
        # Episodes of one team are the sample here, so the interval is over episodes, of the mean.
        value, low, high = plots.over_episodes(name, values, np.random.default_rng(0)).numbers()
        between = f"  95 % interval over episodes [{low:.4f}, {high:.4f}]" if low is not None else ""
        print(f"  {name:<14} {value:.4f}{between}")
    about = {"run_id": cfg.run_id, "checkpoint": saved.step, "seed": chosen, "explore": explore}
    about |= {"overrides": list(words)} if words else {}
    what = f"{saved.step}-s{chosen}-e{explore:g}-n{episodes}"
    name = "-".join([what, *(re.sub(r"[^\w.=,]+", "_", w) for w in words)])
    path = folder / f"evaluation-{name}.json"
    files.write_json(path, {**about, "episodes": out})
    print(f"  written to {path}")
    if (nothing := report.silence(cfg, out)) is not None:
        print(nothing)
    if said is not None:
        figure = plots.conversation(*said, title=f"{cfg.run_id}, first episode")
        print(f"  picture     {plots.save(figure, folder / f'talk-{name}.png')}")
    if film:
        write = {"gif": video.gif, "mp4": video.mp4}[film]
        print(f"  video       {write(frames, folder / f'team-{name}.{film}')}")
    return out


def _load_as_told(cfg: RunConfig, saved: checkpoint.Saved, words: Sequence[str]) -> Any:
    """As `load_agent`. Raises MarlError that names the settings of `words` where the networks do not fit."""
    try:
        return load_agent(cfg, saved)
    except MarlError as error:
        own = ", ".join(word for word in words if word.startswith("agent."))
        if not own:
            raise
        fix = "leave out settings that the networks depend on"
        raise MarlError(f"{own}: the trained team does not fit: {fix} ({error})") from error


def _conversation(agent: Agent, cfg: RunConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Who talks to whom in the first episode. Raises FieldError where nobody does."""
    device = torch.device(cfg.device)
    settings: dict[str, Any] = {"device": device, "threads": cfg.threads, "channel": cfg.channel}
    said = conversation(agent, cfg.env, rng=Rng(seed, "final"), **settings)
    if said is None:
        raise FieldError("talk", "true", f"{config.label(cfg.agent)} sends no messages; leave it out")
    return said


def _film(agent: Agent, cfg: RunConfig, seed: int, explore: float, kind: str) -> list[np.ndarray]:
    """Pictures of the first episodes. Raises FieldError where the world cannot be drawn."""
    from marl import report

    try:
        return report.film(cfg, agent, Rng(seed, "final"), explore)
    except NotImplementedError as error:
        fix = f"this world draws no pictures ({error}); leave it out"
        raise FieldError("video", kind, fix) from error
