"""Memory: bytes per stored episode, and the most that a training process holds.

    python -m experiments.benchmarks.memory                         about a minute; writes claims
    python -m experiments.benchmarks.memory --peer-source <checkout of FLAIROx/JaxMARL>
    python -m experiments.benchmarks.memory --smoke                 one map, keeps nothing

Stored episodes are compared with the dense layout of PyMARL's EpisodeBatch, computed from its
fields: every episode padded to the limit, actions also one-hot, masks as 32-bit integers. The peak
is of the whole process, Python and compilers included, and is no claim.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from experiments.benchmarks.interleave import Row, Worker, read_rows, spread, write_rows
from experiments.benchmarks.machine import ROOT
from experiments.benchmarks.peers import python_of
from experiments.benchmarks.train import ENVS, HIDDEN, MIXERS, SEQUENCES
from experiments.claims import Derived, write_claim

RAW = "experiments/ground/raw/memory.csv"
COMMAND = "python -m experiments.benchmarks.memory"
MAPS = ("3m", "2s3z", "MMM")
SEEDS = 5
STEPS = 20_000  # team steps of a mostly random policy that fill the memory


def dense_bytes(row: dict[str, Any]) -> int:
    """Bytes of one episode in PyMARL's EpisodeBatch: limit + 1 steps of every field."""
    agents, actions = int(row["agents"]), int(row["actions"])
    floats = int(row["state"]) + agents * int(row["obs"]) + agents * actions + 1  # one-hot actions, reward
    masks = agents * actions + agents * 2 + 2  # int32 availability, int64 actions and filled
    return (int(row["limit"]) + 1) * (4 * floats + 4 * masks + 1)  # terminated is one byte


def episode_bytes(row: dict[str, Any]) -> float:
    """Bytes of our entries over the episodes they hold."""
    return int(row["entries"]) * int(row["entry_bytes"]) / int(row["episodes"])


def measure(map_name: str, seed: int) -> Row:
    """Fill a memory and learn from it for a second."""
    overrides = ["agent=qmix", f"env=battle/{map_name}"]
    case = {"overrides": overrides, "seed": seed, "warm_steps": STEPS, "threads": 2, "split": False}
    with Worker(sys.executable, ["marl_train"], threads=2) as worker:
        facts = worker.ask(prepare=case)
        peak = worker.ask(measure=1.0)["peak_mib"]
    names = ("agents", "obs", "state", "actions", "limit", "entries", "episodes", "entry_bytes")
    row = {"map": map_name, "seed": seed} | {name: facts[name] for name in names} | {"peak_mib": peak}
    print(
        f"battle/{map_name}, seed {seed}: {episode_bytes(row):,.0f} bytes per episode, dense "
        f"{dense_bytes(row):,}; peak {peak:,.0f} MiB",
        flush=True,
    )
    return row


def peer_peak(source: str) -> float:
    """MiB that JaxMARL's QMIX process holds at most on SMAX 3m."""
    embed, hyper = MIXERS["pymarl"]
    mixer = {"MIXER_EMBEDDING_DIM": embed, "MIXER_HYPERNET_HIDDEN_DIM": hyper}
    case = {"source": source, "map": "3m", "hidden": HIDDEN, "envs": ENVS, "sequences": SEQUENCES}
    with Worker(python_of("jaxmarl"), ["jaxmarl_train"], threads=2) as worker:
        worker.ask(prepare=case | {"mixer": mixer})
        return float(worker.ask(measure=1.0)["peak_mib"])


def _dense_over_ours(path: Path, map_name: str) -> Derived:
    return spread([dense_bytes(r) / episode_bytes(r) for r in read_rows(path) if r["map"] == map_name])


def dense_over_ours_3m(path: Path) -> Derived:
    """How many times larger the dense layout is."""
    return _dense_over_ours(path, "3m")


def claims() -> None:
    """Write the row that the raw file supports."""
    write_claim(
        id="ground.memory_dense_over_ours_3m",
        unit="x",
        test="value >= 2",
        derive_with="experiments.benchmarks.memory:dense_over_ours_3m",
        raw=[RAW],
        command=COMMAND,
        note="bytes of a stored battle/3m episode in PyMARL's dense layout over ours, episodes of the first "
        "20,000 steps of training; the goal is the project's own",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--peer-source", help="checkout of FLAIROx/JaxMARL; prints its peak as well")
    parser.add_argument("--smoke", action="store_true", help="one map, one seed; keeps nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        measure("3m", 0)
        return
    rows = [measure(map_name, seed) for map_name in MAPS for seed in range(SEEDS)]
    if arguments.peer_source:
        print(f"JaxMARL QMIX on SMAX 3m: peak {peer_peak(arguments.peer_source):,.0f} MiB")
    write_rows(ROOT / RAW, rows)
    claims()


if __name__ == "__main__":
    main()
