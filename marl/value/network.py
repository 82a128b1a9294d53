"""The recurrent action-value network of PyMARL: Linear, ReLU, GRU, Linear."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.nets import GRU, kernels, linear
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
        if kernels.usable(obs) and not obs.requires_grad:
            uses = {"use_last_action": self.last_action, "use_ids": self.agent_ids}
            return kernels.agent_inputs(obs, last_action, actions=self.n_actions, **uses)
        parts = [obs]
        if self.last_action:  # index A of "none" falls off the end
            A = self.n_actions
            parts.append(F.one_hot(last_action.remainder(A + 1), A + 1)[..., :A].to(obs.dtype))
        if self.agent_ids:
            N = obs.shape[-2]
            parts.append(torch.eye(N, dtype=obs.dtype, device=obs.device).expand(*obs.shape[:-1], N))
        return torch.cat(parts, -1)

    def forward(self, x_BTNI: Tensor, start_BT: Tensor) -> Tensor:
        """Q-values of whole sequences, (B, T, N, A); the state is zero before entries that start.

        Args:
            x_BTNI: of `inputs`.
            start_BT: bool.
        """
        return self.head(self.core(self.encoder(x_BTNI, relu=True), start_BT))

    def step(self, x_BNI: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Q-values (B, N, A) of one entry, and the state after it (B, N, H)."""
        h_BNH = self.core.step(self.encoder(x_BNI, relu=True), h_BNH)
        return self.head(h_BNH), h_BNH
