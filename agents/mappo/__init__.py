"""MAPPO: PPO with a critic that sees the state of the world, while actors see their own observations.

| symbol | name here | meaning |
|---|---|---|
| pi(u_i | tau_i) | actor of marl.policy | policy of agent i given its own history |
| V(s, o_i, i) | critic of marl.policy, central=True | value for agent i given state, its observation and id |

L = policy_loss - c_H entropy for the actor and value_loss for the critic (marl/policy/losses.py).
CHOICE: the critic's input is the world's state beside the agent's observation and id, zeros and the id for
an agent that cannot act (death masking); the paper's agent-specific state holds the same for SMAC.

Reference: Yu et al., "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games", NeurIPS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from marl.policy import PolicyConfig, PolicyTeam
from marl.rng import Rng
from marl.types import EnvSpec


@dataclass(kw_only=True)
class Config(PolicyConfig):
    """MAPPO has no hyper-parameters of its own."""

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> PolicyTeam:
        return PolicyTeam(spec, self, central=True, rng=rng, device=device)
