"""Our side of the navigation benchmark: `step` of a batch under a uniformly random policy."""

from __future__ import annotations

from typing import Any

import torch

from experiments.benchmarks.workers.protocol import Measure, serve, timed
from marl import runtime
from marl.envs.navigation import Config
from marl.rng import Rng


def prepare(*, envs: int, form: str, threads: int) -> tuple[Measure, dict[str, Any]]:
    """Build the batch and warm it up.

    Args:
        envs: batch size B.
        form: "native" (C++) or "torch".
        threads: for the env and for torch.
    """
    torch.set_num_threads(threads)
    env = Config(form=form).build(  # type: ignore[arg-type]
        num_envs=envs, device=torch.device("cpu"), threads=threads
    )
    ts = env.reset(Rng(0))

    def step() -> int:
        env.step(torch.randint(5, (envs, 3)))
        return envs

    timed(step, 0.2)
    facts = {"agents": 3, "obs": ts.obs_BNO.shape[2], "version": torch.__version__}
    return lambda seconds: timed(step, seconds) | {"envs": envs}, facts


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
