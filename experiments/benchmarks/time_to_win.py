"""Seconds of training until QMIX wins 95 % of its games on battle/3m, in the settings of `make train`.

    python -m experiments.benchmarks.time_to_win            10 seeds one after the other; writes claims
    python -m experiments.benchmarks.time_to_win --smoke    one seed, two evaluations, keeps nothing

Every 5,000 team steps the greedy team plays 32 fixed episodes; once it wins 95 % of them it plays 320
fresh ones, and only when it wins 95 % of those, too, has it arrived. Counted once without and once
with the evaluations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.benchmarks.interleave import Row, Worker, read_rows, spread, write_rows
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.benchmarks.workers.marl_win import WINS
from experiments.claims import Derived, write_claim

RAW = "experiments/ground/raw/time_to_win.csv"
COMMAND = "python -m experiments.benchmarks.time_to_win"
OVERRIDES = ["agent=qmix", "env=battle/3m"]
EVERY_STEPS = 5_000
SEEDS = 10
LIMIT_S = 300.0  # seconds of training after which a seed counts as 300: slower than any goal


def arrived(row: dict[str, str] | Row) -> bool:
    """Whether this evaluation was won, and confirmed."""
    return row["wins_320"] not in (None, "") and float(row["wins_320"]) >= WINS


def one_seed(seed: int, evaluations: int | None = None) -> list[Row]:
    """One row per evaluation, until the team has arrived or the time is up."""
    case = {"overrides": OVERRIDES, "seed": seed, "threads": 2, "every_steps": EVERY_STEPS}
    rows: list[Row] = []
    with Worker(sys.executable, ["marl_win"], threads=2) as worker:
        worker.ask(prepare=case)
        while True:
            rows.append({"seed": seed, **worker.ask(measure=0.0)})
            row = rows[-1]
            if arrived(row) or row["train_s"] >= LIMIT_S or len(rows) == evaluations:
                print(
                    f"seed {seed}: {row['steps']:,} steps, {row['train_s']:.1f} s of training, "
                    f"{row['evaluate_s']:.1f} s of evaluation, wins {row['wins_32']:.0%}",
                    flush=True,
                )
                return rows


def _seconds(path: Path, evaluation: bool) -> Derived:
    """Median, least and most over seeds of the seconds until arrival."""
    last: dict[str, dict[str, str]] = {row["seed"]: row for row in read_rows(path)}
    return spread(
        [
            max(LIMIT_S * (not arrived(row)), float(row["train_s"]) + evaluation * float(row["evaluate_s"]))
            for row in last.values()
        ]
    )


def training(path: Path) -> Derived:
    """Without the evaluations."""
    return _seconds(path, evaluation=False)


def everything(path: Path) -> Derived:
    """With the evaluations."""
    return _seconds(path, evaluation=True)


def claims() -> None:
    """Write the rows that the raw file supports."""
    settings = (
        "QMIX on battle/3m, default settings, two threads; every 5,000 steps 32 episodes, then 320 fresh "
        "ones that confirm; median, least and most over seeds"
    )
    write_claim(
        id="ground.seconds_to_95_3m",
        unit="s",
        test="value <= 120",
        derive_with="experiments.benchmarks.time_to_win:training",
        raw=[RAW],
        command=COMMAND,
        note=f"{settings}; seconds of training alone",
    )
    write_claim(
        id="ground.seconds_to_95_3m_with_evaluation",
        unit="s",
        test="value <= 120",
        derive_with="experiments.benchmarks.time_to_win:everything",
        raw=[RAW],
        command=COMMAND,
        note=f"{settings}; evaluations counted",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one seed, two evaluations; keeps nothing")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 5 for a claim")
    arguments = parser.parse_args()
    if arguments.smoke:
        one_seed(0, evaluations=2)
        return
    require_quiet()
    write_rows(ROOT / RAW, [row for seed in range(arguments.seeds) for row in one_seed(seed)])
    claims()


if __name__ == "__main__":
    main()
