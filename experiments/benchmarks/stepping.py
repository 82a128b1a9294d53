"""What the benchmarks of worlds share: a random policy steps our forms and the peers' worlds in turns."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.benchmarks.interleave import Row, Worker, interleave, rate, write_rows
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.benchmarks.peers import python_of

Form = tuple[str | None, int]  # of a world of ours: "native", "torch" or None for its only one; threads


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to step on every side.

    Args:
        about: columns that its raw rows carry.
        words: our world, in the words of a command line.
        envs: batch size B of ours.
        peers: name: what its worker prepares.
    """

    about: Mapping[str, Any]
    words: tuple[str, ...]
    envs: int
    peers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def measure(
    cases: Iterable[Case],
    ours: Mapping[str, Form],
    peers: Mapping[str, tuple[str, int]],
    *,
    repetitions: int,
    seconds: float,
) -> list[Row]:
    """All cases; the workers live through all of them, so that nothing but the case changes.

    Args:
        cases: in their order.
        ours: name of a side of ours and its form.
        peers: name of a peer, its worker and how many processors it has.
        repetitions: turns of each side.
        seconds: at least so long a turn.
    """
    rows: list[Row] = []
    with ExitStack() as stack:

        def start(python: Path | str, module: str, threads: int) -> Worker:
            return stack.enter_context(Worker(python, [module], threads=threads))

        mine = {name: start(sys.executable, "marl_env", threads) for name, (_, threads) in ours.items()}
        theirs = {name: start(python_of(name), *worker) for name, worker in peers.items()}
        for case in cases:
            for name, (form, threads) in ours.items():
                size = {"envs": case.envs, "form": form, "threads": threads}
                mine[name].ask(prepare={"words": case.words, **size})
            for name, settings in case.peers.items():
                spent = theirs[name].ask(prepare=settings)["seconds"]
                print(f"{_title(case.about)}: {name} built and warm after {spent:.0f} s", flush=True)
            sides = mine | {name: theirs[name] for name in case.peers}
            done = interleave(sides, repetitions=repetitions, seconds=seconds, about=case.about)
            print(summary(done, case.about), flush=True)
            rows += done
    return rows


def _title(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())


def summary(rows: list[Row], about: Mapping[str, Any]) -> str:
    """Medians of one case in one line."""
    names = dict.fromkeys(row["side"] for row in rows)
    medians = {name: statistics.median(rate(r) for r in rows if r["side"] == name) for name in names}
    parts = ", ".join(f"{name} {value:,.0f}" for name, value in medians.items())
    return f"{_title(about)}, team steps/s: {parts}"


def run(
    *,
    command: str,
    text: str,
    raw: str,
    trial: Callable[[str], list[Row]],
    whole: Callable[[str], list[Row]],
    claims: Callable[[], None],
    source: str = "",
) -> None:
    """The command line of such a benchmark.

    Args:
        command, text: how it is called, and its help.
        raw: where the rows of the whole run go.
        trial: measures tiny sizes on a busy machine; nothing is kept.
        whole: measures all, on a quiet one. Both take the checkout that `source` asks for.
        claims: writes the rows that the raw file supports.
        source: repository whose checkout the user must give; "" for none.
    """
    parser = argparse.ArgumentParser(
        prog=command, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on a busy machine; keeps nothing")
    if source:
        parser.add_argument("--peer-source", required=True, help=f"checkout of {source}")
    arguments = parser.parse_args()
    checkout = str(Path(arguments.peer_source).resolve()) if source else ""
    if arguments.smoke:
        trial(checkout)
        return
    require_quiet()
    write_rows(ROOT / raw, whole(checkout))
    claims()
