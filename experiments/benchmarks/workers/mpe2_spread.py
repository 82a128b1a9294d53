"""The side of MPE2 in the navigation benchmark: one simple_spread_v3, all that it steps at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpe2 import simple_spread_v3

from experiments.benchmarks.workers.protocol import Measure, serve, timed


def prepare() -> tuple[Measure, dict[str, Any]]:
    """Build the environment and warm it up."""
    env = simple_spread_v3.parallel_env()
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> int:
        env.step(dict(zip(env.agents, rng.integers(5, size=3).tolist(), strict=True)))
        if not env.agents:
            env.reset()
        return 1

    timed(step, 0.2)
    facts = {"agents": 3, "obs": obs["agent_0"].shape[-1], "version": np.__version__}
    return lambda seconds: timed(step, seconds) | {"envs": 1}, facts


if __name__ == "__main__":
    serve(prepare)
