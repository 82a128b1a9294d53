"""Throughput of predator_prey and traffic_junction beside IC3Net's own code, uniformly random actions.

    python -m experiments.benchmarks.peers ic3net                             what its code needs, once
    python -m experiments.benchmarks.grids --peer-source <checkout>           3 minutes on a quiet machine
    python -m experiments.benchmarks.grids --peer-source <checkout> --smoke   a trial run, keeps nothing

The package index offers no other world with these rules; IC3Net's environments are run as they are from a
checkout of IC3Net/IC3Net. They step one env in Python on one processor and are compared with ours at 1,024
envs, and at one, on one processor. Both have the level's size, vision, cars, final rate of arrival and limit,
and resets are included. The continuous hunt has no counterpart.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks import stepping
from experiments.benchmarks.interleave import Row, rate, ratios, read_rows, spread
from experiments.claims import Derived, write_claim
from marl.envs import predator_prey, traffic_junction
from marl.envs.traffic_junction.geometry import LEVELS as JUNCTIONS

RAW = "experiments/worlds/raw/grids.csv"
COMMAND = "python -m experiments.benchmarks.grids"
NAMES = ("easy", "medium", "hard")
BATCHES = (1, 16, 1024)
CLAIMED = 1024
SIDES: dict[str, stepping.Form] = {"torch 2": (None, 2), "torch 1": (None, 1)}
PEER = "ic3net"
GOALS = {  # team steps/s, the project's own
    "predator_prey": {"easy": 500_000, "medium": 200_000, "hard": 20_000, "continuous": 500_000},
    "traffic_junction": {"easy": 300_000, "medium": 200_000, "hard": 100_000},
}
RATIOS = {"predator_prey": (4, 0.3), "traffic_junction": (50, 0.3)}  # goals at 1,024 envs and at one


def _predator_prey(level: Any) -> tuple[list[str], dict[str, Any]]:
    """Words of our side, settings of the peer."""
    it = predator_prey.Config(level=level).chosen
    words = f"--dim {it.size} --vision {it.vision}"
    return [], {"agents": it.n_agents, "actions": 5, "limit": it.limit, "words": words.split()}


def _traffic_junction(level: Any) -> tuple[list[str], dict[str, Any]]:
    """The same, at the final rate from the first step on. Its --dim is our size, but for one on easy."""
    it, config = JUNCTIONS[level], traffic_junction.Config(level=level)
    rate = config.rates[1]
    words = f"--dim {it.size - (level == 'easy')} --vision {config.vision} --difficulty {level}"
    words += f" --add_rate_min {rate} --add_rate_max {rate}"
    ours = ["env.curriculum_start=0", "env.curriculum_end=0"]
    return ours, {"agents": it.cars, "actions": 2, "limit": it.limit, "words": words.split()}


def cases(source: str, batches: tuple[int, ...]) -> list[stepping.Case]:
    """Every level at every batch size; the peer's one env stands beside each."""
    out = []
    for task, settings in (("predator_prey", _predator_prey), ("traffic_junction", _traffic_junction)):
        for level in NAMES:
            words, peer = settings(level)
            out += [
                stepping.Case(
                    about={"world": f"{task}_{level}", "case": envs},
                    words=(f"env={task}/{level}", *words),
                    envs=envs,
                    peers={PEER: {"source": source, "task": task, **peer}},
                )
                for envs in batches
            ]
    alone = "predator_prey_continuous"
    return out + [
        stepping.Case(about={"world": alone, "case": envs}, words=(f"env={alone}",), envs=envs)
        for envs in batches
    ]


def measure(source: str, batches: tuple[int, ...], repetitions: int, seconds: float) -> list[Row]:
    """All worlds and batch sizes."""
    peers = {PEER: ("ic3net_env", 1)}
    return stepping.measure(cases(source, batches), SIDES, peers, repetitions=repetitions, seconds=seconds)


def _rows(path: Path, world: str, envs: int) -> list[dict[str, str]]:
    return [row for row in read_rows(path) if (row["world"], row["case"]) == (world, str(envs))]


def steps(path: Path, world: str) -> Derived:
    """Team steps/s at 1,024 envs on two processors."""
    return spread([rate(row) for row in _rows(path, world, CLAIMED) if row["side"] == "torch 2"])


def ratio(path: Path, task: str, envs: int) -> Derived:
    """Ours at so many envs over the peer's one, one processor each; the level with the smallest counts."""
    return min(ratios(_rows(path, f"{task}_{level}", envs), "torch 1", PEER) for level in NAMES)


predator_prey_steps_easy = partial(steps, world="predator_prey_easy")
predator_prey_steps_medium = partial(steps, world="predator_prey_medium")
predator_prey_steps_hard = partial(steps, world="predator_prey_hard")
predator_prey_steps_continuous = partial(steps, world="predator_prey_continuous")
traffic_junction_steps_easy = partial(steps, world="traffic_junction_easy")
traffic_junction_steps_medium = partial(steps, world="traffic_junction_medium")
traffic_junction_steps_hard = partial(steps, world="traffic_junction_hard")
predator_prey_ratio_ic3net = partial(ratio, task="predator_prey", envs=CLAIMED)
predator_prey_ratio_ic3net_1env = partial(ratio, task="predator_prey", envs=1)
traffic_junction_ratio_ic3net = partial(ratio, task="traffic_junction", envs=CLAIMED)
traffic_junction_ratio_ic3net_1env = partial(ratio, task="traffic_junction", envs=1)


def claims() -> None:
    """Write the rows that the raw file supports."""

    def write(name: str, unit: str, goal: float, note: str) -> None:
        write_claim(
            id=f"worlds.{name}",
            unit=unit,
            test=f"value >= {goal}",
            derive_with=f"experiments.benchmarks.grids:{name}",
            note=f"{note}; the goal is the project's own",
            raw=[RAW],
            command=f"{COMMAND} --peer-source <checkout of IC3Net/IC3Net>",
        )

    for task, goals in GOALS.items():
        for level, goal in goals.items():
            note = f"{task} {level}, 1024 envs, random policy, two processors; torch form"
            write(f"{task}_steps_{level}", "team steps/s", goal, note)
    for task, (many, one) in RATIOS.items():
        note = "over the one env of IC3Net's code, the worst of its levels, one processor each"
        write(f"{task}_ratio_ic3net", "x", many, f"{task} at 1024 envs {note}")
        write(f"{task}_ratio_ic3net_1env", "x", one, f"{task} at 1 env {note}")


def main() -> None:
    stepping.run(
        command=COMMAND,
        text=str(__doc__),
        raw=RAW,
        trial=lambda source: measure(source, (16,), repetitions=1, seconds=0.2),
        whole=lambda source: measure(source, BATCHES, repetitions=5, seconds=0.4),
        claims=claims,
        source="IC3Net/IC3Net",
    )


if __name__ == "__main__":
    main()
