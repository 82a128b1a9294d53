"""A team and scores that are written by hand, and the small victim and adversary of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from marl.agents.cmarl_attack import Config, Learner
from marl.rng import Stream
from marl.types import Act, Carry, EnvSpec, Link, TimeStep

CPU = torch.device("cpu")
BATTLE = ("env=battle/3m", "agent=qmix", "agent.hidden=16")  # a small victim


class HandMade:
    """Every agent's scores are one function of its observation; remembers the observations it acted on."""

    extras_spec: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, spec: EnvSpec, scores: Callable[[Tensor], Tensor]) -> None:
        self.spec, self.function, self.device = spec, scores, CPU

    def initial_carry(self, rows: int) -> Carry:
        return {
            "seen_BNO": torch.zeros(rows, self.spec.n_agents, self.spec.obs_size),
            "last_action_BN": torch.full((rows, self.spec.n_agents), -1),
        }

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        return self.function(ts.obs_BNO)

    def joint_value(self, ts: TimeStep, carry: Carry, actions_BN: Tensor) -> Tensor:
        """Not monotonic: the sum of the agents' scores, but agent 0's action 2 is worth -100."""
        q_BN = self.scores(ts, carry).gather(-1, actions_BN[..., None]).squeeze(-1)
        return (q_BN.sum(-1) - 100.0 * (actions_BN[:, 0] == 2))[:, None]

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        actions_BN = self.scores(ts, carry).masked_fill(~ts.avail_BNA, -torch.inf).argmax(-1)
        return Act(actions_BN=actions_BN, carry={"seen_BNO": ts.obs_BNO, "last_action_BN": actions_BN})

    def state_dict(self) -> dict[str, Any]:
        return {}


def relu_net(inputs: int = 6, actions: int = 4, seed: int = 0) -> Callable[[Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randn(16, inputs, generator=g), torch.randn(actions, 16, generator=g)
    return lambda x: torch.relu(x @ first.T) @ second.T


def attack_config(**learner: Any) -> Config:
    """OWR by direct control with an adversary that is trained in a moment. Args: as of `Learner`."""
    small = {"total_steps": 60, "num_envs": 2, "hidden": 8} | learner
    if small.get("kind") != "sb3":
        small |= {"explore_steps": 50, "update_ratio": 0.2}
    return Config(choose="owr", force="control", learner=Learner(**small))
