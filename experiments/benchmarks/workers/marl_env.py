"""Our side of the benchmarks of worlds: `step` of a batch under a uniformly random available policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.workers.protocol import Measure, serve, timed
from marl import compose, runtime
from marl.rng import Rng
from marl.types import TimeStep


def policy(ts: TimeStep) -> Callable[[Tensor], Tensor]:
    """Random actions by what is available; of a world's first step.

    Where every action always is available, one uniform number an agent is enough.
    """
    B, N, A = ts.avail_BNA.shape
    if ts.avail_BNA.all():
        return lambda avail_BNA: torch.randint(A, (B, N))
    noise_BNA = torch.empty(B, N, A)
    # The largest of uniform numbers on (0, 1], zero where unavailable: a uniform choice.
    return lambda avail_BNA: torch.rand(B, N, A, out=noise_BNA).neg_().add_(1).mul_(avail_BNA).argmax(-1)


def prepare(*, words: list[str], envs: int, form: str | None, threads: int) -> tuple[Measure, dict[str, Any]]:
    """Build the batch and warm it up.

    Args:
        words: of a command line, env=<world> first.
        envs: batch size B.
        form: "native" (C++), "torch", or None for a world that has only one.
        threads: for the env and for torch.
    """
    torch.set_num_threads(threads)
    config = compose.compose([*words, *([f"env.form={form}"] if form else [])]).env
    env = config.build(num_envs=envs, device=torch.device("cpu"), threads=threads)
    ts = env.reset(Rng(0))
    choose, avail_BNA = policy(ts), ts.avail_BNA

    def step() -> int:
        nonlocal avail_BNA
        avail_BNA = env.step(choose(avail_BNA)).avail_BNA
        return envs

    timed(step, 0.2)
    facts = {"agents": ts.obs_BNO.shape[1], "obs": ts.obs_BNO.shape[2], "state": ts.state_BS.shape[1]}
    facts |= {"version": torch.__version__}
    return lambda seconds: timed(step, seconds) | {"envs": envs}, facts


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
