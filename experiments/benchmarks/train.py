"""Training throughput: our QMIX against JaxMARL's, at equal width, envs, batch and updates per step.

    python -m experiments.benchmarks.train --peer-source <checkout of FLAIROx/JaxMARL>
    python -m experiments.benchmarks.train --peer-source <...> --smoke    keeps nothing

About 4 minutes on a quiet machine. The peer's learners are not in its package, so its own script is
run from a checkout that you give; nothing of it is copied. Both sides: 16 envs, 128 steps of each
between two rounds of 8 updates, 32 sequences x 128 steps a batch, GRU and first layer 64 wide, one
double-Q target per step, both processors, measured while learning.
"""

from __future__ import annotations

import re
import statistics
import sys
from contextlib import ExitStack
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
from experiments.benchmarks.machine import ROOT, matrix_peak, require_quiet
from experiments.benchmarks.peers import python_of
from experiments.claims import Derived, made_before, write_claim
from marl.files import write_atomic

RAW = "experiments/ground/raw/train.csv"
RAW_SPLIT = "experiments/ground/raw/train_split.csv"
COMMAND = "python -m experiments.benchmarks.train"
PEER_CODE = "FLAIROx/JaxMARL"
ENVS, LENGTH, SEQUENCES, UPDATES, HIDDEN = 16, 128, 32, 8, 64
MIXERS = {"pymarl": (32, 64), "jaxmarl": (64, 256)}  # features of the mixing layer and the hypernetworks
CASES = (("3m", "pymarl"), ("3m", "jaxmarl"), ("2s3z", "pymarl"))
OURS, PEER = "marl", "jaxmarl"
PARTS = ("act", "env", "memory", "forward", "backward", "optimiser")


def overrides(map_name: str, mixer: str) -> list[str]:
    """Our run at the peer's ratio of work."""
    embed, hyper = MIXERS[mixer]
    return [
        "agent=qmix",
        f"env=battle/{map_name}",
        f"num_envs={ENVS}",
        f"agent.hidden={HIDDEN}",
        f"agent.embed={embed}",
        f"agent.hyper_hidden={hyper}",
        "agent.returns=nstep",
        "agent.steps=1",
        f"loop.rollout_steps={LENGTH}",
        f"loop.batch.sequences={SEQUENCES}",
        f"loop.batch.length={LENGTH}",
        "loop.updates.per=step",
        f"loop.updates.ratio={UPDATES / (ENVS * LENGTH)}",
    ]


def flops(facts: dict[str, Any], mixer: str) -> float:
    """Floating-point operations of the matrix products of one update.

    A layer costs one product forward for each of online and target network, and two backward; the
    first layers need no gradient of their input, which saves one.
    """
    embed, hyper = MIXERS[mixer]
    agents, inputs = facts["agents"], facts["obs"] + facts["actions"] + facts["agents"]
    first = agents * inputs * HIDDEN + facts["state"] * (2 * hyper + 2 * embed)
    rest = agents * (6 * HIDDEN * HIDDEN + HIDDEN * facts["actions"]) + hyper * embed * (agents + 1) + embed
    return 2.0 * SEQUENCES * LENGTH * (3 * first + 4 * rest)


def measure(
    source: str, cases: tuple[tuple[str, str], ...], repetitions: int, seconds: float
) -> tuple[list[Row], list[Row]]:
    """Raw rows of the race, and of the split of our time."""
    rows: list[Row] = []
    parts: list[Row] = []
    peak = {threads: matrix_peak(threads) for threads in (1, 2)}
    for map_name, mixer in cases:
        ours = {"overrides": overrides(map_name, mixer), "seed": 0, "warm_steps": 20_000, "threads": 2}
        theirs = {"source": source, "map": map_name, "hidden": HIDDEN, "envs": ENVS, "sequences": SEQUENCES}
        sizes = zip(("MIXER_EMBEDDING_DIM", "MIXER_HYPERNET_HIDDEN_DIM"), MIXERS[mixer], strict=True)
        about = {"map": map_name, "mixer": mixer}
        with ExitStack() as stack:
            peer = stack.enter_context(Worker(python_of(PEER), ["jaxmarl_train"], threads=2))
            mine = stack.enter_context(Worker(sys.executable, ["marl_train"], threads=2))
            started = peer.ask(prepare=theirs | {"mixer": dict(sizes)})
            print(f"{PEER} compiled and began to learn after {started['seconds']:.0f} s", flush=True)
            facts = mine.ask(prepare=ours | {"split": False})
            sides = {OURS: mine, PEER: peer}
            done = interleave(sides, repetitions=repetitions, seconds=seconds, about=about)
            print(summary(done), flush=True)
            rows += done
        with Worker(sys.executable, ["marl_train"], threads=2) as mine:
            mine.ask(prepare=ours | {"split": True})
            extra = about | {"gflop_per_update": flops(facts, mixer) / 1e9, "peak_gflops": peak[2]}
            parts += interleave({OURS: mine}, repetitions=repetitions, seconds=seconds / 2, about=extra)
    return rows, parts


