"""Throughput of navigation against the simple_spread of JaxMARL, vmas and MPE2, uniformly random actions.

    python -m experiments.benchmarks.peers jaxmarl vmas mpe2    their environments, once
    python -m experiments.benchmarks.navigation                 2 minutes on a quiet machine; writes claims
    python -m experiments.benchmarks.navigation --smoke         a minute, keeps nothing

Three agents, 25 steps an episode, resets included. A step counts when the observations and rewards of all
agents are there. JaxMARL and vmas have the same processors and the same number of envs as we have;
MPE2 steps one env on one processor and is compared with ours at 1,024 envs, and at one, on one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.benchmarks import stepping
from experiments.benchmarks.interleave import Row, ratios, read_rows
from experiments.claims import Derived, write_claim

RAW = "experiments/worlds/raw/navigation.csv"
COMMAND = "python -m experiments.benchmarks.navigation"
BATCHES = (1, 16, 1024, 4096)
CLAIMED = (1024, 4096)  # batch sizes of the ratios to JaxMARL and vmas: the worse of the two counts
SCAN = {1: 10_000, 16: 5_000, 1024: 100, 4096: 30}  # JaxMARL's env steps per compiled call, about 0.2 s
SIDES: dict[str, stepping.Form] = {
    "native 2": ("native", 2),
    "native 1": ("native", 1),
    "torch 2": ("torch", 2),
}
PEERS = {"jaxmarl": ("jaxmarl_spread", 2), "vmas": ("vmas_spread", 2), "mpe2": ("mpe2_spread", 1)}


def measure(batches: tuple[int, ...], repetitions: int, seconds: float) -> list[Row]:
    """All batch sizes; MPE2's one env beside each."""
    cases = [
        stepping.Case(
            about={"case": envs},
            words=("env=navigation",),
            envs=envs,
            peers={
                "jaxmarl": {"envs": envs, "scan": SCAN[envs]},
                "vmas": {"envs": envs, "threads": 2},
                "mpe2": {},
            },
        )
        for envs in batches
    ]
    return stepping.measure(cases, SIDES, PEERS, repetitions=repetitions, seconds=seconds)


def _ratio(path: Path, envs: int, ours: str, peer: str) -> Derived:
    return ratios([row for row in read_rows(path) if row["case"] == str(envs)], ours, peer)


def ratio_jaxmarl(path: Path) -> Derived:
    """On two processors; the batch size with the smaller ratio counts."""
    return min(_ratio(path, envs, "native 2", "jaxmarl") for envs in CLAIMED)


def ratio_vmas(path: Path) -> Derived:
    """On two processors; the batch size with the smaller ratio counts."""
    return min(_ratio(path, envs, "native 2", "vmas") for envs in CLAIMED)


def ratio_mpe2(path: Path) -> Derived:
    """Ours at 1,024 envs over its one, one processor each."""
    return _ratio(path, 1024, "native 1", "mpe2")


def ratio_mpe2_1env(path: Path) -> Derived:
    """One env each, one processor each."""
    return _ratio(path, 1, "native 1", "mpe2")


def claims() -> None:
    """Write the rows that the raw file supports."""
    common: dict[str, Any] = {"raw": [RAW], "command": COMMAND, "unit": "x"}
    both = "random policy, two processors each, the worse of 1024 and 4096 envs"
    one = "random policy, one processor each"
    for name, test, note in (
        (
            "jaxmarl",
            "value >= 5",
            f"native navigation over JaxMARL 0.2.0 simple_spread, {both}; compilation excluded",
        ),
        ("vmas", "value >= 5", f"native navigation over vmas 1.5.2 simple_spread, {both}"),
        ("mpe2", "value >= 400", f"native navigation at 1024 envs over the one env of MPE2 1.1.1, {one}"),
        (
            "mpe2_1env",
            "value >= 1",
            f"native navigation at 1 env over MPE2 1.1.1, {one}; the goal is the project's own",
        ),
    ):
        write_claim(
            id=f"worlds.navigation_ratio_{name}",
            test=test,
            derive_with=f"experiments.benchmarks.navigation:ratio_{name}",
            note=note,
            **common,
        )


def main() -> None:
    stepping.run(
        command=COMMAND,
        text=str(__doc__),
        raw=RAW,
        trial=lambda _: measure((1024,), repetitions=2, seconds=0.3),
        whole=lambda _: measure(BATCHES, repetitions=7, seconds=0.4),
        claims=claims,
    )


if __name__ == "__main__":
    main()
