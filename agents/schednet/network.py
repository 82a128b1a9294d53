"""SchedNet's networks: agents that listen to the scheduled, the weight generator, the critic of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.agents.schednet.config import Config
from marl.nets import MLP, linear
from marl.types import EnvSpec
from marl.value import RecurrentQ


class SchedQ(RecurrentQ):
    """Q_i from its own input, what the scheduled agents say, and its own past schedule.

    The first layer is PyMARL's on a longer input; messages depend on observations alone, so that whole
    sequences are computed at once.

    Args:
        spec: sizes of the world.
        config: hidden sizes, sharing, message size.
        generator: source of the initial weights.
    """

    def __init__(self, spec: EnvSpec, config: Config, generator: torch.Generator) -> None:
        super().__init__(spec, config, generator)
        N, L, D = spec.n_agents, config.message or spec.n_actions, config.narrow
        copies = None if config.share else N
        self.obs_size = spec.obs_size
        inputs = self.encoder.weight.shape[-1] + N * L + 1
        self.encoder = linear(inputs, config.hidden, generator=generator, copies=copies)
        self.speaker = MLP((spec.obs_size, D, D, L), generator=generator, copies=copies)

    def say(self, x: Tensor) -> Tensor:
        """m_j (..., N, L). Args: x: input rows (..., N, I), observations first."""
        said: Tensor = torch.relu(self.speaker(x[..., : self.obs_size]))
        return said

    def hear(self, x: Tensor, received: Tensor, average: Tensor) -> Tensor:
        """The first layer's output.

        Args:
            x: input rows (..., N, I).
            received: (..., receiver, sender, L); 0 where nothing came.
            average: a_i, (..., N).
        """
        return self.encoder(torch.cat([x, received.flatten(-2), average[..., None]], -1), relu=True)

    def states_of(self, e_BTNH: Tensor, start_BT: Tensor) -> Tensor:
        """States of whole sequences, of which values are `head`. Args: e_BTNH: of `hear`."""
        return self.core(e_BTNH, start_BT)

    def values_step(self, e_BNH: Tensor, h_BNH: Tensor) -> tuple[Tensor, Tensor]:
        """Q-values of one entry, and the state after it."""
        h_BNH = self.core.step(e_BNH, h_BNH)
        return self.head(h_BNH), h_BNH


class WeightGenerator(nn.Module):
    """w_i = sigma(MLP(o_i))."""

    def __init__(self, spec: EnvSpec, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        copies = None if config.share else spec.n_agents
        sizes = (spec.obs_size, config.narrow, config.narrow, 1)
        self.layers = MLP(sizes, generator=generator, copies=copies)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., N, O) to (..., N)."""
        return torch.sigmoid(self.layers(obs)).squeeze(-1)


class Critic(nn.Module):
    """Q(s, w): three layers on the state and all past schedules, of which the second branches off to w."""

    def __init__(self, spec: EnvSpec, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        S, N, D = spec.state_size, spec.n_agents, config.critic_hidden
        self.first = linear(S + N, D, generator=generator)
        self.second = linear(D, D, generator=generator)
        self.branch = MLP((D + N, D, 1), generator=generator)

    def forward(self, state: Tensor, average: Tensor, weight: Tensor) -> Tensor:
        """(..., S), (..., N) and (..., N) to (..., 1)."""
        hidden = self.first(torch.cat([state, average], -1), relu=True)
        hidden = self.second(hidden, relu=True)
        value: Tensor = self.branch(torch.cat([hidden, weight], -1))
        return value


def schedule_of(weight: Tensor, may: Tensor, k: int) -> Tensor:
    """The k agents of largest weight, bool (..., N); fewer where fewer may talk.

    Args:
        weight: (..., N).
        may: bool (..., N); who may be scheduled at all.
        k: how many.
    """
    most = min(k, weight.shape[-1])
    chosen = weight.masked_fill(~may, -torch.inf).topk(most, -1).indices
    return torch.zeros_like(may).scatter(-1, chosen, True) & may
