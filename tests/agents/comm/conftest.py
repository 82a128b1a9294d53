"""Rollouts of a talking team as the on-policy loop makes them, and a world that cannot be played mute."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from marl.rng import Stream
from marl.types import Discrete, EnvSpec, TimeStep

CPU = torch.device("cpu")


@dataclass(kw_only=True)
class SignalConfig:
    """A speaker sees a symbol, which the listener must name in the last step."""

    symbols: int = 3
    limit: int = 2

    def build(self, *, num_envs, device, threads=1):
        return Signal(self, num_envs)


class Signal:
    """Episodes of `limit` steps; 1 for the listener when it names the symbol in the last step."""

    def __init__(self, config, num_envs):
        self.config, self.num_envs, self.device = config, num_envs, CPU
        K = config.symbols
        self.spec = EnvSpec(
            name="signal",
            agents=("speaker", "listener"),
            agent_types=("any",) * 2,
            obs_size=K + 1,
            state_size=K,
            action_spaces=(Discrete(n=K),) * 2,
            reward="team",
            episode_limit=config.limit,
        )

    def reset(self, rng):
        self.key_B = rng.stream("symbol", self.num_envs).key_B
        self.episode_B, self.t_B = torch.zeros_like(self.key_B), torch.zeros_like(self.key_B)
        return self._timestep(torch.zeros(self.num_envs))

    def _look(self):
        K = self.config.symbols
        self.symbol_B = Stream(self.key_B).fold(self.episode_B).integers(K)
        seen_BK = F.one_hot(self.symbol_B, K).float() * (self.t_B == 0)[:, None]
        obs_BNO = torch.zeros(self.num_envs, 2, K + 1)
        obs_BNO[:, 0, :K], obs_BNO[:, 1, K] = seen_BK, 1.0
        return obs_BNO

    def step(self, actions_BN):
        last_B = self.t_B + 1 == self.config.limit
        reward_B = ((actions_BN[:, 1] == self.symbol_B) & last_B).float()
        self.t_B = torch.where(last_B, 0, self.t_B + 1)
        self.episode_B = self.episode_B + last_B
        ts = self._timestep(reward_B)
        ts.terminated_B = last_B
        ts.final_obs_BNO, ts.final_state_BS = ts.obs_BNO, ts.state_BS
        ts.final_avail_BNA = ts.avail_BNA
        return ts

    def _timestep(self, reward_B):
        obs_BNO, yes_BN = self._look(), torch.ones(self.num_envs, 2, dtype=torch.bool)
        no_B = torch.zeros(self.num_envs, dtype=torch.bool)
        return TimeStep(
            obs_BNO=obs_BNO,
            state_BS=obs_BNO[:, 0, :-1],
            avail_BNA=yes_BN[..., None].expand(-1, -1, self.config.symbols),
            terminated_B=no_B,
            truncated_B=no_B,
            present_BN=yes_BN,
            alive_BN=yes_BN,
            t_B=self.t_B,
            reward_B=reward_B,
        )


@pytest.fixture
def signal():
    return SignalConfig


@pytest.fixture
def make_rollout(make_batch):
    """A batch that may begin in mid-episode with any carry; half of the wanted messages arrived."""

    def make(spec, *, B=4, T=14, seed=0, hidden=8, rounds=1):
        batch = make_batch(spec, B=B, T=T, seed=seed)
        g = torch.Generator().manual_seed(seed + 1)
        N = spec.n_agents

        def coin(*shape):
            return torch.rand(*shape, generator=g) < 0.5

        batch.start_BT[::2, 0] = False
        for name in ("h", "c"):
            batch.extras[f"carry.{name}_BNH"] = torch.randn(B, N, hidden, generator=g)
        batch.extras["carry.gate_BN"] = coin(B, N)
        batch.alive_BTN = torch.rand(B, T, N, generator=g) < 0.8
        filled_BT1 = batch.filled_BT[..., None]
        alive_BTNN = batch.alive_BTN[..., None] & batch.alive_BTN[..., None, :] & ~torch.eye(N).bool()
        arrived = coin(B, T, rounds, N, N) & alive_BTNN[:, :, None]
        batch.extras["delivered"] = arrived & filled_BT1[..., None, None]
        batch.extras["gate"] = coin(B, T, N) & filled_BT1
        batch.extras["left"] = (torch.rand(B, T, N, generator=g) < 0.1) & filled_BT1
        batch.reward_BT = torch.where(batch.filled_BT, batch.reward_BT, 0.0)
        if spec.reward == "agent":
            batch.agent_reward_BTN = torch.randn(B, T, N, generator=g) * filled_BT1
            batch.reward_BT = None
        return batch

    return make


@pytest.fixture
def make_talk(make_batch):
    """A batch of the memory with what talking teams store: half of the messages arrived."""

    def make(spec, *, seed=0, **shape):
        batch = make_batch(spec, seed=seed, **shape)
        g, N = torch.Generator().manual_seed(seed + 7), spec.n_agents
        B, T = batch.filled_BT.shape
        filled_BT1 = batch.filled_BT[..., None]
        scheduled = torch.randint(N, (B, T, 1), generator=g) == torch.arange(N)
        arrived = (torch.rand(B, T, N, N, generator=g) < 0.5) & ~torch.eye(N).bool()
        batch.extras = {
            "delivered": arrived & filled_BT1[..., None],
            "scheduled": scheduled & filled_BT1,
            "weight": torch.rand(B, T, N, generator=g) * filled_BT1,
            "average": torch.rand(B, T, N, generator=g) * filled_BT1,
        }
        return batch

    return make
