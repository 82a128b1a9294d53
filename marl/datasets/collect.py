"""`marl export-dataset`: episodes of trained teams, or a run's own memory, as a Minari data set.

Several runs and several degrees of exploration give a mixture of qualities: every pair of a run and a
degree is a source, and the sources share the episodes equally. Every episode's group says which source made
it (`source`), and the metadata say what a source is: run, checkpoint and its hash, exploration, seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from marl import checkpoint, files, results
from marl.config import RunConfig, unmake
from marl.datasets import minari
from marl.datasets.episode import Episode, episodes_of
from marl.errors import FieldError
from marl.evaluate import for_evaluation
from marl.loops.offline import load_memory
from marl.measure import load_agent, load_run
from marl.records import Layout
from marl.replay import Replay
from marl.rng import Rng
from marl.rollout import Rollout
from marl.tape import Tape
from marl.types import Act, Agent, Env

_BATCH = 64  # envs at a time; CHOICE
Attributed = Iterator[tuple[Episode, Mapping[str, Any]]]


def play(env: Env, agent: Agent, *, episodes: int, rng: Rng, explore: float) -> list[Episode]:
    """Whole episodes of a team, one per env and then as they come, in the order in which they end."""
    layout = Layout.of(env.spec, {})
    memory = Replay(layout, (env.spec.episode_limit + 1) * (episodes + env.num_envs), env.device)
    tape = Tape(layout, env.num_envs, env.spec.episode_limit + 1, env.device, on_finish=memory.append)
    rollout = Rollout(env, agent, rng)
    tape.start(rollout.ts)
    while memory.episodes < episodes:
        act, finished = rollout.step(explore)
        tape.put(Act(actions_BN=act.actions_BN, carry={}), rollout.ts, ended=finished is not None)
    return list(itertools.islice(episodes_of(memory), episodes))


def export(
    runs: Sequence[Path],
    out: Path,
    *,
    episodes: int,
    explore: Sequence[float] = (0.0,),
    seed: int = 0,
    step: int | None = None,
    memory: bool = False,
    trust: tuple[str, ...] = (),
) -> dict[str, int]:
    """Write the data set and print what it holds.

    Args:
        runs: run folders of one world.
        out: the data set's folder; must not exist.
        episodes: to be played in all; not read with `memory`.
        explore: degrees of exploration of every run, as in `marl evaluate`.
        seed: of the episodes.
        step: a checkpoint other than the newest.
        memory: store what the run's memory holds, instead of playing.
        trust: packages besides marl that a run's config may name.

    Raises:
        FieldError: the runs are of different worlds, or there are fewer episodes than sources.
    """
    loaded = [load_run(folder, step=step, trust=trust, device="cpu") for folder in runs]
    worlds = [unmake(for_evaluation(cfg.env)) for cfg, _ in loaded]
    for folder, world in zip(runs, worlds, strict=True):
        if world != worlds[0]:
            raise FieldError(
                "run", str(folder), f"its world is not that of {runs[0]}; give runs of one world"
            )
    env_config = for_evaluation(loaded[0][0].env)
    env = env_config.build(num_envs=1, device=torch.device("cpu"), threads=1)
    sources: list[dict[str, Any]] = []
    if memory:
        if len(runs) != 1:
            raise FieldError("run", ",".join(map(str, runs)), "memory=true stores one run's memory: give one")
        stored = load_memory(runs[0], env, load_agent(*loaded[0]))
        sources.append(_source(*loaded[0], kind="memory"))
        rows: Attributed = ((episode, {"source": 0}) for episode in episodes_of(stored))
    else:
        pairs = list(itertools.product(loaded, explore))
        if episodes < len(pairs):
            raise FieldError(
                "episodes", episodes, f"there are {len(pairs)} sources; give one episode for each"
            )
        sources = [_source(*run, kind="play", explore=degree, seed=seed) for run, degree in pairs]
        rows = _play_all(pairs, env_config, episodes, seed)
    about = {
        "algorithm": ", ".join(dict.fromkeys(str(source["agent"]) for source in sources)),
        "world": worlds[0],
        "sources": sources,
        "versions": results.versions(),
        "git": results.git(),
    }
    counts = minari.write(out, env.spec, rows, about)
    print(f"{out}: {counts['episodes']} episodes, {counts['steps']} steps of {env.spec.name}")
    return counts


def _play_all(
    pairs: Sequence[tuple[tuple[RunConfig, checkpoint.Saved], float]],
    env_config: Any,
    episodes: int,
    seed: int,
) -> Attributed:
    for index, ((cfg, saved), explore) in enumerate(pairs):
        share = episodes // len(pairs) + (index < episodes % len(pairs))
        rows = min(share, _BATCH, getattr(env_config, "max_envs", None) or _BATCH)
        env = env_config.build(num_envs=rows, device=torch.device("cpu"), threads=cfg.threads)
        rng = Rng(seed, "dataset", str(index))
        for episode in play(env, load_agent(cfg, saved), episodes=share, rng=rng, explore=explore):
            yield episode, {"source": index}


def _source(cfg: RunConfig, saved: checkpoint.Saved, **about: Any) -> dict[str, Any]:
    """What the metadata say of a source."""
    meta = (saved.path / "meta.json").read_bytes()
    return {
        "run_id": cfg.run_id,
        "agent": unmake(cfg.agent)["_target_"],
        "config_hash": cfg.hash,
        "checkpoint": saved.step,
        "checkpoint_sha256": files.sha256(meta),
        **about,
    }