def summary(rows: list[Row]) -> str:
    mine, theirs = (
        statistics.median(rate(row) for row in rows if row["side"] == side) for side in (OURS, PEER)
    )
    about = f"{rows[0]['map']}, {rows[0]['mixer']} mixer"
    return f"{about}: {OURS} {mine:,.0f}, {PEER} {theirs:,.0f} team steps/s, ratio {mine / theirs:.2f}"


def ratio(path: Path) -> Derived:
    """Our rate over the peer's on 3m; the mixer size with the smaller ratio counts."""
    rows = [row for row in read_rows(path) if row["map"] == "3m"]
    return min(ratios([row for row in rows if row["mixer"] == mixer], OURS, PEER) for mixer in MIXERS)


def gflops_over_peak(path: Path) -> Derived:
    """Matrix-product FLOP/s while updating on 3m over those of one 2048 x 2048 product; no sampling."""
    rows = [row for row in read_rows(path) if (row["map"], row["mixer"]) == ("3m", "pymarl")]
    learning = [sum(float(row[f"{part}_s"]) for part in PARTS[3:]) for row in rows]
    done = [float(row["gflop_per_update"]) * int(row["updates"]) for row in rows]
    peaks = [float(row["peak_gflops"]) for row in rows]
    return spread([work / s / peak for work, s, peak in zip(done, learning, peaks, strict=True)])


def split_table(path: Path) -> str:
    """Markdown: where the time of our training goes, medians over repetitions, in per cent."""
    lines = [f"| map, mixer | {' | '.join(PARTS)} | rest |", "|---|" + "---|" * (len(PARTS) + 1)]
    for map_name, mixer in CASES:
        rows = [r for r in read_rows(path) if (r["map"], r["mixer"]) == (map_name, mixer)]
        shares = [statistics.median(float(r[f"{p}_s"]) / float(r["seconds"]) for r in rows) for p in PARTS]
        cells = [f"{share:.0%}" for share in [*shares, max(0.0, 1 - sum(shares))]]
        lines.append(f"| {map_name}, {mixer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fill_split(page: str) -> str:
    """The page with the split's table between its markers; unchanged while there is no raw file."""
    if not (ROOT / RAW_SPLIT).is_file():
        return page
    table = split_table(ROOT / RAW_SPLIT)
    return re.sub(
        r"(<!-- split:train -->\n).*?(<!-- /split -->)", rf"\g<1>{table}\g<2>", page, flags=re.DOTALL
    )


def publish(fresh: bool = True) -> None:
    """Write what the raw files support: the claims, and the split into the page; `fresh`: just measured."""
    claims(fresh)
    page = ROOT / "docs" / "benchmarks.md"
    write_atomic(page, fill_split(page.read_text()).encode())


def claims(fresh: bool = True) -> None:
    """Write the rows that the raw files support; those of old files keep their commit and date."""
    command = f"{COMMAND} --peer-source <checkout of FLAIROx/JaxMARL>"
    write_claim(
        id="ground.train_ratio_jaxmarl_qmix",
        made=None if fresh else made_before("ground.train_ratio_jaxmarl_qmix"),
        unit="x",
        test="value >= 1.5",
        derive_with="experiments.benchmarks.train:ratio",
        raw=[RAW],
        command=command,
        note="team steps/s of QMIX on battle/3m over JaxMARL's own QMIX on SMAX 3m, while learning, equal "
        "width, envs, batch and updates per step, the worse of two mixer sizes; SMAX's observations are "
        "larger (75 against 30 features), about 9 % more arithmetic",
    )
    write_claim(
        id="ground.train_gflops_over_peak",
        made=None if fresh else made_before("ground.train_gflops_over_peak"),
        unit="1",
        test="value >= 0.5",
        derive_with="experiments.benchmarks.train:gflops_over_peak",
        raw=[RAW_SPLIT],
        command=command,
        note="matrix-product FLOP/s while updating QMIX on 3m over those of one 2048 x 2048 product in "
        "torch on the same two processors; the goal is the project's own",
    )


def main() -> None:
    parser = racing(COMMAND, __doc__, PEER_CODE)
    arguments = parser.parse_args()
    if arguments.table:
        publish(fresh=False)
        return
    source = need_source(parser, arguments, PEER_CODE)
    if arguments.smoke:
        measure(source, CASES[:1], repetitions=1, seconds=2.0)
        return
    require_quiet()
    rows, parts = measure(source, CASES, repetitions=5, seconds=4.0)
    write_rows(ROOT / RAW, rows)
    write_rows(ROOT / RAW_SPLIT, parts)
    print(split_table(ROOT / RAW_SPLIT))
    publish()


if __name__ == "__main__":
    main()
