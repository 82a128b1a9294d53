"""Our side of the PPO benchmark: the on-policy loop, timed; or trained and evaluated before and after."""

from __future__ import annotations

import time
from typing import Any

import torch

from experiments.benchmarks.workers.protocol import Measure, serve, timed
from marl import runtime
from marl.compose import compose
from marl.evaluate import evaluate
from marl.process import prepare_process
from marl.rng import Rng, Stream
from marl.types import Act, Carry, Link, TimeStep

EPISODES = 320  # of an evaluation


class Untaught:
    """Teams that know nothing: all agents stand still, or each takes a uniformly random action."""

    def __init__(self, agents: int, actions: int, random: bool) -> None:
        self.agents, self.actions, self.random = agents, actions, random

    def initial_carry(self, rows: int) -> Carry:
        return {}

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        drawn_BN = rng.integers(self.actions, self.agents)
        return Act(actions_BN=drawn_BN if self.random else torch.zeros_like(drawn_BN), carry=carry)


def prepare(*, overrides: list[str], seed: int, threads: int, learn: int) -> tuple[Measure, dict[str, Any]]:
    """Build the run.

    Args:
        overrides: words as of `marl train`.
        seed: of the run.
        threads: for env and torch.
        learn: 0: every measurement times training. Team steps: one measurement evaluates the untrained
            team, trains so far and evaluates again.
    """
    cfg = compose([*overrides, f"threads={threads}", f"seed={seed}", "logger=none"])
    prepare_process(cfg)
    rng, device = Rng(cfg.seed), torch.device("cpu")
    env = cfg.env.build(num_envs=cfg.num_envs, device=device, threads=threads)
    agent = cfg.agent.build(spec=env.spec, rng=rng.child("agent"), device=device)
    loop = cfg.loop.build(env=env, agent=agent, rng=rng.child("loop"))
    returned: list[float] = []

    def iterate() -> int:
        before = loop.steps
        returned.append(loop.iterate()["train/return"])
        return int(loop.steps - before)

    def score(team: Any) -> float:
        """Mean return of the same greedy episodes each time."""
        rng = Rng(seed, "evaluation")
        done = evaluate(team, cfg.env, episodes=EPISODES, rng=rng, device=device, threads=threads)
        return float(done.return_E.mean())

    def rate(seconds: float) -> dict[str, Any]:
        returned.clear()
        cpu = time.process_time()
        out = timed(iterate, seconds) | {"cpu_s": time.process_time() - cpu}
        return out | {"trained": loop.steps, "return": sum(returned) / len(returned)}

    def learning(_: float) -> dict[str, Any]:
        sizes = env.spec.n_agents, env.spec.n_actions
        untaught = {name: score(Untaught(*sizes, name == "random")) for name in ("still", "random")}
        before = score(agent)
        while loop.steps < learn:
            iterate()
        return {"steps": loop.steps, "before": before, "after": score(agent), **untaught}

    if not learn:
        for _ in range(3):
            iterate()
    sizes = {"agents": env.spec.n_agents, "obs": env.spec.obs_size, "actions": env.spec.n_actions}
    return learning if learn else rate, sizes | {"version": torch.__version__}


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
