"""Who steps the copies: worker processes (`Pool`), or this process (`Here`). Both fill the same blocks.

A step costs one byte to each worker and one back; observations, actions and rewards stay where they are, in
shared memory. Nothing is ever pickled: jobs and plans travel as JSON.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from marl.errors import EnvError, FieldError, MarlError
from marl.foreign.blocks import Blocks, anonymous_file, bytes_needed
from marl.foreign.group import Group, Job, place
from marl.foreign.plan import Plan
from marl.foreign.worker import DONE, FAILED, RENDER, RESET, STEP, is_crash

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from marl.foreign.worker import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])"
)
_LOGS = "marl-env-"  # folders of workers' logs, in the system's place for temporary files
_T = TypeVar("_T")
_PATIENCE = 1.0  # seconds that a worker has to close its environments; CHOICE


class Here:
    """All copies in this process: no timeouts, and a crash of native code takes the run with it.

    Args:
        job: copies 0 .. B - 1.
        limit_of: the longest episode, from the plan.
    """

    def __init__(self, job: Job, limit_of: Callable[[Plan], int]) -> None:
        self._group = _logged(lambda: Group(job))
        self.plan = self._group.plan
        self.blocks = Blocks(self.plan, job.copies, 1)
        self._group.attach(self.plan, self.blocks, limit_of(self.plan))
        self.close = weakref.finalize(self, self._group.close)

    def reset(self) -> None:
        _logged(self._group.reset)

    def step(self) -> None:
        _logged(self._group.step)

    def render(self, index: int) -> np.ndarray:
        try:
            return self._group.render(index)
        except Exception as error:
            raise NotImplementedError(f"{type(error).__name__}: {error}") from error


def _logged(do: Callable[[], _T]) -> _T:
    """Call; where an environment crashes, its traceback goes to a file that the sentence names."""
    try:
        return do()
    except MarlError as error:
        if not is_crash(error):
            raise
        log = Path(tempfile.mkdtemp(prefix=_LOGS)) / "traceback.log"
        log.write_text(traceback.format_exc())
        raise EnvError(f"{error} (traceback: {log})") from error


class Pool:
    """Copies dealt out to worker processes.

    Args:
        jobs: one per worker.
        limit_of: the longest episode, from the plan.
        timeout_s: seconds that a worker may take for one answer.

    Raises:
        MarlError: as `Group`; or a worker died or gave no answer.
    """

    def __init__(self, jobs: list[Job], limit_of: Callable[[Plan], int], timeout_s: float) -> None:
        if os.name != "posix":
            raise FieldError("env.workers", len(jobs), "workers need Linux or macOS; give env.workers=0")
        self._jobs, self._timeout_s, self._broken = jobs, timeout_s, ""
        self._blocks: Blocks | None = None
        self._hands = _Hands()
        self.close = weakref.finalize(self, self._hands.close)  # also at the interpreter's exit
        for job in jobs:
            self._hands.start(job)
        plans = [Plan.from_json(reply) for reply in self._gather("opening the environment")]
        self.plan = plans[0]
        copies, workers = jobs[0].copies, len(jobs)
        length = bytes_needed(self.plan, copies, workers)
        os.ftruncate(self._hands.memory, length)
        self.blocks = Blocks(self.plan, copies, workers, mmap.mmap(self._hands.memory, length))
        begin = {"plan": self.plan.to_json(), "limit": limit_of(self.plan)}
        self._ask(json.dumps(begin).encode(), "opening the environment")
        self._blocks = self.blocks

    def reset(self) -> None:
        self._ask(RESET, "resetting")

    def step(self) -> None:
        self._ask(STEP, "stepping")

    def render(self, index: int) -> np.ndarray:
        """RGB picture of a copy.

        Raises:
            NotImplementedError: the environment could not draw one.
        """
        worker = next(job.worker for job in self._jobs if index < job.last)
        self._hands.connections[worker].send_bytes(RENDER + str(index).encode())
        reply = self._receive(worker, "drawing")
        if reply[:1] == FAILED:
            raise NotImplementedError(reply[1:].decode())
        shape, _, pixels = reply[1:].partition(b"\n")
        return np.frombuffer(pixels, np.uint8).reshape(json.loads(shape)).copy()

    def _ask(self, command: bytes, doing: str) -> None:
        if self._broken:
            raise EnvError(self._broken)
        self._broken = "the environment's workers were stopped: build it again"  # unless all answer
        for worker, channel in enumerate(self._hands.connections):
            try:
                channel.send_bytes(command)
            except OSError:  # it has died; what it said before is told below
                self._receive(worker, doing)
        self._gather(doing)
        self._broken = ""

    def _gather(self, doing: str) -> list[bytes]:
        """One answer of every worker, without its first byte."""
        replies = [b""] * len(self._jobs)
        waiting = dict(zip(self._hands.connections, range(len(self._jobs)), strict=True))
        deadline = time.monotonic() + self._timeout_s
        while waiting:
            ready = connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                self._fail_silent(next(iter(waiting.values())), doing)
            for channel in ready:
                assert isinstance(channel, Connection)
                worker = waiting.pop(channel)
                reply = self._receive(worker, doing)
                if reply[:1] == FAILED:
                    self._fail(worker, json.loads(reply[1:]))
                assert reply[:1] == DONE
                replies[worker] = reply[1:]
        return replies

    def _receive(self, worker: int, doing: str) -> bytes:
        channel = self._hands.connections[worker]
        try:
            if channel.poll(self._timeout_s):
                return channel.recv_bytes()
        except (EOFError, OSError):
            self._fail_dead(worker, doing)
        self._fail_silent(worker, doing)
        raise AssertionError

    def _fail(self, worker: int, error: Mapping[str, Any]) -> None:
        """Raise again what a worker raised."""
        log = self._hands.stop(keep=worker if error["crash"] else None)
        if "field" in error:
            raise FieldError(error["field"], error["value"], error["fix"])
        raise EnvError(error["message"] + (f" (traceback: {log})" if error["crash"] else ""))

    def _fail_dead(self, worker: int, doing: str) -> None:
        code = self._hands.wait(worker)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        log = self._hands.stop(keep=worker)
        raise EnvError(f"{self._where(worker)}: its worker process {how} while {doing} (log: {log})")

    def _fail_silent(self, worker: int, doing: str) -> None:
        log = self._hands.stop(keep=worker)
        limit = f"{self._timeout_s:g} s"
        fix = "raise env.timeout_s if it only is slow"
        raise EnvError(f"{self._where(worker)}: no answer within {limit} of {doing}; {fix} (log: {log})")

    def _where(self, worker: int) -> str:
        """The copy that a worker is busy with."""
        job = self._jobs[worker]
        if self._blocks is None:
            return f"envs {job.first} to {job.last - 1} of {job.target}"
        return place(job.target, self._blocks, int(self._blocks.at_W[worker]))


class _Hands:
    """Processes, sockets, shared memory and logs: all that must be given back, whatever happens."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.connections: list[Connection] = []
        self.memory = anonymous_file()
        self.folder = Path(tempfile.mkdtemp(prefix=_LOGS))
        self.keep_logs = False

    def start(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        log = self._log(job.worker)
        words = [json.dumps(sys.path), str(theirs.fileno()), str(self.memory), str(os.getpid()), str(log)]
        with theirs, log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), self.memory),
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # there are as many workers as cores already
                start_new_session=True,  # Ctrl-C is for the run, which then ends its workers
            )
        self.processes.append(process)
        self.connections.append(Connection(ours.detach()))
        self.connections[-1].send_bytes(json.dumps(asdict(job)).encode())

    def wait(self, worker: int) -> int:
        """Exit code of a process whose socket has closed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.processes[worker].wait(_PATIENCE)
        self.processes[worker].kill()
        return self.processes[worker].wait()

    def stop(self, keep: int | None) -> Path:
        """Close after a failure, keeping the log of one worker; returns its path."""
        self.keep_logs = keep is not None
        self.close(patience=0.0)
        for worker in range(len(self.processes)):
            if self.keep_logs and worker != keep:
                self._log(worker).unlink(missing_ok=True)
        return self._log(keep or 0)

    def close(self, patience: float = _PATIENCE) -> None:
        """End everything; may be called again."""
        for channel in self.connections:
            channel.close()  # a worker that waits for a command sees this and ends
        deadline = time.monotonic() + patience
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1
        if not self.keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _log(self, worker: int) -> Path:
        return self.folder / f"worker-{worker}.log"
