"""Environment throughput: battle against JaxMARL's SMAX, uniformly random available actions.

    python -m experiments.benchmarks.env            about 5 minutes on a quiet machine; writes claims
    python -m experiments.benchmarks.env --smoke    half a minute, keeps nothing

A step counts when observations, state and available actions of the next step are there. Both sides
run on the same processors. SMAX steps 8 game ticks per env step, as battle does.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks import stepping
from experiments.benchmarks.interleave import Row, rate, ratios, read_rows, spread
from experiments.claims import Derived, write_claim

RAW = "experiments/ground/raw/env.csv"
COMMAND = "python -m experiments.benchmarks.env"
MAPS = ("3m", "2s3z", "3s5z")
BATCHES = (1, 16, 64, 1024, 4096)
PEER_BATCHES = (16, 1024, 4096)  # compiling takes 12-20 s a case, so the peer runs where it is compared
CLAIMED = (1024, 4096)  # batch sizes of the published ratio: the worse of the two counts
SCAN = {1: 2000, 16: 500, 64: 200, 1024: 25, 4096: 8}  # peer's env steps per compiled call, 0.1-0.5 s
SIDES: dict[str, stepping.Form] = {
    "native 2": ("native", 2),
    "native 1": ("native", 1),
    "torch 2": ("torch", 2),
    "torch 1": ("torch", 1),
}
PEER = "jaxmarl"


def measure(maps: tuple[str, ...], batches: tuple[int, ...], repetitions: int, seconds: float) -> list[Row]:
    """All maps and batch sizes."""
    cases = [
        stepping.Case(
            about={"map": map_name, "envs": envs},
            words=(f"env=battle/{map_name}",),
            envs=envs,
            peers={PEER: {"map": map_name, "envs": envs, "scan": SCAN[envs]}} if envs in PEER_BATCHES else {},
        )
        for map_name in maps
        for envs in batches
    ]
    peers = {PEER: ("jaxmarl_env", 2)}
    return stepping.measure(cases, SIDES, peers, repetitions=repetitions, seconds=seconds)


def _case(path: Path, map_name: str, envs: int) -> list[dict[str, str]]:
    return [row for row in read_rows(path) if row["map"] == map_name and row["envs"] == str(envs)]


def _ratio(path: Path, map_name: str) -> Derived:
    """Our rate over the peer's on two threads; the batch size with the smaller ratio counts."""
    return min(ratios(_case(path, map_name, envs), "native 2", PEER) for envs in CLAIMED)


ratio_3m = partial(_ratio, map_name="3m")
ratio_2s3z = partial(_ratio, map_name="2s3z")
ratio_3s5z = partial(_ratio, map_name="3s5z")


def steps_b16_3m(path: Path) -> Derived:
    """Team steps/s of the native form at 16 envs on 3m, two threads."""
    return spread([rate(row) for row in _case(path, "3m", 16) if row["side"] == "native 2"])


def claims() -> None:
    """Write the rows that the raw file supports."""
    common: dict[str, Any] = {"raw": [RAW], "command": COMMAND}
    for map_name in MAPS:
        write_claim(
            id=f"ground.env_ratio_smax_{map_name}",
            unit="x",
            test="value >= 10",
            derive_with=f"experiments.benchmarks.env:ratio_{map_name}",
            note=f"native battle/{map_name} over JaxMARL 0.2.0 SMAX, random policy, two threads each, "
            "the worse of 1024 and 4096 envs; compilation excluded",
            **common,
        )
    write_claim(
        id="ground.env_steps_b16_3m",
        unit="team steps/s",
        test="value >= 50000",
        derive_with="experiments.benchmarks.env:steps_b16_3m",
        note="native battle/3m at 16 envs, random policy included; one Python call per vector step",
        **common,
    )


def main() -> None:
    stepping.run(
        command=COMMAND,
        text=str(__doc__),
        raw=RAW,
        trial=lambda _: measure(("3m",), (16,), repetitions=2, seconds=0.3),
        whole=lambda _: measure(MAPS, BATCHES, repetitions=5, seconds=0.4),
        claims=claims,
    )


if __name__ == "__main__":
    main()
