"""Our side of the environment benchmark: `step` of a batch under a uniformly random available policy."""

from __future__ import annotations

from typing import Any

import torch

from experiments.benchmarks.workers.protocol import Measure, serve, timed
from marl import runtime
from marl.envs.battle import Config
from marl.rng import Rng


def prepare(*, map: str, envs: int, form: str, threads: int) -> tuple[Measure, dict[str, Any]]:
    """Build the batch and warm it up.

    Args:
        map: name of a battle map.
        envs: batch size B.
        form: "native" (C++) or "torch".
        threads: for the env and for torch.
    """
    torch.set_num_threads(threads)
    env = Config(map=map, form=form).build(  # type: ignore[arg-type]
        num_envs=envs, device=torch.device("cpu"), threads=threads
    )
    ts = env.reset(Rng(0))
    noise_BNA = torch.empty(ts.avail_BNA.shape)
    avail_BNA = ts.avail_BNA

    def step() -> int:
        nonlocal avail_BNA
        # The largest of uniform numbers on (0, 1], zero where unavailable: a uniform choice.
        actions_BN = torch.rand(noise_BNA.shape, out=noise_BNA).neg_().add_(1).mul_(avail_BNA).argmax(-1)
        avail_BNA = env.step(actions_BN).avail_BNA
        return envs

    timed(step, 0.2)
    facts = {"agents": ts.obs_BNO.shape[1], "obs": ts.obs_BNO.shape[2], "state": ts.state_BS.shape[1]}
    return lambda seconds: timed(step, seconds), facts | {"version": torch.__version__}


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
