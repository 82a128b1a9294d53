"""The recurrent action-value network of PyMARL: Linear, ReLU, GRU, Linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.nets import GRU, agent_inputs, linear
from marl.types import EnvSpec
from marl.value.config import ValueConfig


class RecurrentQ(nn.Module):
    """Q_i(tau_i, .) from [o, last action one-hot, agent id one-hot] (the latter two by choice).

    Args:
        spec: sizes of the world.
        config: hidden size, sharing, which one-hots are in the input.
        generator: source of the initial weights.
    """

    def __init__(self, spec: EnvSpec, config: ValueConfig, generator: torch.Generator) -> None:
        super().__init__()
        N, A, copies = spec.n_agents, spec.n_actions, None if config.share else spec.n_agents
        self.last_action, self.n_actions = config.last_action, A
        inputs = spec.obs_size + A * config.last_action + N * config.agent_ids
        self.encoder = linear(inputs, config.hidden, generator=generator, copies=copies)
        self.core = GRU(config.hidden, config.hidden, generator=generator, copies=copies)
        self.head = linear(config.hidden, A, generator=generator, copies=copies)
        self.agent_ids = config.agent_ids

    def inputs(self, obs: Tensor, last_action: Tensor) -> Tensor:
        """The network's input rows (..., N, I), differentiable in the observation.

        Args:
            obs: (..., N, O).
            last_action: int64 (..., N), -1 for none.
        """
        last = last_action if self.last_action else None
        return agent_inputs(obs, last, actions=self.n_actions, ids=self.agent_ids)

    def states(self, x_BTNI: Tensor, start_BT: Tensor) -> Tensor:
        """States of whole sequences, (B, T, N, H); zero before entries that start.

        Args:
            x_BTNI: of `inputs`.
            start_BT: bool.
        """
        return self.core(self.encoder(x_BTNI, relu=True), start_BT)

    def forward(self, x_BTNI: Tensor, start_BT: Tensor) -> Tensor:
        """Q-values of whole sequences, (B, T, N, A). Args: as `states`."""
        return self.head(self.states(x_BTNI, start_BT))

    def step(self, x_BNI: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Q-values (B, N, A) of one entry, and the state after it (B, N, H)."""
        h_BNH = self.core.step(self.encoder(x_BNI, relu=True), h_BNH)
        return self.head(h_BNH), h_BNH
