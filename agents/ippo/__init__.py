"""IPPO: every agent learns with PPO from its own observation alone.

| symbol | name here | meaning |
|---|---|---|
| pi(u_i | tau_i) | actor of marl.policy | policy of agent i given its own history |
| V(tau_i) | critic of marl.policy | value of agent i's own history |

L = policy_loss - c_H entropy for the actor and value_loss for the critic (marl/policy/losses.py), both
means over agents, with weights shared between agents or not.

Reference: de Witt et al., "Is Independent Learning All You Need in the StarCraft Multi-Agent Challenge?",
2020; networks and hyper-parameters of Yu et al., NeurIPS 2022, whose code runs both IPPO and MAPPO.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from marl.policy import PolicyConfig, PolicyTeam
from marl.rng import Rng
from marl.types import EnvSpec


@dataclass(kw_only=True)
class Config(PolicyConfig):
    """IPPO has no hyper-parameters of its own."""

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> PolicyTeam:
        return PolicyTeam(spec, self, central=False, rng=rng, device=device)
