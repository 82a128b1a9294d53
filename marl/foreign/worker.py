"""A worker process: opens its copies, then resets or steps them at a byte's command. Imports no torch."""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from marl.errors import EnvError, FieldError, MarlError
from marl.foreign.blocks import Blocks, bytes_needed
from marl.foreign.group import Group, Job
from marl.foreign.plan import Plan

# One byte each way; what follows a byte is JSON or a picture.
RESET, STEP, RENDER = b"r", b"s", b"p"
DONE, FAILED = b"k", b"!"


def main(channel: int, memory: int, parent: int, log: str) -> None:
    """Serve until the channel closes.

    Args:
        channel: descriptor of a socket to the run.
        memory: descriptor of the file that holds the blocks; sized once the run knows the plan.
        parent: process id of the run.
        log: where this process's output goes; removed when all went well.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(channel)
    group: Group | None = None
    try:
        job = Job(**json.loads(connection.recv_bytes()))
        group = Group(job)
        connection.send_bytes(DONE + group.plan.to_json().encode())
        begin: dict[str, Any] = json.loads(connection.recv_bytes())
        plan = Plan.from_json(begin["plan"])
        buffer = mmap.mmap(memory, bytes_needed(plan, job.copies, job.workers))
        group.attach(plan, Blocks(plan, job.copies, job.workers, buffer), begin["limit"])
        connection.send_bytes(DONE)
        _serve(connection, group)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the run has closed its end, or is gone
        _forget(Path(log))
    except MarlError as error:
        traceback.print_exc()
        sys.stderr.flush()
        _report(connection, error)
    finally:
        if group is not None:
            group.close()


def _serve(connection: Connection, group: Group) -> None:
    while True:
        command = connection.recv_bytes()
        if command[:1] == STEP:
            group.step()
            connection.send_bytes(DONE)
        elif command[:1] == RESET:
            group.reset()
            connection.send_bytes(DONE)
        else:
            _draw(connection, group, int(command[1:]))


def _draw(connection: Connection, group: Group, index: int) -> None:
    try:
        picture = group.render(index)
    except Exception as error:  # a run goes on without pictures
        traceback.print_exc()
        connection.send_bytes(FAILED + f"{type(error).__name__}: {error}".encode())
        return
    shape = json.dumps(picture.shape).encode()
    connection.send_bytes(DONE + shape + b"\n" + picture.tobytes())


def _report(connection: Connection, error: MarlError) -> None:
    """Send the error in the form that the run raises it again."""
    out: dict[str, Any] = {"message": str(error), "crash": is_crash(error)}
    if isinstance(error, FieldError):
        out |= {"field": error.field, "value": error.value, "fix": error.fix}
    connection.send_bytes(FAILED + json.dumps(out).encode())


def is_crash(error: MarlError) -> bool:
    """Whether code of the environment raised it, so that its traceback says more than the sentence."""
    cause = error.__cause__
    return isinstance(error, EnvError) and cause is not None and not isinstance(cause, MarlError)


def _forget(log: Path) -> None:
    try:
        log.unlink()
        log.parent.rmdir()
    except OSError:
        pass  # the run has removed it, or another worker still writes there


def _end_with(parent: int) -> None:
    """End this process when the run is gone, whatever the environment is doing."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
