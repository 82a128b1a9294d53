"""Data sets of finite worlds for the learners' tests."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from marl import momdp
from marl.datasets import Episode, memory_of
from marl.envs.momdp import Config as World

CPU, GAMMA = torch.device("cpu"), 0.9


class Data:
    """Episodes of a finite world, as trajectories, as an estimate and as a memory."""

    def __init__(self, world: World, behaviour: str = "mixture", episodes: int = 100, seed: int = 0) -> None:
        self.world, tables = world, world.tables()
        self.S, self.A, self.K = tables.model.sizes
        policy = momdp.behaviour(tables.model, behaviour, gamma=GAMMA)
        rng = torch.Generator().manual_seed(seed)
        self.played = momdp.play(
            tables.model, tables.arrive_SK, policy, episodes=episodes, limit=world.limit, rng=rng
        )
        self.env = world.build(num_envs=1, device=CPU)
        self.spec, self.true = self.env.spec, tables.model

    def estimate(self):
        return momdp.estimate(self.played, self.S, self.A)

    def episodes(self):
        p = self.played
        for e in range(len(p.state_ET)):
            L = int(p.filled_ET[e].sum())
            state_US = F.one_hot(p.state_ET[e, : L + 1], self.S).float()
            yield Episode(
                obs_UNO=state_US[:, None],
                state_US=state_US,
                avail_UNA=torch.ones(L + 1, 1, self.A, dtype=torch.bool),
                alive_UN=torch.ones(L + 1, 1, dtype=torch.bool),
                actions_LN=p.action_ET[e, :L, None],
                reward_LK=p.reward_ETK[e, :L].float(),
                terminated=bool(p.terminated_E[e]),
            )

    def memory(self):
        return memory_of(self.spec, self.episodes(), CPU)


@pytest.fixture(scope="session")
def make_data():
    return Data
