"""Training throughput: our IPPO against JaxMARL's, at equal networks, minibatches and epochs.

    python -m experiments.benchmarks.train_ippo --peer-source <checkout of FLAIROx/JaxMARL>
    python -m experiments.benchmarks.train_ippo --peer-source <...> --smoke    keeps nothing
    python -m experiments.benchmarks.train_ippo --learning                     untimed: how far ours learns
    python -m experiments.benchmarks.train_ippo --table                        claims from the raw files

The race takes about 3 minutes on a quiet machine. The peer's own script and configuration run from a checkout
that you give; nothing of it is copied. Both sides: cooperative navigation of 3 agents (JaxMARL's
simple_spread, our `navigation`), 128 steps of every env, then 4 epochs of 4 minibatches; actor and critic
apart, two layers of 64 features with tanh and no LayerNorm, no agent id. Ours also normalises values.
"""

from __future__ import annotations

import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.arguments import need_source, racing
from experiments.benchmarks.interleave import (
    Row,
    Worker,
    interleave,
    rate,
    ratios,
    read_rows,
    spread,
    write_rows,
)
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.benchmarks.peers import python_of
from experiments.claims import Derived, made_before, write_claim

RAW = "experiments/worlds/raw/train_ippo.csv"
RAW_LEARNING = "experiments/worlds/raw/train_ippo_learning.csv"
COMMAND = "python -m experiments.benchmarks.train_ippo"
PEER_CODE = "FLAIROx/JaxMARL"
ENVS = (16, 256)
SIDES = ("marl", "jaxmarl")
OURS, PEER = SIDES
LEARN_STEPS, SEEDS = 1_500_000, 5
SETTINGS = (
    "agent=ippo",
    "env=navigation",
    "agent.recurrent=false",
    "agent.activation=tanh",
    "agent.layer_norm=false",
    "agent.agent_ids=false",
    "agent.hidden=64",
    "agent.epochs=4",
    "agent.minibatches=4",
    "agent.limit_ends=true",  # as the peer: its episodes end at the limit
    "loop.rollout_steps=128",
)


def measure(source: str, sizes: tuple[int, ...], repetitions: int, seconds: float) -> list[Row]:
    """Raw rows of the race."""
    rows: list[Row] = []
    for envs in sizes:
        ours = {"overrides": [*SETTINGS, f"num_envs={envs}"], "seed": 0, "threads": 2, "learn": 0}
        with (
            Worker(python_of(PEER), ["jaxmarl_ippo"], threads=2) as peer,
            Worker(sys.executable, ["marl_ippo"], threads=2) as mine,
        ):
            facts = peer.ask(prepare={"source": source, "envs": envs})
            work = {name: facts[name] for name in ("rollout", "epochs", "minibatches")}
            assert work == {"rollout": 128, "epochs": 4, "minibatches": 4}, work
            print(f"{PEER} x {envs}: compiled and warm after {facts['seconds']:.0f} s", flush=True)
            mine.ask(prepare=ours)
            sides = {OURS: mine, PEER: peer}
            done = interleave(sides, repetitions=repetitions, seconds=seconds, about={"envs": envs})
        print(summary(done), flush=True)
        rows += done
    return rows


def learn(seed: int, steps: int) -> Row:
    """Greedy return of one run before and after so many team steps at 16 envs, one thread."""
    case = {"overrides": [*SETTINGS, "num_envs=16"], "seed": seed, "threads": 1, "learn": steps}
    with Worker(sys.executable, ["marl_ippo"], threads=2) as worker:  # free to take either processor
        worker.ask(prepare=case)
        row = {"seed": seed, **worker.ask(measure=0.0)}
    print(f"seed {seed}: {row['before']:.1f} before, {row['after']:.1f} after", flush=True)
    return row


def summary(rows: list[Row]) -> str:
    mine, theirs = (statistics.median(rate(r) for r in rows if r["side"] == side) for side in SIDES)
    return f"{rows[0]['envs']} envs: {OURS} {mine:,.0f}, {PEER} {theirs:,.0f}, ratio {mine / theirs:.2f}"


def _ratio(path: Path, envs: int) -> Derived:
    return ratios([row for row in read_rows(path) if row["envs"] == str(envs)], OURS, PEER)


ratio_16 = partial(_ratio, envs=16)
ratio_256 = partial(_ratio, envs=256)


def gain(path: Path) -> Derived:
    """Greedy return after training less the best that needs none: untrained, standing still or random."""
    free = ("before", "still", "random")
    return spread([float(row["after"]) - max(float(row[name]) for name in free) for row in read_rows(path)])


def claims(fresh: str = "") -> None:
    """Write the rows that the raw files support; rows of files other than `fresh` keep commit and date."""

    def write(name: str, raw: str, option: str, **row: Any) -> None:
        id = f"worlds.{name}"
        made = None if raw == fresh else made_before(id)
        write_claim(id=id, made=made, command=f"{COMMAND} {option}", raw=[raw], **row)

    for envs, goal in zip(ENVS, (0.7, 1.5), strict=True) if (ROOT / RAW).is_file() else ():
        write(
            f"train_ratio_jaxmarl_ippo_{envs}envs",
            unit="x",
            test=f"value >= {goal}",
            derive_with=f"experiments.benchmarks.train_ippo:ratio_{envs}",
            raw=RAW,
            option="--peer-source <checkout of FLAIROx/JaxMARL>",
            note="team steps/s of feed-forward IPPO on navigation over JaxMARL's own on simple_spread, "
            f"{envs} envs, equal networks, minibatches and epochs, two threads; compilation excluded",
        )
    if not (ROOT / RAW_LEARNING).is_file():
        return
    write(
        "ippo_navigation_gain_1_5m",
        unit="return",
        test="low > 0",
        derive_with="experiments.benchmarks.train_ippo:gain",
        raw=RAW_LEARNING,
        option="--learning",
        note="greedy team return on navigation after 1.5 M steps less the best of the untrained team, "
        "standing still and random play; the timed settings at 16 envs, 320 episodes each; the goal is the "
        "project's own",
    )


def main() -> None:
    parser = racing(COMMAND, __doc__, PEER_CODE)
    parser.add_argument("--learning", action="store_true", help="train five seeds; nothing is timed")
    arguments = parser.parse_args()
    if arguments.table:
        claims()
        return
    if arguments.learning:
        with ThreadPoolExecutor(2) as pool:
            learning = list(pool.map(partial(learn, steps=LEARN_STEPS), range(SEEDS)))
        write_rows(ROOT / RAW_LEARNING, learning)
        claims(fresh=RAW_LEARNING)
        return
    source = need_source(parser, arguments, PEER_CODE)
    if arguments.smoke:
        measure(source, (16,), repetitions=1, seconds=1.0)
        learn(0, 40_000)
        return
    require_quiet()
    write_rows(ROOT / RAW, measure(source, ENVS, repetitions=5, seconds=3.0))
    claims(fresh=RAW)


if __name__ == "__main__":
    main()
