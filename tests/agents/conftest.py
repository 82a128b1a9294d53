"""Small worlds, ragged batches and time steps for the tests of agents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from marl.types import Batch, Discrete, EnvSpec, TimeStep


def _spec(N: int = 3, A: int = 5, O: int = 4, S: int = 6, **changes: object) -> EnvSpec:  # noqa: E741
    fields: dict[str, object] = {
        "name": "test",
        "agents": tuple(f"agent_{i}" for i in range(N)),
        "agent_types": ("any",) * N,
        "obs_size": O,
        "state_size": S,
        "action_spaces": (Discrete(n=A),) * N,
        "episode_limit": 9,
    }
    return EnvSpec(**(fields | changes))  # type: ignore[arg-type]


def _batch(spec: EnvSpec, B: int = 4, T: int = 14, seed: int = 0, run_on: bool = True) -> Batch:
    """Episodes of mixed length, some terminated and some truncated, as the memory lays them out.

    run_on: windows in which episode follows episode and the last is cut; else one episode per
    sequence, then padding full of NaN and of actions that do not exist.
    """
    g = torch.Generator().manual_seed(seed)
    N, A = spec.n_agents, spec.n_actions
    filled, start, terminated, truncated = (torch.zeros(B, T, dtype=torch.bool) for _ in range(4))
    end = torch.full((B,), T)
    for b in range(B):
        t = 0
        while t < T:
            length = int(torch.randint(1, 7, (), generator=g))
            start[b, t] = True
            filled[b, t : min(t + length, T - 1)] = True
            if t + length < T:  # the last transition lies inside the window
                cut = bool(torch.randint(2, (), generator=g))
                (truncated if cut else terminated)[b, t + length - 1] = True
            t += length + 1
            if not run_on:
                end[b] = min(t, T)
                break
    avail = torch.rand(B, T, N, A, generator=g) < 0.6
    avail.scatter_(-1, torch.randint(A, (B, T, N, 1), generator=g), True)
    actions = torch.multinomial(avail.reshape(-1, A).float(), 1, generator=g).reshape(B, T, N)
    batch = Batch(
        obs_BTNO=torch.randn(B, T, N, spec.obs_size, generator=g),
        state_BTS=torch.randn(B, T, spec.state_size, generator=g),
        avail_BTNA=avail,
        alive_BTN=torch.ones(B, T, N, dtype=torch.bool),
        actions_BTN=actions,
        last_actions_BTN=torch.where(start[..., None], -1, actions.roll(1, 1)),
        terminated_BT=terminated,
        truncated_BT=truncated,
        filled_BT=filled,
        start_BT=start,
        reward_BT=torch.randn(B, T, generator=g),
    )
    padding = torch.arange(T) >= end[:, None]
    batch.actions_BTN[~filled] = 0
    batch.avail_BTNA[padding] = False
    assert batch.reward_BT is not None
    batch.reward_BT[~filled] = torch.nan  # no reward was ever given here: it must never be read
    return batch


def _step(spec: EnvSpec, B: int = 2, seed: int = 0) -> TimeStep:
    g = torch.Generator().manual_seed(seed)
    N, A = spec.n_agents, spec.n_actions
    avail = torch.rand(B, N, A, generator=g) < 0.6
    avail.scatter_(-1, torch.randint(A, (B, N, 1), generator=g), True)
    no, yes = torch.zeros(B, dtype=torch.bool), torch.ones(B, N, dtype=torch.bool)
    return TimeStep(
        obs_BNO=torch.randn(B, N, spec.obs_size, generator=g),
        state_BS=torch.randn(B, spec.state_size, generator=g),
        avail_BNA=avail,
        terminated_B=no,
        truncated_B=no,
        present_BN=yes,
        alive_BN=yes,
        t_B=torch.zeros(B, dtype=torch.int64),
    )


@pytest.fixture
def make_spec() -> Callable[..., EnvSpec]:
    return _spec


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return _batch


@pytest.fixture
def make_step() -> Callable[..., TimeStep]:
    return _step
