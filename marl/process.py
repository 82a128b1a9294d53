"""What a run does to its process: threads, determinism, signals and the global generators."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from marl.config import RunConfig
from marl.errors import FieldError

PARENT = "MARL_PARENT"  # environment variable: process id of the study that started this process
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def prepare_process(cfg: RunConfig) -> None:
    """Threads, device and deterministic algorithms of this process."""
    if cfg.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for to be deterministic
        index = int(cfg.device.partition(":")[2] or 0)
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise FieldError(
                "device", cfg.device, f"{torch.cuda.device_count()} GPUs are seen; give device=cpu"
            )
    torch.set_num_threads(cfg.threads)
    # The same switch as use_deterministic_algorithms(True), which also imports torch's compiler (seconds).
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, only for bugs


def end_with_parent() -> None:
    """Make the system send SIGTERM when the study that started this process dies (Linux)."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1  # <linux/prctl.h>
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)


class Signals:
    """Remembers the first SIGTERM or SIGINT; a second one acts as if this were not here."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[int, Any] = {}
        self._stop: Callable[[int], None] | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            end_with_parent()
            self._old = {n: signal.signal(n, self._receive) for n in SIGNALS}
        return self

    def _receive(self, number: int, frame: object) -> None:
        self.received = number
        self._restore()
        if self._stop is not None:
            self._stop(number)

    @contextmanager
    def at_once(self, stop: Callable[[int], None]) -> Iterator[None]:
        """Within, a signal calls `stop`, which raises: for long work that nobody has to wait for.

        Args:
            stop: gets the signal's number; called at once if one has come already.
        """
        self._stop = stop
        try:
            if self.received is not None:
                stop(self.received)
            yield
        finally:
            self._stop = None

    def _restore(self) -> None:
        for n, old in self._old.items():
            signal.signal(n, old)
        self._old = {}

    def __exit__(self, *error: object) -> None:
        self._restore()


def global_state() -> dict[str, Any]:
    """States of the global generators, for code that draws from them."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = list(torch.cuda.get_rng_state_all())
    return state


def set_global_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
