"""The fastest of several ways to compute one thing: measured once per shape, and remembered.

The choice is kept in a file of the cache folder (`marl.native.cache_folder`), so that the next process
chooses as this one did. A backend that is named is never measured.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from marl.files import write_atomic
from marl.native import cache_folder

_ROUNDS = 7  # turns of every candidate; CHOICE
_SECONDS = 2e-4  # at least so long a turn; CHOICE
_SLOW = 0.02  # seconds of a call that needs no warm-up; CHOICE
_PLAIN = 1.5  # times the least that is slower beyond doubt; CHOICE
_DRAW = 1.03  # times that differ by less are a draw; CHOICE


def size_of(rows: int) -> int:
    """Batches of 2^(s-1) + 1 to 2^s rows are of one size, s."""
    return max(rows - 1, 0).bit_length()


def fastest(key: str, candidates: Mapping[str, Callable[[], Tensor]]) -> str:
    """The name of the fastest candidate, from memory where it holds this key.

    Args:
        key: what is computed, in words; the number of threads and the machine are added.
        candidates: functions that give equal results, by name; the first one wins a draw.
    """
    if len(candidates) == 1:
        return next(iter(candidates))
    full = f"{key}; {torch.get_num_threads()} threads; {'/'.join(candidates)}"
    known = _known()
    if full not in known:
        known[full] = _measure(candidates)
        _keep(full, known[full])
    return known[full]


def forget() -> None:
    """Drop all choices of this machine, those of the file too."""
    _known().clear()
    with suppress(OSError):
        _file().unlink()


def _measure(candidates: Mapping[str, Callable[[], Tensor]]) -> str:
    """Take turns; where a call is slow and the difference is plain, one turn is enough."""
    least = dict.fromkeys(candidates, math.inf)  # what others on the machine disturb least
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        for name, run in candidates.items():
            if least[name] == math.inf:
                start = time.perf_counter()
                run()  # warms up; a slow call counts already
                if (spent := time.perf_counter() - start) > _SLOW:
                    least[name] = spent
                    continue
            calls, start = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - start < _SECONDS:
                run()
                calls += 1
            least[name] = min(least[name], (time.perf_counter() - start) / calls)
        times = sorted(least.values())
        if time.perf_counter() - begin > _SLOW and times[1] > _PLAIN * times[0]:
            break
    return next(name for name in least if least[name] <= _DRAW * min(least.values()))


@functools.cache
def _known() -> dict[str, str]:
    """Choices of this process, beginning with those of the file."""
    return _read()


def _read() -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(_file().read_text())
        if isinstance(found, dict):
            return {str(key): str(name) for key, name in found.items()}
    return {}


def _keep(key: str, name: str) -> None:
    """Add a choice to the file; a folder that cannot be written costs a measurement next time."""
    with suppress(OSError):
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({key: name, **_read()}, indent=1, sort_keys=True)  # an older choice stays
        write_atomic(path, text.encode())


@functools.cache
def _machine() -> str:
    about = [torch.__version__, platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about += [line for line in lines if line.startswith(("model name", "cache size"))][:2]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]


def _file() -> Path:
    return cache_folder() / f"grouped-choices-{_machine()}.json"
