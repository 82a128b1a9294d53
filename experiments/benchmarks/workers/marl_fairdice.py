"""Our side of FairDICE's benchmark: the offline loop over random episodes of the same sizes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from experiments.benchmarks.workers.protocol import Measure, serve, steady
from marl import runtime
from marl.agents.fairdice import Config
from marl.datasets import Episode, memory_of
from marl.loops import BatchConfig, OfflineConfig
from marl.rng import Rng
from marl.types import Box, EnvSpec

LIMIT = 500  # steps of an episode, D4MORL's
CPU = torch.device("cpu")


def prepare(
    *, hidden: int, layers: int, obs: int, actions: int, objectives: int, rows: int, chunk: int, threads: int
) -> tuple[Measure, dict[str, Any]]:
    """Fill the memory, build the learner, warm up. Args: as of fairdice_jax.py; threads: of torch."""
    torch.set_num_threads(threads)
    spec = EnvSpec(
        name="robot",
        agents=("robot",),
        agent_types=("robot",),
        obs_size=obs,
        state_size=obs,
        action_spaces=(Box(low=(-1.0,) * actions, high=(1.0,) * actions),),
        reward="vector",
        objectives=tuple(f"objective_{k}" for k in range(objectives)),
        episode_limit=LIMIT,
    )
    config = Config(hidden=hidden, layers=layers, starts="transition", ends="official", policy_decay=100_000)
    world: Any = SimpleNamespace(spec=spec, device=CPU)
    agent = config.build(spec=spec, rng=Rng(0, "agent"), device=CPU)
    batch = BatchConfig(sequences=256, length=2, starts="any")
    loop = OfflineConfig(data=Path("in memory"), updates=chunk, batch=batch).build(
        env=world, agent=agent, rng=Rng(0)
    )
    generator = torch.Generator().manual_seed(0)
    loop.use(memory_of(spec, [_episode(spec, generator) for _ in range(rows // LIMIT)], CPU))

    def update() -> int:
        loop.iterate()
        return chunk

    return steady(update), {"version": torch.__version__}


def _episode(spec: EnvSpec, generator: torch.Generator) -> Episode:
    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    state_US = uniform(LIMIT + 1, spec.state_size)
    return Episode(
        obs_UNO=state_US[:, None],
        state_US=state_US,
        avail_UNA=torch.ones(LIMIT + 1, 1, spec.n_actions, dtype=torch.bool),
        alive_UN=torch.ones(LIMIT + 1, 1, dtype=torch.bool),
        actions_LN=uniform(LIMIT, 1, spec.n_actions),
        reward_LK=uniform(LIMIT, len(spec.objectives)),
        terminated=False,
    )


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
