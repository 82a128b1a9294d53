"""One JSON object per line over stdin and stdout; only the standard library, every peer can import it.

    {"prepare": {...}}  -> {"seconds": wall seconds of building, compiling and warming up, ...}
    {"measure": 1.5}    -> {"steps": team steps done, "seconds": wall seconds they took, ...}

Every reply also carries "peak_mib", the most memory that the process has held so far.
Other lines on stdout (libraries print at import) are skipped. End of input ends the worker; while it
waits it is blocked in a read and takes no processor time.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Measure = Callable[[float], dict[str, Any]]


def serve(prepare: Callable[..., tuple[Measure, dict[str, Any]]]) -> None:
    """Answer requests until the input ends.

    Args:
        prepare: takes the case as keyword arguments; returns the function that measures for at
            least so many seconds, and facts about the side (versions, sizes) for its reply.
    """
    measure: Measure | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            measure = None  # let go of the case before, so that two are never held at once
            start = time.perf_counter()
            measure, facts = prepare(**request["prepare"])
            reply = {"seconds": time.perf_counter() - start, **facts}
        else:
            assert measure is not None, "measure before prepare"
            reply = measure(request["measure"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
        print(json.dumps(reply | {"peak_mib": round(peak, 1)}), flush=True)


def steady(call: Callable[[], int]) -> Measure:
    """Warm up, then `timed` with the seconds of processor time beside."""
    for _ in range(2):
        call()

    def measure(seconds: float) -> dict[str, Any]:
        cpu = time.process_time()
        return timed(call, seconds) | {"cpu_s": time.process_time() - cpu}

    return measure


def timed(call: Callable[[], int], seconds: float) -> dict[str, Any]:
    """Repeat a call that returns its number of steps until `seconds` have passed."""
    steps, start = 0, time.perf_counter()
    while True:
        steps += call()
        spent = time.perf_counter() - start
        if spent >= seconds:
            return {"steps": steps, "seconds": spent}
