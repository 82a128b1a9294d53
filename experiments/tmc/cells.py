"""Numbers of reported runs by world and seed, and their aggregates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tmc import sweep
from experiments.tmc.sweep import OTHERS, REPORT_EPISODES, SILENT, Entry
from marl import stats
from marl.errors import MarlError

METHODS = (
    "tmc",
    "ac",
    "ac(light)",
    "ac(heavy)",
    "vbc",
    "schednet",
    *SILENT,
    "tarmac",
    "tarmac(mute)",
    "tmc(heavy)",
)
_SEED = 0  # of the bootstrap
Measured = list[dict[str, Any]]
Cells = dict[tuple[str, int], float]  # by (env, seed)


def read(paths: Sequence[Path]) -> Measured:
    """What was measured of the reported runs."""
    return [m for m in sweep.read(paths) if not m["part"].endswith(OTHERS)]


def cells(
    measured: Measured,
    agent: str,
    of: Callable[[Entry], float],
    channel: str = "perfect",
    env: str = "",
    rival: str = "",
    at: Sequence[str] = (),
) -> Cells:
    """A number of the reported entry of every run of a method.

    Args:
        measured: of `read`.
        agent: the method.
        of: makes the number.
        channel: any; teams without messages have one result for all of them.
        env: this world alone.
        rival: at the setting for the comparison of messages with this method, not at the chosen one.
        at: at this setting, not at the chosen one.
    """
    channel = "perfect" if agent in SILENT else channel
    out: Cells = {}
    for m in measured:
        if m["agent"] != agent or (env and m["env"] != env):
            continue
        words = list(at) or (m.get("matched", {}).get(rival) if rival else m.get("chosen", []))
        for entry in m["entries"]:
            asked = (entry["words"], entry["channel"], entry["episodes"])
            if asked == (words, channel, REPORT_EPISODES):
                out[m["env"], m["seed"]] = of(entry)
    return out


def estimate(values: Cells) -> stats.Estimate:
    """IQM over seeds and worlds with its 95 % interval; seeds that every world has.

    Raises:
        MarlError: there is no such seed.
    """
    if not values:
        raise MarlError("nothing is measured on a common seed: run python -m experiments.tmc.sweep report")
    envs = sorted({env for env, _ in values})
    seeds = sorted(set.intersection(*({s for e, s in values if e == env} for env in envs)))
    x_RM = np.array([[values[env, seed] for env in envs] for seed in seeds])
    return stats.interval(x_RM, rng=np.random.default_rng(_SEED))


def pairwise(ours: Cells, other: Cells, of: Callable[[float, float], float]) -> Cells:
    """A number of two methods on the same world and seed, which were measured on the same episodes."""
    return {key: of(ours[key], other[key]) for key in ours if key in other}


def any_entry(measured: Measured, env: str) -> Entry:
    """Some entry of a world: which numbers there are."""
    entry: Entry = next(m["entries"][0] for m in measured if m["env"] == env and m["entries"])
    return entry


def methods(measured: Measured, env: str) -> list[str]:
    """Methods that were measured on a world, in the order of tables and legends."""
    return [a for a in METHODS if any(m["agent"] == a and m["env"] == env for m in measured)]
