"""Does a battle have to be looked at? Replay one won episode's actions, blindly, in other episodes.

A world that always starts and goes the same way can be won by heart; jittered starts and cooldowns are there
to prevent it (`Config.spawn_jitter`, `Config.cooldown_jitter`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.interleave import read_rows
from experiments.claims import Derived
from marl import stats
from marl.envs.battle import Battle, Config, scripted
from marl.errors import MarlError
from marl.rng import Rng
from marl.types import TimeStep

MAPS = ("3m", "8m", "2s3z", "3s5z", "3s_vs_3z", "3s_vs_5z", "MMM", "2c_vs_64zg")  # those that kiting wins
POLICY = "kiting"
REPLAYS = 20  # won episodes, each of its own seed


def _first_episodes(
    env: Battle, ts: TimeStep, act: Callable[[TimeStep], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Play the first episode of every env: won (B,), its length (B,) and all actions (T, B, N)."""
    won_B = torch.zeros(env.num_envs, dtype=torch.bool)
    length_B = torch.zeros(env.num_envs, dtype=torch.int64)
    actions = []
    while (length_B == 0).any():
        actions.append(act(ts))
        ts = env.step(actions[-1])
        first_B = ts.done_B & (length_B == 0)
        won_B |= first_B & ts.info["success"]
        length_B[first_B] = len(actions)
    return won_B, length_B, torch.stack(actions)


def _world(map_name: str, num_envs: int, rng: Rng) -> tuple[Battle, TimeStep]:
    env = Config(map=map_name).build(num_envs=num_envs, device=torch.device("cpu"), threads=1)
    return env, env.reset(rng)


def won_episode(map_name: str, seed: int, tries: int = 64) -> Tensor:
    """Actions (T, N) of the first of `tries` episodes, by index, that the scripted team wins."""
    rng = Rng(seed, "original")
    env, ts = _world(map_name, tries, rng)
    won_B, length_B, actions_TBN = _first_episodes(env, ts, scripted.make(POLICY, env, rng))
    if not won_B.any():
        raise MarlError(f"{POLICY} won none of {tries} episodes of {map_name}: give a map that it wins")
    b = int(won_B.nonzero()[0])
    return actions_TBN[: length_B[b], b]


def replay(map_name: str, actions_TN: Tensor, seed: int, episodes: int) -> Tensor:
    """Wins (episodes,) of the same actions in other episodes; then, and where one is illegal, stop."""
    env, ts = _world(map_name, episodes, Rng(seed, "replay"))
    stop_N = torch.full_like(actions_TN[0], scripted.STOP)
    steps = iter(actions_TN)

    def act(_: TimeStep) -> Tensor:
        return next(steps, stop_N).expand(episodes, -1).contiguous()

    return _first_episodes(env, ts, act)[0]


def measure(episodes: int, maps: Sequence[str] = MAPS, replays: int = REPLAYS) -> list[dict[str, Any]]:
    """One row per replayed episode."""
    rows: list[dict[str, Any]] = []
    for name in maps:
        for seed in range(replays):
            actions_TN = won_episode(name, seed)
            won = int(replay(name, actions_TN, seed, episodes).sum())
            row = {"map": name, "seed": seed, "steps": len(actions_TN), "episodes": episodes, "won": won}
            rows.append(row)
        mine = [100 * row["won"] / episodes for row in rows if row["map"] == name]
        print(f"{name}: replays win {sum(mine) / len(mine):.1f} % (at most {max(mine):.1f})", flush=True)
    return rows


def estimate(path: Path, map_name: str) -> Derived:
    """Mean win share of the replays on one map, with a bootstrap interval over the replayed episodes."""
    rows = [row for row in read_rows(path) if row["map"] == map_name]
    values = [int(row["won"]) / int(row["episodes"]) for row in rows]
    value, low, high = stats.interval(values, stats.mean, rng=np.random.default_rng(0)).numbers()
    return value, low, high, len(values)


def wins_3m(path: Path) -> Derived:
    """`estimate` on 3m."""
    return estimate(path, "3m")


def markdown(path: Path) -> str:
    """Table of the replays' wins, a line per map."""
    lines = ["| map | replays win, % |", "|---|---|"]
    for name in dict.fromkeys(row["map"] for row in read_rows(path)):
        value, low, high, _ = estimate(path, name)
        assert low is not None  # there are several replays
        assert high is not None
        lines.append(f"| {name} | {100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f}) |")
    return "\n".join(lines) + "\n"
