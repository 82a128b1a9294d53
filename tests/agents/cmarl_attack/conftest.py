"""A small world, one step of it, and short runs of real teams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from marl import compose, train
from marl.rng import Rng, Stream
from marl.types import Discrete, EnvSpec, Slice, TimeStep
from tests.agents.cmarl_attack.hand import HandMade, relu_net


def _spec(N: int = 3, A: int = 4, O: int = 6, free: int = 5) -> EnvSpec:  # noqa: E741
    parts = (
        Slice(name="seen", start=0, stop=free - 1, low=0.0, high=1.0, kind="real"),
        Slice(name="flag", start=free - 1, stop=free, low=0.0, high=1.0, kind="binary"),
    )
    return EnvSpec(
        name="test",
        agents=tuple("abc"[:N]),
        agent_types=("any",) * N,
        obs_size=O,
        state_size=2,
        action_spaces=(Discrete(n=A),) * N,
        obs_slices={"any": parts},
        episode_limit=9,
    )


def _step(spec: EnvSpec, B: int = 5, seed: int = 0) -> TimeStep:
    g = torch.Generator().manual_seed(seed)
    N, A = spec.n_agents, spec.n_actions
    avail = torch.rand(B, N, A, generator=g) < 0.7
    avail[..., :2] = True
    no, yes = torch.zeros(B, dtype=torch.bool), torch.ones(B, N, dtype=torch.bool)
    return TimeStep(
        obs_BNO=torch.rand(B, N, spec.obs_size, generator=g),
        state_BS=torch.randn(B, spec.state_size, generator=g),
        avail_BNA=avail,
        terminated_B=no,
        truncated_B=no,
        present_BN=yes,
        alive_BN=yes,
        t_B=torch.zeros(B, dtype=torch.int64),
    )


@pytest.fixture
def spec() -> EnvSpec:
    return _spec()


@pytest.fixture
def ts(spec: EnvSpec) -> TimeStep:
    return _step(spec)


@pytest.fixture
def team(spec: EnvSpec) -> HandMade:
    return HandMade(spec, relu_net())


@pytest.fixture
def stream() -> Stream:
    return Rng(0).stream("act", 5)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run of a few steps, made once for its words."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*words: str) -> Path:
        if words not in made:
            folder = tmp_path_factory.mktemp("runs")
            quick = ["logger=none", "video=false", "threads=1", "num_envs=2", "total_steps=20"]
            quick += [
                "evaluation.episodes=1",
                "evaluation.final_episodes=0",
                f"runs_dir={folder}",
                "run_id=run",
            ]
            train.run(compose.compose([*quick, *words]))
            made[words] = folder / "run"
        return made[words]

    return make
