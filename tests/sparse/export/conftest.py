"""Teams of every kind with weights that decide something, and policies with grouped layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from marl import compose
from marl.rng import Rng
from marl.sparse import Layout
from marl.sparse.export.layers import Grouped
from marl.sparse.export.policy import SCORES, Field, Policy, Step

CPU = torch.device("cpu")


def _team(*words: str) -> tuple[Any, Any]:
    """The env's Config and a team whose weights are far from their first ones."""
    cfg = compose.compose([*words, "agent.hidden=16"])
    spec = cfg.env.build(num_envs=1, device=CPU, threads=1).spec
    team = cfg.agent.build(spec=spec, rng=Rng(0).child("agent"), device=CPU)
    generator = torch.Generator().manual_seed(1)
    state = team.state_dict()
    for value in state["networks"].values():
        if value.dtype == torch.float32:
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    team.load_state_dict(state)
    return cfg.env, team


@pytest.fixture
def make_team() -> Callable[..., tuple[Any, Any]]:
    return _team


def grouped(inputs: int, outputs: int, groups: int, activation: str = "none", seed: int = 0) -> Grouped:
    """A layer with random groups, the last one without inputs and the first without outputs."""
    generator = torch.Generator().manual_seed(seed)
    group_in = torch.randint(max(1, groups - 1), (inputs,), generator=generator)
    group_out = torch.randint(min(1, groups - 1), groups, (outputs,), generator=generator)
    layout = Layout.of(group_in, group_out, groups)
    small = torch.uint8 if groups <= 256 else torch.int16
    tensors = {
        "packed": torch.randn(layout.nnz, generator=generator),
        "bias": torch.randn(outputs, generator=generator),
        "group_in": group_in.to(small),
        "group_out": group_out.to(small),
    }
    settings = {
        "inputs": inputs,
        "outputs": outputs,
        "groups": groups,
        "copies": None,
        "activation": activation,
    }
    return Grouped(settings, tensors)


def _grouped_policy(hidden: int = 12, groups: int = 3) -> Policy:
    """Two agents: a grouped layer, a grouped LSTM, grouped scores."""
    layers = {
        "encoder": grouped(5, hidden, groups, "relu", 1),
        "core_input": grouped(hidden, 4 * hidden, groups, seed=2),
        "core_recurrent": grouped(hidden, 4 * hidden, groups, seed=3),
        "head": grouped(hidden, 4, groups, seed=4),
    }
    inputs = [
        Field(name="obs_BNO", shape=(2, 5)),
        Field(name="h_BNH", shape=(2, hidden), next="next_h_BNH"),
        Field(name="c_BNH", shape=(2, hidden), next="next_c_BNH"),
    ]
    state = ("next_h_BNH", "next_c_BNH")
    steps = [
        Step(op="layer", reads=("obs_BNO",), makes=("e",), layers=("encoder",)),
        Step(op="lstm", reads=("e", "h_BNH", "c_BNH"), makes=state, layers=("core_input", "core_recurrent")),
        Step(op="layer", reads=("next_h_BNH",), makes=(SCORES,), layers=("head",)),
    ]
    return Policy(inputs, (SCORES, *state), steps, layers, {"run_id": "made"}).eval()


@pytest.fixture
def make_grouped() -> Callable[..., Grouped]:
    return grouped


@pytest.fixture
def make_grouped_policy() -> Callable[..., Policy]:
    return _grouped_policy
