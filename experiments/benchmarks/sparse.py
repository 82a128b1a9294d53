"""Grouped layers against torch's dense layer: forward for every size, batch and G; training step; peers.

    python -m experiments.benchmarks.sparse                  40 minutes on a quiet machine; writes claims
    python -m experiments.benchmarks.sparse --table g16      one table: g2 g4 g8 g16 g32 train peers learning
                                                             changes
    python -m experiments.benchmarks.sparse --resume         tables that this commit has not measured yet
    python -m experiments.benchmarks.sparse --redraw         claims, tables and plots from the raw files
    python -m experiments.benchmarks.sparse --smoke          a minute, keeps nothing

Both sides are modules called under no_grad, in one process, in turn: dense, grouped, ..., dense, grouped, ...
OMP_WAIT_POLICY=PASSIVE and the memory settings of `marl.runtime` hold for all of them, as for `marl train`.
`network` is a layer inside a network: group-major in and out. `gathered` permutes its inputs (what remains
between two layers of different groups), `alone` its inputs and its outputs, at random. `ragged` draws the
sizes of the groups from a Dirichlet distribution; a ratio for it is over its own 1 / density. `learning`
trains whole teams (sparse_learning.py), `changes` takes parts of the kernels away (sparse_changes.py).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product

import torch

from experiments.benchmarks import sparse_changes, sparse_learning
from experiments.benchmarks import sparse_sides as sides
from experiments.benchmarks.interleave import Row, read_rows, write_rows
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.claims import commit
from experiments.sparse import speed
from marl import runtime
from marl.errors import require
from marl.sparse.backends import choose

COMMAND = "python -m experiments.benchmarks.sparse"
SIZES = ("128x128", "128x512", "256x256", "512x512", "1024x1024", "2048x2048", "4096x4096")
BATCHES = (1, 8, 32, 128, 512, 4096)
GROUPS = (2, 4, 8, 16, 32)
THREADS = (1, 2)
TRAIN_SIZES = ("512x512", "1024x1024", "2048x2048", "4096x4096")
TRAIN_BATCHES = (128, 512, 4096)
SLOWEST_TRAINING = 4096 * 4096 * 512  # multiplications of one dense forward: larger cells are left out
PEERS = (  # size, batch, G, whether torch.compile is tried: inductor takes many seconds for each
    ("128x128", 1, 16, True),
    ("128x512", 1, 16, False),
    ("128x512", 32, 16, True),
    ("512x512", 32, 8, False),
    ("512x512", 512, 4, False),
    ("512x512", 512, 32, False),
    ("1024x1024", 1, 16, False),
    ("1024x1024", 128, 2, False),
    ("1024x1024", 128, 16, True),
    ("1024x1024", 512, 16, False),
    ("2048x2048", 128, 16, False),
    ("2048x2048", 512, 32, True),
)
TABLES = (*(f"g{groups}" for groups in GROUPS), "train", "peers", "learning", "changes")
LEAST, MOST = 5, 25  # turns of each side
TURN, CELL = 0.003, 0.3  # seconds: at least so long a turn, at most so long a cell beyond its LEAST turns


def measure(runs: Mapping[str, Callable[[], object]], about: Mapping[str, object], least: int) -> list[Row]:
    """Take turns. Slow sides get `least` turns of one call; fast ones more turns of many calls."""
    calls: dict[str, int] = {}
    for name, run in runs.items():
        run()  # packs and chooses a backend, which may take long
        for _ in range(3):  # the last one counts
            start = time.perf_counter()
            run()
            spent = time.perf_counter() - start
            if spent > TURN:
                break
        calls[name] = max(1, math.ceil(TURN / max(spent, 1e-7)))
    rows: list[Row] = []
    begin = time.perf_counter()
    for repetition in range(MOST):
        if repetition >= least and time.perf_counter() - begin > CELL:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds = time.perf_counter() - start
            rows.append(
                {**about, "side": name, "repetition": repetition, "calls": calls[name], "seconds": seconds}
            )
    return rows


Cell = tuple[dict[str, object], Callable[[], dict[str, Callable[[], object]]]]


def cells(table: str, smoke: bool) -> Iterator[Cell]:
    """What a table measures: columns of the raw rows, and what makes the sides."""
    if table == "peers":
        for (size, batch, groups, compiled), threads in product(PEERS[:2] if smoke else PEERS, THREADS):
            about = {"size": size, "batch": batch, "groups": groups, "threads": threads}
            yield about, lambda a=about, c=compiled: sides.peers(**a, compiled=c and not smoke)  # type: ignore[misc]
    elif table == "changes":
        for size, batch, groups in sparse_changes.CELLS[:1] if smoke else sparse_changes.CELLS:
            about = {"size": size, "batch": batch, "groups": groups, "threads": 1}
            yield about, lambda a=about: sparse_changes.changes(**a)  # type: ignore[misc]
    elif table == "train":
        for size, batch, threads, groups in product(TRAIN_SIZES, TRAIN_BATCHES, THREADS, GROUPS):
            work = math.prod(sides.shape(size)) * batch
            if work > SLOWEST_TRAINING or (smoke and (size != "512x512" or groups != 16)):
                continue
            about = {"size": size, "batch": batch, "groups": groups, "threads": threads}
            yield about, lambda a=about: sides.training(**a)  # type: ignore[misc]
    else:
        sizes = SIZES[:2] if smoke else SIZES
        batches = (1, 32) if smoke else BATCHES
        for size, batch, threads in product(sizes, batches, THREADS):
            about = {"size": size, "batch": batch, "groups": int(table[1:]), "threads": threads}
            yield about, lambda a=about: sides.forward(**a)  # type: ignore[misc]


def run_table(table: str, smoke: bool) -> list[Row]:
    """All rows of one table, with progress and the time that is left."""
    if table == "learning":
        return sparse_learning.rows(smoke)
    todo = list(cells(table, smoke))
    weights = [1 + sides.cost(about) for about, _ in todo]
    start, done, rows = time.perf_counter(), 0.0, []
    for (about, make), weight in zip(todo, weights, strict=True):
        with sides.threads(int(str(about["threads"]))), torch.no_grad():
            rows += measure(make(), about, 2 if smoke else LEAST)
        done += weight
        spent = time.perf_counter() - start
        left = spent / done * (sum(weights) - done)
        print(f"{table}: {speed.summary(rows, about)}; about {left:.0f} s left", flush=True)
    return rows


def _raw_of_now(table: str) -> bool:
    path = ROOT / speed.raw(table)
    return path.is_file() and read_rows(path)[0].get("commit") == commit()


def main() -> None:
    """Entry point."""
    if "OMP_WAIT_POLICY" not in os.environ:  # OpenMP reads it when torch is loaded, which has happened
        runtime.prepare()
        os.execv(sys.executable, [sys.executable, "-m", "experiments.benchmarks.sparse", *sys.argv[1:]])
    runtime.prepare()
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--table", action="append", help=f"one of {' '.join(TABLES)}; may be repeated")
    parser.add_argument("--resume", action="store_true", help="skip tables that this commit has measured")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on a busy machine; keeps nothing")
    options = parser.parse_args()
    tables = options.table or TABLES
    for table in tables:
        require(table in TABLES, "--table", table, f"give one of {', '.join(TABLES)}")
    if options.smoke:
        for table in tables:
            run_table(table, smoke=True)
        return
    if not options.redraw:
        require_quiet()
        choose.forget()  # what a busy machine has chosen
        for table in tables:
            if options.resume and _raw_of_now(table):
                continue
            start = time.perf_counter()
            stamp = commit()
            write_rows(ROOT / speed.raw(table), [{**row, "commit": stamp} for row in run_table(table, False)])
            print(f"{table}: {time.perf_counter() - start:.0f} s", flush=True)
    speed.publish(COMMAND, made_now=not options.redraw)


if __name__ == "__main__":
    main()
