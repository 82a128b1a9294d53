"""One learner on one random process, beside the exact optimum of the same problem."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from marl import momdp
from marl.agents.fairdice import Config
from marl.agents.fairdice.tabular import Problem, newton
from marl.agents.fairdice.welfare import AlphaFair
from marl.datasets import Episode, memory_of
from marl.envs.momdp import Config as World
from marl.loops import OfflineConfig
from marl.rng import Rng

GAMMA, BETA, UPDATES = 0.95, 0.1, 2000  # CHOICE
STATES = 20  # CHOICE: fewer than the paper's 50, so that a run takes a minute


def learned(seed: int) -> dict[str, float]:
    """Nash welfare in the estimated process: of the learned policy, and of the exact one."""
    world = World(model=seed, states=STATES)
    tables, cpu = world.tables(), torch.device("cpu")
    S, A, _ = tables.model.sizes
    behaviour_SA = momdp.behaviour(tables.model, "mixture", gamma=GAMMA)
    rng = torch.Generator().manual_seed(seed)
    data = momdp.play(tables.model, tables.arrive_SK, behaviour_SA, episodes=100, limit=world.limit, rng=rng)
    model, data_SA = momdp.estimate(data, S, A)
    nash = AlphaFair(1.0)
    best = newton(
        Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=nash, divergence="soft_chi2", beta=BETA)
    )
    env = world.build(num_envs=1, device=cpu)
    config = Config(
        gamma=GAMMA,
        beta=BETA,
        advantage="mean",
        layers=0,
        scale_inputs=False,
        penalty=0.0,
        shift=False,
        learning_rate=0.1,
        mu_learning_rate=0.1,
        policy_decay=UPDATES,
    )
    agent = config.build(spec=env.spec, rng=Rng(seed, "agent"), device=cpu)
    loop = OfflineConfig(data=Path("in memory"), full=True, updates=100).build(
        env=env, agent=agent, rng=Rng(seed)
    )
    loop.use(memory_of(env.spec, _episodes(data, S, A), cpu))
    started = time.process_time()
    while loop.updates < UPDATES:
        loop.iterate()
    policy_SA = agent.policy.outputs(torch.eye(S)[:, None])[0][:, 0].softmax(-1).double().detach()
    policy_SA = policy_SA * (data_SA > 0)
    policy_SA = policy_SA / policy_SA.sum(-1, keepdim=True).clamp(min=1e-9)
    reached = momdp.returns(model, momdp.occupancy(model, policy_SA, GAMMA))
    return {
        "learned": float(nash.utility(reached / (1 - GAMMA)).sum()),
        "exact": float(nash.utility(best.return_K / (1 - GAMMA)).sum()),
        "mu_error": float((agent.weights_K.detach().double() / best.mu_K - 1).abs().max()),
        "cpu_s": time.process_time() - started,
    }


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
