"""Training with grouped layers from end to end: IC3Net and QMIX against their dense twins, Amdahl's bound.

A turn is acting and learning up to the next update, as `marl train` does them: a rollout and PPO's epochs
for IC3Net, 50 team steps and a batch for QMIX. Evaluation, logs and checkpoints stay outside. Sides take
turns in one process on one thread; `full` and `selected` are the two gradients of the mask.

`outside` is the share of a turn's time that is not spent in matrix products. It is taken in a turn of its own
under torch's profiler: products are torch's own, those of grouped layers (packing included) and the native
passes of marl/native that hold products. Those that fuse a recurrence with its products (GRU, tower) count
as products, elementwise parts and all, so that the share of a dense side is a lower bound, and Amdahl's
bound 1 / (outside + (1 - outside) / G) an upper one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.benchmarks import sparse_sides as sides
from experiments.benchmarks.interleave import Row
from marl import compose
from marl.nets import kernels
from marl.rng import Rng

TEAMS = {
    "ic3net": ("env=predator_prey_continuous", "env.reward=own", "agent=ic3net", "agent.learner=ppo"),
    "qmix": ("env=battle/3m", "agent=qmix"),
}
COMMON = ("logger=none", "threads=1", "num_envs=16")
OF_TEAM = {"ic3net": ("loop.rollout_steps=50",), "qmix": ()}
HIDDEN = (128, 512)
GROUPS = (4, 16)
TURNS = 7
WARM = 3  # turns before the first that counts
# What holds matrix products: operations of torch and of marl.sparse, and functions of marl/native.
OPERATIONS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "marl::grouped", "CppNode")
FUNCTIONS = ("marl_linear", "marl_tower", "marl_gru")


def make(team: str, hidden: int, *words: str) -> Callable[[], None]:
    """A team in training: every call is one turn."""
    all_words = (*TEAMS[team], *COMMON, *OF_TEAM[team], f"agent.hidden={hidden}", *words)
    cfg, cpu, rng = compose.compose(list(all_words)), torch.device("cpu"), Rng(0)
    env = cfg.env.build(num_envs=cfg.num_envs, device=cpu, threads=1)
    agent = cfg.agent.build(spec=env.spec, rng=rng.child("agent"), device=cpu)
    loop = cfg.loop.build(env=env, agent=agent, rng=rng.child("loop"))

    def turn() -> None:
        before = loop.updates
        while loop.updates == before:
            loop.iterate()

    return turn


def runs(team: str, hidden: int, groups: int) -> dict[str, Callable[[], None]]:
    """Dense and both grouped forms."""
    grouped = ("sparsity=grouped", f"groups={groups}", "agent.sparsity.balance=capacity")
    return {
        "dense": make(team, hidden),
        **{ste: make(team, hidden, *grouped, f"agent.sparsity.ste={ste}") for ste in ("full", "selected")},
    }


@contextmanager
def _timed_functions() -> Iterator[list[float]]:
    """Within, seconds of the native functions that hold products are appended to the list."""
    spent: list[float] = []
    original = kernels.call

    def call(name: str, *arguments: Any) -> None:
        start = time.perf_counter()
        original(name, *arguments)
        if name.startswith(FUNCTIONS):
            spent.append(time.perf_counter() - start)

    kernels.call = call
    try:
        yield spent
    finally:
        kernels.call = original


def outside(turn: Callable[[], None]) -> float:
    """Share of a turn's time that is not spent in matrix products."""
    with (
        torch.enable_grad(),
        _timed_functions() as spent,
        profile(activities=[ProfilerActivity.CPU]) as profiler,
    ):
        start = time.perf_counter()
        turn()
        total = time.perf_counter() - start
    events = profiler.key_averages()
    inside = sum(e.self_cpu_time_total for e in events if any(word in e.key for word in OPERATIONS)) * 1e-6
    return max(0.0, 1.0 - (inside + sum(spent)) / total)


def rows(smoke: bool) -> list[Row]:
    """All rows of the table: one per turn of a side."""
    out: list[Row] = []
    cells = [("ic3net", 32, 4), ("qmix", 32, 4)] if smoke else list(product(TEAMS, HIDDEN, GROUPS))
    for team, hidden, groups in cells:
        with sides.threads(1), torch.enable_grad():
            made = runs(team, hidden, groups)
            for turn in made.values():
                for _ in range(1 if smoke else WARM):
                    turn()
            shares = {name: outside(turn) for name, turn in made.items()}
            about = {"team": team, "hidden": hidden, "groups": groups, "threads": 1}
            for repetition in range(1 if smoke else TURNS):
                for name, turn in made.items():
                    start = time.perf_counter()
                    turn()
                    seconds = time.perf_counter() - start
                    out.append({**about, "side": name, "repetition": repetition, "seconds": seconds})
                    out[-1]["outside"] = round(shares[name], 4)
        print(
            f"learning: {team} hidden {hidden} G={groups}: dense's share outside {shares['dense']:.0%}",
            flush=True,
        )
    return out
