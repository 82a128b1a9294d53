"""The side of vmas in the navigation benchmark: its simple_spread in batched torch, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
import vmas

from experiments.benchmarks.workers.protocol import Measure, serve, timed

LIMIT = 25


def prepare(*, envs: int, threads: int, continuous: bool = True) -> tuple[Measure, dict[str, Any]]:
    """Build the batch and warm it up.

    Args:
        envs: batch size B.
        threads: for torch.
        continuous: kind of its actions; continuous ones are its default, and faster.
    """
    torch.set_num_threads(threads)
    env = vmas.make_env("simple_spread", num_envs=envs, device="cpu", continuous_actions=continuous, seed=0)
    obs = env.reset()
    t = 0

    def step() -> int:
        nonlocal t
        env.step(env.get_random_actions())
        t += 1
        if t % LIMIT == 0:  # all envs start together, so they end together, too
            env.reset()
        return envs

    timed(step, 0.2)
    facts = {"agents": len(obs), "obs": obs[0].shape[-1], "version": torch.__version__}
    return lambda seconds: timed(step, seconds) | {"envs": envs}, facts


if __name__ == "__main__":
    serve(prepare)
