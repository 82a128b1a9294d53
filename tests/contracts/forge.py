"""Processes of `marl` that start in a tenth of a second: forked from one that has imported everything.

Run as a script it is that process, the forge: it only imports, opens nothing and computes nothing, so that
what it forks is as new as a fresh interpreter with the same modules loaded. `Forge` talks to it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_MODULES = ("cli", "train", "measure", "resume", "summary", "workers")
_WORLDS = ("envs.battle", "envs.matrix_game", "agents.qmix", "agents.mappo")  # what most tests train
_MESSAGE = 1 << 20  # bytes, more than words and environment of any process


class Forge:
    """The parent of all; ends with its socket.

    Args:
        root: the checkout whose code it imports.
    """

    def __init__(self, root: Path) -> None:
        self._socket, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()]
            )

    def start(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Forged:
        """`marl <words>` in a folder, with these variables beside the forge's own."""
        shown, output = os.pipe()
        told, report = os.pipe()
        message = json.dumps([list(words), str(folder), dict(environment)]).encode()
        socket.send_fds(self._socket, [message], [output, report])
        os.close(output)
        os.close(report)
        return Forged(shown, told)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


class Forged:
    """A started process, as much of subprocess.Popen as tests use.

    Args:
        shown: pipe with what it prints.
        told: pipe with its process id, and its exit code once it has ended, a line each.
    """

    def __init__(self, shown: int, told: int) -> None:
        self._shown, self._told = os.fdopen(shown, "rb"), os.fdopen(told, "rb", buffering=0)
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(0.0)

    def _wait(self, seconds: float) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 60.0) -> tuple[str, None]:
        """All that it has printed, after its end."""
        deadline, parts = time.monotonic() + timeout, []
        while not self._shown.closed:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self._shown], [], [], left)[0]:
                raise subprocess.TimeoutExpired("marl", timeout)
            parts.append(os.read(self._shown.fileno(), _MESSAGE))
            if not parts[-1]:
                self._shown.close()
        if self._wait(max(0.0, deadline - time.monotonic())) is None:
            raise subprocess.TimeoutExpired("marl", timeout)
        return b"".join(parts).decode(), None


def serve(channel: socket.socket) -> list[str]:
    """Import, then fork at each message; returns in the process that shall run `marl`, with its words."""
    from marl import runtime

    runtime.prepare()
    for name in (*_MODULES, *_WORLDS):
        importlib.import_module(f"marl.{name}")
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    while True:
        message, (output, report), _, _ = socket.recv_fds(channel, _MESSAGE, 2)
        if not message:
            os._exit(0)
        if os.fork():
            os.close(output)
            os.close(report)
            continue
        channel.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if pid := os.fork():
            os.close(output)
            _watch(pid, report)
        os.close(report)
        words, folder, environment = json.loads(message)
        _settle(folder, environment, output)
        return words


def _watch(pid: int, report: int) -> NoReturn:
    """Tell the process id and, in the end, the exit code."""
    os.write(report, f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(report, f"{code}\n".encode())
    os._exit(0)


def _settle(folder: str, environment: Mapping[str, str], output: int) -> None:
    """What differs between two processes that a shell would start."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[0] = folder  # as `python -m` does
    tempfile.tempdir = None  # TMPDIR may be another
    nothing = os.open(os.devnull, os.O_RDONLY)
    for there, here in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(there, here)
    os.close(nothing)
    os.close(output)


if __name__ == "__main__":
    given = serve(socket.socket(fileno=int(sys.argv[1])))
    from marl import cli

    sys.argv = ["marl", *given]
    sys.exit(cli.main())
