"""One training run until it wins 95 % of its games, timed without its evaluations."""

from __future__ import annotations

import time
from typing import Any

import torch

from experiments.benchmarks.workers.protocol import Measure, serve
from marl import runtime
from marl.compose import compose
from marl.evaluate import evaluate
from marl.process import prepare_process
from marl.rng import Rng

EPISODES, CONFIRM = 32, 320  # of an evaluation, and of the fresh ones that must confirm it
WINS = 0.95


def prepare(
    *, overrides: list[str], seed: int, threads: int, every_steps: int
) -> tuple[Measure, dict[str, Any]]:
    """Build the run; every measurement asked for goes on until the next evaluation.

    Args:
        overrides: words as of `marl train`.
        seed: of the run.
        threads: for env and torch.
        every_steps: team steps between two evaluations.
    """
    cfg = compose([*overrides, f"seed={seed}", f"threads={threads}", "logger=none"])
    prepare_process(cfg)
    start = time.perf_counter()
    rng, device = Rng(cfg.seed), torch.device("cpu")
    env = cfg.env.build(num_envs=cfg.num_envs, device=device, threads=threads)
    agent = cfg.agent.build(spec=env.spec, rng=rng.child("agent"), device=device)
    loop = cfg.loop.build(env=env, agent=agent, rng=rng.child("loop"))
    train_s, evaluate_s = time.perf_counter() - start, 0.0

    def wins(episodes: int, *names: str) -> float:
        measured = evaluate(
            agent, cfg.env, episodes=episodes, rng=Rng(seed, *names), device=device, threads=threads
        )
        assert measured.success_E is not None
        return float(measured.success_E.mean())

    def measure(_: float) -> dict[str, Any]:
        nonlocal train_s, evaluate_s
        start = time.perf_counter()
        goal = loop.steps + every_steps
        while loop.steps < goal:
            loop.iterate()
        trained = time.perf_counter()
        share = wins(EPISODES, "evaluation")
        # Other episodes at every try: the best of many tries on the same ones would flatter.
        confirmed = wins(CONFIRM, "confirm", str(loop.steps)) if share >= WINS else None
        train_s += trained - start
        evaluate_s += time.perf_counter() - trained
        return {
            "steps": loop.steps,
            "updates": loop.updates,
            "train_s": train_s,
            "evaluate_s": evaluate_s,
            "wins_32": share,
            "wins_320": confirmed,
        }

    return measure, {}


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
