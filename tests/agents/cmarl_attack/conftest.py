"""A small world, one step of it, and short runs of real teams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

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


@pytest.fixture
def spec() -> EnvSpec:
    return _spec()


@pytest.fixture
def ts(spec: EnvSpec, make_step: Callable[..., TimeStep]) -> TimeStep:
    """Five worlds; observations within their range, the first two actions always available."""
    step = make_step(spec, 5)
    avail_BNA = step.avail_BNA.clone()
    avail_BNA[..., :2] = True
    return replace(step, obs_BNO=step.obs_BNO.sigmoid(), avail_BNA=avail_BNA)


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
