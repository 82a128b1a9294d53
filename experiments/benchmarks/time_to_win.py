"""Seconds of training until QMIX wins 95 % of its games on battle/3m, in the settings of `make train`.

    python -m experiments.benchmarks.time_to_win            10 seeds one after the other; writes claims
    python -m experiments.benchmarks.time_to_win --peer-source <checkout of FLAIROx/JaxMARL> --seeds 3
                                                            both sides in turn, seed by seed, and the ratio
    python -m experiments.benchmarks.time_to_win --smoke    one seed, two evaluations, keeps nothing

Every 5,000 team steps the greedy team plays 32 fixed episodes; once it wins 95 % of them it plays 320
fresh ones, and only when it wins 95 % of those, too, has it arrived. Counted once without and once
with the evaluations.

The peer is JaxMARL's QMIX on SMAX 3m, its own script with its own settings but for the widths, which are
those of the race in `train`. Every 20,480 steps it plays 320 greedy episodes; the first test won at 95 %
counts. Its time is that of training and tests without the compilation, ours that with evaluations. The games
differ: SMAX's enemies, ranges and rewards are its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.benchmarks.interleave import Row, Worker, read_rows, spread, write_rows
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.benchmarks.peers import python_of
from experiments.benchmarks.train import HIDDEN, MIXERS
from experiments.benchmarks.workers.marl_win import WINS
from experiments.claims import Derived, write_claim

RAW = "experiments/ground/raw/time_to_win.csv"
RAW_PEER = "experiments/ground/raw/time_to_win_peer.csv"
COMMAND = "python -m experiments.benchmarks.time_to_win"
OVERRIDES = ["agent=qmix", "env=battle/3m"]
EVERY_STEPS = 5_000
SEEDS = 10
LIMIT_S = 300.0  # seconds of training after which a seed counts as 300: slower than any goal
OURS, PEER = "marl", "jaxmarl"
PEER_UPDATES = 10  # of the peer between two tests: 20,480 team steps


def arrived(row: dict[str, str] | Row) -> bool:
    """Whether this evaluation was won, and confirmed."""
    return row["wins_320"] not in (None, "") and float(row["wins_320"]) >= WINS


def one_seed(seed: int, evaluations: int | None = None) -> list[Row]:
    """One row per evaluation, until the team has arrived or the time is up."""
    case = {"overrides": OVERRIDES, "seed": seed, "threads": 2, "every_steps": EVERY_STEPS}
    with Worker(sys.executable, ["marl_win"], threads=2) as worker:
        worker.ask(prepare=case)
        rows = _until(worker, lambda row: arrived(row) or row["train_s"] >= LIMIT_S, evaluations)
    last = rows[-1]
    print(
        f"seed {seed}: {last['steps']:,} steps, {last['train_s']:.1f} s of training, "
        f"{last['evaluate_s']:.1f} s of evaluation, wins {last['wins_32']:.0%}",
        flush=True,
    )
    return [{"seed": seed, **row} for row in rows]


def one_peer_seed(source: str, seed: int, tests: int | None = None) -> list[Row]:
    """One row per test of the peer, until it has arrived or the time is up."""
    mixer = dict(zip(("MIXER_EMBEDDING_DIM", "MIXER_HYPERNET_HIDDEN_DIM"), MIXERS["pymarl"], strict=True))
    case = {"source": source, "hidden": HIDDEN, "mixer": mixer, "seed": seed, "every_updates": PEER_UPDATES}
    with Worker(python_of(PEER), ["jaxmarl_win"], threads=2) as worker:
        worker.ask(prepare=case)
        rows = _until(worker, lambda row: row["wins"] >= WINS or row["seconds"] >= LIMIT_S, tests)
    last = rows[-1]
    print(
        f"{PEER}, seed {seed}: {last['steps']:,} steps, {last['seconds']:.0f} s, wins {last['wins']:.0%}",
        flush=True,
    )
    return rows


def _until(worker: Worker, ended: Callable[[Row], bool], most: int | None) -> list[Row]:
    """Go from evaluation to evaluation. Args: most: evaluations, or None."""
    rows: list[Row] = []
    while not rows or not (ended(rows[-1]) or len(rows) == most):
        rows.append(worker.ask(measure=0.0))
    return rows


def both(source: str, seeds: int, tests: int | None = None) -> list[Row]:
    """Both sides, seed by seed. Args: tests: of each run, at most."""
    rows: list[Row] = []
    for seed in range(seeds):
        for row in one_seed(seed, tests):
            seconds = row["train_s"] + row["evaluate_s"]
            wins = row["wins_32"] if row["wins_320"] is None else row["wins_320"]
            shown = {"side": OURS, "seed": seed, "steps": row["steps"], "seconds": seconds, "wins": wins}
            rows.append(shown | {"arrived": arrived(row)})
        for row in one_peer_seed(source, seed, tests):
            shown = {name: row[name] for name in ("side", "seed", "steps", "seconds", "wins")}
            rows.append(shown | {"arrived": row["wins"] >= WINS})
    return rows


def over_peer(path: Path) -> Derived:
    """The peer's seconds over ours, seed by seed; a side that never arrives counts with what it was given."""
    last = {(row["side"], row["seed"]): float(row["seconds"]) for row in read_rows(path)}
    seeds = sorted({seed for _, seed in last})
    return spread([last[PEER, seed] / last[OURS, seed] for seed in seeds])


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


def peer_claim() -> None:
    """Write the row of the race."""
    seeds = over_peer(ROOT / RAW_PEER)[3]
    write_claim(
        id="ground.seconds_to_95_jaxmarl_over_ours",
        unit="x",
        test="value >= 5",
        derive_with="experiments.benchmarks.time_to_win:over_peer",
        raw=[RAW_PEER],
        command=f"{COMMAND} --peer-source <checkout of FLAIROx/JaxMARL>",
        note="seconds to 95 % wins, JaxMARL's QMIX on SMAX 3m over ours on battle/3m, evaluations counted, "
        "compilation not; equal widths, else its own settings; the games differ; a peer that had not arrived "
        f"after {LIMIT_S:.0f} s counts with those; the goal is the project's own",
        trial=seeds < 5,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one seed, two evaluations; keeps nothing")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 5 for a claim")
    parser.add_argument(
        "--peer-source", help="checkout of FLAIROx/JaxMARL: race it, its learners are not in its package"
    )
    arguments = parser.parse_args()
    if arguments.smoke:
        if arguments.peer_source is None:
            one_seed(0, evaluations=2)
        else:
            both(arguments.peer_source, seeds=1, tests=2)
        return
    require_quiet()
    if arguments.peer_source is None:
        write_rows(ROOT / RAW, [row for seed in range(arguments.seeds) for row in one_seed(seed)])
        claims()
        return
    write_rows(ROOT / RAW_PEER, both(arguments.peer_source, arguments.seeds))
    ratio, low, high, seeds = over_peer(ROOT / RAW_PEER)
    print(f"{PEER} over {OURS}: {ratio:.1f}x ({low:.1f} to {high:.1f}), {seeds} seeds")
    peer_claim()


if __name__ == "__main__":
    main()
