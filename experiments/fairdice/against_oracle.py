"""Learners on one random process, beside the exact optimum of the same problem."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from marl import momdp
from marl.agents.fairdice import Config
from marl.agents.fairdice.tabular import Problem, newton
from marl.agents.fairdice.team import FairDice
from marl.agents.fairdice.welfare import AlphaFair
from marl.datasets import Episode, memory_of
from marl.envs.momdp import Config as World
from marl.loops import OfflineConfig
from marl.loops.off_policy import BatchConfig
from marl.rng import Rng

GAMMA, BETA, UPDATES = 0.95, 0.1, 2000  # CHOICE
STATES = 20  # CHOICE: fewer than the paper's 50, so that a run takes a minute


_EXACT = {  # a table of nu and of logits, learned from all data at once: the oracle's own problem
    "advantage": "mean",
    "layers": 0,
    "scale_inputs": False,
    "penalty": 0.0,
    "shift": False,
    "learning_rate": 0.1,
    "mu_learning_rate": 0.1,
}
_NETWORK = {"hidden": 64, "layers": 2, "learning_rate": 0.001, "mu_learning_rate": 0.003}  # CHOICE
_BATCH = BatchConfig(sequences=256, length=2, starts="any")  # the default of agent=fairdice


def learned(seed: int) -> dict[str, float]:
    """Nash welfare in the estimated process: of the learned policy, and of the exact one."""
    case = _Case(seed)
    started = time.process_time()
    agent = case.learn(OfflineConfig(data=Path("in memory"), full=True, updates=100), _EXACT)
    return {
        "learned": case.reached(agent),
        "exact": case.exact,
        "mu_error": float((agent.weights_K.detach().double() / case.best.mu_K - 1).abs().max()),
        "cpu_s": time.process_time() - started,
    }


def sampled(seed: int) -> dict[str, float]:
    """The same of a small network that learns from samples of 256 transitions, the policy's weights shifted
    by the largest of each or not; and the behaviour's."""
    case = _Case(seed)
    loop = OfflineConfig(data=Path("in memory"), updates=100, batch=_BATCH)
    by_shift = {
        name: case.reached(case.learn(loop, {**_NETWORK, "shift": shift}))
        for name, shift in (("shifted", True), ("unshifted", False))
    }
    return {"behaviour": case.welfare(case.data_SA), **by_shift, "exact": case.exact}


class _Case:
    """A random process, data of half-way optimal behaviour in it, and the optimum of what they tell."""

    def __init__(self, seed: int) -> None:
        self.seed, self.world = seed, World(model=seed, states=STATES)
        tables = self.world.tables()
        self.S, self.A, _ = tables.model.sizes
        behaviour_SA = momdp.behaviour(tables.model, "mixture", gamma=GAMMA)
        rng, limit = torch.Generator().manual_seed(seed), self.world.limit
        self.data = momdp.play(
            tables.model, tables.arrive_SK, behaviour_SA, episodes=100, limit=limit, rng=rng
        )
        self.model, self.data_SA = momdp.estimate(self.data, self.S, self.A)
        problem: Any = {"gamma": GAMMA, "welfare": AlphaFair(1.0), "divergence": "soft_chi2", "beta": BETA}
        self.best = newton(Problem(model=self.model, data_SA=self.data_SA, **problem))
        self.exact = self._nash(self.best.return_K)

    def learn(self, settings: OfflineConfig, words: dict[str, Any]) -> FairDice:
        cpu, env = torch.device("cpu"), self.world.build(num_envs=1, device=torch.device("cpu"))
        config = Config(gamma=GAMMA, beta=BETA, policy_decay=UPDATES, **words)
        agent = config.build(spec=env.spec, rng=Rng(self.seed, "agent"), device=cpu)
        loop = settings.build(env=env, agent=agent, rng=Rng(self.seed))
        loop.use(memory_of(env.spec, _episodes(self.data, self.S, self.A), cpu))
        while loop.updates < UPDATES:
            loop.iterate()
        return agent

    def reached(self, agent: FairDice) -> float:
        """Of its own probabilities, where the data have the action."""
        eye = agent.scaler.obs(torch.eye(self.S)[:, None])
        return self.welfare(
            agent.policy.outputs(eye)[0][:, 0].softmax(-1).double().detach() * (self.data_SA > 0)
        )

    def welfare(self, policy_SA: Tensor) -> float:
        """Args: policy_SA: its rows need not sum to 1."""
        policy_SA = policy_SA / policy_SA.sum(-1, keepdim=True).clamp(min=1e-9)
        return self._nash(momdp.returns(self.model, momdp.occupancy(self.model, policy_SA, GAMMA)))

    def _nash(self, return_K: Tensor) -> float:
        return float((return_K / (1 - GAMMA)).log().sum())


def _episodes(data: momdp.Trajectories, S: int, A: int) -> list[Episode]:
    out = []
    for e in range(len(data.state_ET)):
        L = int(data.filled_ET[e].sum())
        state_US = F.one_hot(data.state_ET[e, : L + 1], S).float()
        out.append(
            Episode(
                obs_UNO=state_US[:, None],
                state_US=state_US,
                avail_UNA=torch.ones(L + 1, 1, A, dtype=torch.bool),
                alive_UN=torch.ones(L + 1, 1, dtype=torch.bool),
                actions_LN=data.action_ET[e, :L, None],
                reward_LK=data.reward_ETK[e, :L].float(),
                terminated=bool(data.terminated_E[e]),
            )
        )
    return out
