"""What a process sets before torch is loaded: how threads wait, and how memory is had and kept.

Both matter where batches are large: `python -m experiments.benchmarks.env` measures with them on.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h> of glibc
_KEEP = 1 << 30  # bytes of freed memory that stay with the process; CHOICE: batches of the largest maps
_MMAP = 32 << 20  # bytes; glibc's upper limit of the threshold on 64-bit systems


def prepare() -> None:
    """Call once, before torch is imported; settings that the user made stay as they are."""
    # torch's OpenMP threads would spin after each operation and take the cores of the native kernels.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Tensors of 2 MiB and more lie in huge pages (Linux): what glibc maps anew every time, above 32 MiB, then
    # takes a few page faults and not thousands.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: a step's tensors come back without new page faults (Linux)."""
    if not sys.platform.startswith("linux") or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP)
        mallopt(_M_TRIM_THRESHOLD, _KEEP)
