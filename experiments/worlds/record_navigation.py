"""Record trajectories of mpe2.simple_spread_v3 that our world is checked against.

    python -m experiments.benchmarks.peers mpe2
    .benchmark-venvs/mpe2/bin/python experiments/worlds/record_navigation.py

writes tests/envs/navigation/mpe2.npz. It runs with mpe2 alone (numpy beside it, nothing of ours), in
mpe2's own environment: mpe2 brings pygame-ce, and only one of pygame and pygame-ce may be installed.

Arrays of the file, named <case>/<array>; a case is n3_discrete, n3_continuous, n6_discrete or
n6_continuous; K episodes of T = 25 steps with N agents. Float32 but for the rewards.

| array | shape | meaning |
|---|---|---|
| pos, vel | (K, T + 1, N, 2) | positions and velocities before each step, and after the last |
| landmark | (K, N, 2) | |
| action | (K, T, N) int8, or (K, T, N, 5) | what was done; some continuous ones are out of [0, 1] |
| obs | (K, T + 1, N, 6N) | observations |
| reward | (K, T, N) float64 | |
| truncated, terminated | (K, T) bool | of all agents |
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests" / "envs" / "navigation" / "mpe2.npz"
STEPS = 25
EPISODES = {3: 6, 6: 3}  # by number of agents
PLAY = ("random", "gather", "cover")  # how the agents of episode k play: PLAY[k % 3]


def start(world: Any, play: str, rng: np.random.Generator) -> None:
    """Put the agents where the way of playing has something to show."""
    for agent, landmark in zip(world.agents, world.landmarks, strict=True):
        if play == "gather":  # all within a contact's reach of each other
            agent.state.p_pos = rng.uniform(-0.2, 0.2, 2)
        if play == "cover":
            agent.state.p_pos = landmark.state.p_pos + rng.uniform(-0.15, 0.15, 2)


def choose(world: Any, play: str, rng: np.random.Generator, continuous: bool) -> list[Any]:
    """Random actions; who gathers pushes towards the middle of all, who covers towards its landmark."""
    actions: list[Any] = []
    centre = np.mean([agent.state.p_pos for agent in world.agents], axis=0)
    for agent, landmark in zip(world.agents, world.landmarks, strict=True):
        way = (landmark.state.p_pos if play == "cover" else centre) - agent.state.p_pos
        aimed = play != "random" and rng.random() < 0.7
        if continuous:
            push = rng.uniform(-0.3, 1.3, 5)
            if aimed:
                push[1:] = 2.0 * np.array([-way[0], way[0], -way[1], way[1]])
            actions.append(push.astype(np.float32))
        elif aimed:
            axis = int(np.abs(way).argmax())
            actions.append(1 + 2 * axis + int(way[axis] > 0))
        else:
            actions.append(int(rng.integers(5)))
    return actions


def episode(n: int, continuous: bool, seed: int, play: str) -> dict[str, np.ndarray]:
    from mpe2 import simple_spread_v3

    rng = np.random.default_rng(seed)
    parallel = simple_spread_v3.parallel_env(
        N=n, max_cycles=STEPS, continuous_actions=continuous, terminate_on_success=play == "cover" and n == 3
    )
    parallel.reset(seed=seed)
    raw = parallel.aec_env.unwrapped
    world, names = raw.world, [f"agent_{i}" for i in range(n)]
    start(world, play, rng)
    log: dict[str, list[Any]] = {k: [] for k in ("pos", "vel", "action", "obs", "reward")}
    ends: dict[str, list[Any]] = {"truncated": [], "terminated": []}

    def look(obs: dict[str, np.ndarray]) -> None:
        log["pos"].append([a.state.p_pos.copy() for a in world.agents])
        log["vel"].append([a.state.p_vel.copy() for a in world.agents])
        log["obs"].append([obs[name] for name in names])

    look({name: raw.observe(name) for name in names})
    for _ in range(STEPS):
        actions = choose(world, play, rng, continuous)
        obs, reward, terminated, truncated, _ = parallel.step(dict(zip(names, actions, strict=True)))
        look(obs)
        log["action"].append(actions)
        log["reward"].append([reward[name] for name in names])
        ends["terminated"].append(all(terminated.values()))
        ends["truncated"].append(all(truncated.values()))
        if ends["terminated"][-1]:
            break
    landmark = np.array([mark.state.p_pos for mark in world.landmarks])
    return {k: np.array(v) for k, v in (log | ends).items()} | {"landmark": landmark}


def pad(rows: list[np.ndarray]) -> np.ndarray:
    """One array of episodes of unequal length; what lies behind an end is 0."""
    longest = max(len(row) for row in rows)
    out = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def main() -> None:
    from pettingzoo.utils.env_logger import EnvLogger  # type: ignore[import-untyped]

    EnvLogger.suppress_output()  # a line for every action that it clips
    arrays: dict[str, np.ndarray] = {}
    for n, episodes in EPISODES.items():
        for continuous in (False, True):
            done = [episode(n, continuous, seed, PLAY[seed % len(PLAY)]) for seed in range(episodes)]
            for name in done[0]:
                whole = pad([run[name] for run in done])
                if name in ("pos", "vel", "landmark", "obs") or (name == "action" and continuous):
                    whole = whole.astype(np.float32)
                elif name == "action":
                    whole = whole.astype(np.int8)
                arrays[f"n{n}_{'continuous' if continuous else 'discrete'}/{name}"] = whole
    np.savez_compressed(OUT, allow_pickle=False, **arrays)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB", file=sys.stderr)


if __name__ == "__main__":
    main()
