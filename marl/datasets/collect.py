"""`marl export-dataset`: episodes of trained teams, or a run's own memory, as a Minari data set.

Several runs and several degrees of exploration give a mixture of qualities: every pair of a run and a
degree is a source, and the sources share the episodes equally. Every episode's group says which source made
it (`source`), and the metadata say what a source is: run, checkpoint and its hash, exploration, seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from marl import checkpoint, compose, files, results
from marl.config import RunConfig, make, unmake
from marl.datasets import minari
from marl.datasets.behaviour import Unsteady
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
from marl.types import Act, Agent, Env, EnvSpec

_BATCH = 64  # envs at a time; CHOICE
Attributed = Iterator[tuple[Episode, Mapping[str, Any]]]


def play(env: Env, agent: Agent, *, episodes: int, rng: Rng, explore: float) -> list[Episode]:
    """Whole episodes of a team: of every env its first ones, as many of each, in the order in which they end.

    (The first ones to end anywhere would be the short ones.)
    """
    layout, B = Layout.of(env.spec, {}), env.num_envs
    memory = Replay(layout, (env.spec.episode_limit + 1) * episodes, env.device)
    left = [episodes // B + (b < episodes % B) for b in range(B)]
    ended: list[int] = []  # envs, in the order in which the tape hands over their episodes

    def keep(rows_LR: Tensor) -> None:
        env = ended.pop(0)
        if left[env]:
            left[env] -= 1
            memory.append(rows_LR)

    tape = Tape(layout, B, env.spec.episode_limit + 1, env.device, on_finish=keep)
    rollout = Rollout(env, agent, rng)
    tape.start(rollout.ts)
    while any(left):
        act, finished = rollout.step(explore)
        ended += [] if finished is None else finished["env"].tolist()
        tape.put(Act(actions_BN=act.actions_BN, carry={}), rollout.ts, ended=finished is not None)
    return list(episodes_of(memory))


def export(
    runs: Sequence[Path],
    out: Path,
    *,
    episodes: int,
    explore: Sequence[float] = (0.0,),
    random: Sequence[float] = (0.0,),
    scaled: float = 0.0,
    world: Sequence[str] = (),
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
        random, scaled: how actions are spoiled (marl/datasets/behaviour.py).
        world: `env.<field>=<value>`: settings in which the data's world differs from that of training, of its
            rewards, say; observations and actions must stay the same.
        seed: of the episodes.
        step: a checkpoint other than the newest.
        memory: store what the run's memory holds, instead of playing.
        trust: packages besides marl that a run's config may name.

    Raises:
        FieldError: settings of playing with `memory`, runs of different worlds, fewer episodes than sources,
            or another world that has other observations or actions.
    """
    if memory and (any(explore) or any(random) or scaled or world):
        fix = "it is stored as it was played: leave out explore, random, scaled and env"
        raise FieldError("memory", "true", fix)
    loaded = [load_run(folder, step=step, trust=trust, device="cpu") for folder in runs]
    made = [changed_world(cfg.env, world, trust) for cfg, _ in loaded]
    worlds = [unmake(one) for one in made]
    for folder, one in zip(runs, worlds, strict=True):
        if one != worlds[0]:
            raise FieldError(
                "run", str(folder), f"its world is not that of {runs[0]}; give runs of one world"
            )
    env_config = made[0]
    env = env_config.build(num_envs=1, device=torch.device("cpu"), threads=1)
    if world:
        _same_sizes(loaded[0][0], env.spec, world)
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
        how: dict[str, Any] = {"random": list(random), "scaled": scaled, "seed": seed}
        sources = [_source(*run, kind="play", explore=degree, **how) for run, degree in pairs]

        def spoiled(agent: Agent) -> Agent:
            steady = not any(random) and not scaled
            # It does nothing but act, which is all that is asked of it here.
            return agent if steady else cast(Agent, Unsteady(agent, env.spec, random=random, scaled=scaled))

        rows = _play_all(pairs, env_config, episodes, seed, spoiled)
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
    spoiled: Callable[[Agent], Agent],
) -> Attributed:
    for index, ((cfg, saved), explore) in enumerate(pairs):
        share = episodes // len(pairs) + (index < episodes % len(pairs))
        rows = min(share, _BATCH, getattr(env_config, "max_envs", None) or _BATCH)
        env = env_config.build(num_envs=rows, device=torch.device("cpu"), threads=cfg.threads)
        rng = Rng(seed, "dataset", str(index))
        agent = spoiled(load_agent(cfg, saved))
        for episode in play(env, agent, episodes=share, rng=rng, explore=explore):
            yield episode, {"source": index}


def changed_world(env_config: Any, words: Sequence[str], trust: tuple[str, ...] = ()) -> Any:
    """The world in evaluation, with `env.<field>=<value>` put into its config."""
    node = unmake(for_evaluation(env_config)) | compose.fields("env", words)
    return make(node, trust=trust, where="env")


def _same_sizes(cfg: RunConfig, spec: EnvSpec, world: Sequence[str]) -> None:
    trained = cfg.env.build(num_envs=1, device=torch.device("cpu"), threads=1).spec
    for name in ("obs_size", "state_size", "action_spaces"):
        if getattr(trained, name) != getattr(spec, name):
            raise FieldError("env", ", ".join(world), f"it changes {name}, which the team was trained with")


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
