"""The side of IC3Net in the benchmark of the grid worlds: one environment of its own code, in Python."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.workers.protocol import Measure, serve, timed

TASKS = {  # module, class, the name that it has for the number of agents
    "predator_prey": ("predator_prey_env", "PredatorPreyEnv", "nfriendly"),
    "traffic_junction": ("traffic_junction_env", "TrafficJunctionEnv", "nagents"),
}


def prepare(
    *, source: str, task: str, agents: int, actions: int, limit: int, words: list[str]
) -> tuple[Measure, dict[str, Any]]:
    """Build the environment and warm it up.

    Args:
        source: checkout of IC3Net/IC3Net.
        task: of TASKS.
        agents, actions, limit: of the level: how many, how many each, steps of an episode.
        words: the level's other settings, in the words of its command line.
    """
    sys.path.insert(0, str(Path(source) / "ic3net-envs"))
    module, name, count = TASKS[task]
    env = getattr(__import__(f"ic3net_envs.{module}", fromlist=[name]), name)()
    parser = argparse.ArgumentParser()
    env.init_args(parser)
    settings = parser.parse_args(words)
    setattr(settings, count, agents)
    env.multi_agent_init(settings)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what its code draws from
    rng = np.random.default_rng(0)
    obs = env.reset()
    t = 0

    def step() -> int:
        nonlocal t
        over = env.step(rng.integers(actions, size=agents))[2]
        t += 1
        if over or t == limit:  # its trainer ends an episode at the limit
            env.reset()
            t = 0
        return 1

    timed(step, 0.2)
    facts = {"agents": len(obs), "version": np.__version__}
    return lambda seconds: timed(step, seconds) | {"envs": 1}, facts


if __name__ == "__main__":
    serve(prepare)
