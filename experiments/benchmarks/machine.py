"""What a timing ran on, and whether it had the machine to itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch

from marl.errors import MarlError

ROOT = Path(__file__).resolve().parents[2]
QUIET = 0.3  # CHOICE: processors that others may keep busy before a timing is refused


def busy(seconds: float = 1.0) -> float:
    """Processors that are busy now, over all processes, from /proc/stat; 0 where there is none."""

    def ticks() -> float:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return 0.0
        user, nice, system, _idle, _iowait, irq, softirq = (float(x) for x in fields[:7])
        return user + nice + system + irq + softirq

    before, start = ticks(), time.perf_counter()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - start)


def require_quiet() -> None:
    """Raise MarlError when other processes take processor time: a timing needs the machine to itself."""
    load = busy()
    if load > QUIET:
        raise MarlError(
            f"other processes keep {load:.1f} processors busy: end them, or pass --smoke for a trial run "
            "whose numbers are not kept"
        )


def matrix_peak(threads: int, size: int = 2048, repetitions: int = 5) -> float:
    """GFLOP/s of a large float32 matrix product, the most this machine gives; median of repetitions."""
    torch.set_num_threads(threads)
    a, b = torch.rand(size, size), torch.rand(size, size)
    rates = []
    for _ in range(repetitions + 1):  # the first one warms up
        start = time.perf_counter()
        a @ b
        rates.append(2 * size**3 / (time.perf_counter() - start) / 1e9)
    return float(np.median(rates[1:]))
