"""Training speed: our FairDICE against the released JAX code, at equal networks and batches, on the CPU.

    python -m experiments.benchmarks.peers fairdice
    python -m experiments.benchmarks.fairdice --peer-source <checkout of ku-dmlab/FairDICE>
    python -m experiments.benchmarks.fairdice --peer-source <...> --smoke    keeps nothing
    python -m experiments.benchmarks.fairdice --table                        claims from the raw file

About two minutes on a quiet machine. Both sides: one update of nu, mu and the policy on 256 of 50,000 random
transitions of the hopper's sizes; ReLU and LayerNorm, the gradient penalty, ends left out, as the code has
it. The peer's own update and buffer run from a checkout that you give; nothing of it is copied.

Ours depends on the data: where nu's slope is below the penalty's limit, as on most of such random rows, its
second derivative is not taken; the peer takes it always. On steep rows ours is slower.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path

from experiments.benchmarks.arguments import need_source, racing
from experiments.benchmarks.interleave import (
    Row,
    Worker,
    interleave,
    rate,
    ratios,
    read_rows,
    write_rows,
)
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.benchmarks.peers import python_of
from experiments.claims import Derived, write_claim

RAW = "experiments/fairdice/raw/speed.csv"
COMMAND = "python -m experiments.benchmarks.fairdice"
PEER_CODE = "ku-dmlab/FairDICE"
SIZES = ((256, 2), (768, 3))  # the code's defaults, and its run script's
SIDES = ("marl", "jax")
HOPPER = {"obs": 11, "actions": 3, "objectives": 2, "rows": 50_000}
CHUNK = 20  # updates between two looks at the clock
THREADS = 2


def measure(source: str, sizes: tuple[tuple[int, int], ...], repetitions: int, seconds: float) -> list[Row]:
    """Raw rows of the race; a step is an update."""
    rows: list[Row] = []
    for hidden, layers in sizes:
        about = {"hidden": hidden, "layers": layers}
        case = {**HOPPER, **about, "chunk": CHUNK}
        with (
            Worker(python_of("fairdice"), ["fairdice_jax"], threads=THREADS) as peer,
            Worker(sys.executable, ["marl_fairdice"], threads=THREADS) as mine,
        ):
            facts = peer.ask(prepare={**case, "source": source})
            print(f"jax at {hidden} x {layers}: compiled and warm after {facts['seconds']:.0f} s", flush=True)
            mine.ask(prepare={**case, "threads": THREADS})
            sides = dict(zip(SIDES, (mine, peer), strict=True))
            done = interleave(sides, repetitions=repetitions, seconds=seconds, about=about)
        print(summary(done), flush=True)
        rows += done
    return rows


def summary(rows: list[Row]) -> str:
    ours, peer = (statistics.median(rate(r) for r in rows if r["side"] == side) for side in SIDES)
    size = f"{rows[0]['hidden']} x {rows[0]['layers']}"
    return f"{size}: updates/s {ours:.1f}, jax {peer:.1f}, ratio {ours / peer:.2f}"


def _ratio(path: Path, hidden: int) -> Derived:
    return ratios([row for row in read_rows(path) if row["hidden"] == str(hidden)], *SIDES)


ratio_256 = partial(_ratio, hidden=256)
ratio_768 = partial(_ratio, hidden=768)


def claims() -> None:
    """Write the rows of the raw file."""
    for hidden, layers in SIZES:
        write_claim(
            id=f"fairdice.updates_ratio_jax_{hidden}x{layers}",
            unit="x",
            test="value >= 1",
            derive_with=f"experiments.benchmarks.fairdice:ratio_{hidden}",
            raw=[RAW],
            command=f"{COMMAND} --peer-source <checkout of ku-dmlab/FairDICE>",
            note=f"updates/s of FairDICE over the released JAX code's, networks {hidden} x {layers}, batch "
            "256, hopper's sizes, CPU, two threads; compilation excluded; random rows, on which nu is "
            "mostly flat; the goal is the project's own",
        )


def main() -> None:
    parser = racing(COMMAND, __doc__, PEER_CODE)
    arguments = parser.parse_args()
    if arguments.table:
        claims()
        return
    source = need_source(parser, arguments, PEER_CODE)
    if arguments.smoke:
        measure(source, ((32, 2),), repetitions=1, seconds=0.5)
        return
    require_quiet()
    write_rows(ROOT / RAW, measure(source, SIZES, repetitions=5, seconds=4.0))
    claims()


if __name__ == "__main__":
    main()
