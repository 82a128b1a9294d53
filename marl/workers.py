"""Worker processes of a study: start, watch, stop, retry once.

A worker is `python -m marl.cli train ...` in a session of its own, so that Ctrl-C reaches this
process alone, which then asks every worker for its checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from marl import checkpoint, files, raw, results
from marl.errors import CorruptFileError, Interrupted
from marl.process import PARENT, Signals
from marl.progress import Progress
from marl.study import Job, Study

_POLL_S = 0.2  # CHOICE: seconds between two looks at the workers
_STOP_S = 120.0  # CHOICE: seconds that a worker gets for its checkpoint before it is killed
_TRIES = 2  # a failed run is tried once more
_TAIL = 4096  # bytes of metrics.jsonl that hold its last line


def is_finished(job: Job) -> bool:
    """Whether the job's run folder holds the results of a finished run."""
    try:
        return results.read(job.cfg.folder)["status"] == "finished"
    except CorruptFileError:
        return False


def outcome(study: Study, job: Job) -> dict[str, Any] | None:
    """Results of the job's finished run, from its folder or else its raw file; None if there is neither."""
    if is_finished(job):
        return results.read(job.cfg.folder)
    return raw.outcome(study, job) if study.raw else None


def finished(study: Study) -> list[tuple[Job, dict[str, Any]]]:
    """Every finished job with its results."""
    found = [(job, outcome(study, job)) for job in study.jobs]
    return [(job, out) for job, out in found if out is not None]


@dataclass
class _Worker:
    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float
    attempt: int
    timed_out: bool = False


class _Pool:
    """The queue of a study and its running workers."""

    def __init__(self, study: Study, count: int) -> None:
        self.study, self.count = study, count
        self.running: list[_Worker] = []
        self.problems: list[str] = []
        self.queue: deque[tuple[Job, int]] = deque()
        self.done = self.elsewhere = 0
        self.jobs = study.asked
        for job in self.jobs:
            if is_finished(job):
                self._finish(job)
            elif outcome(study, job) is not None:  # finished elsewhere: its folder is not on this machine
                self.done += 1
                self.elsewhere += 1
            else:
                self.queue.append((job, 1))

    def _finish(self, job: Job) -> None:
        self.done += 1
        if self.study.raw:
            raw.write(self.study, job)
        if self.study.after is not None:
            self.study.after(job)

    def start(self) -> None:
        """Fill free places with the next jobs."""
        while self.queue and len(self.running) < self.count:
            job, attempt = self.queue.popleft()
            files.make_folder(job.cfg.folder)
            log = open(job.cfg.folder / "log.txt", "ab")  # noqa: SIM115 - open as long as the worker
            environment = os.environ | {
                PARENT: str(os.getpid()),
                "OMP_NUM_THREADS": str(job.cfg.threads),
                "MKL_NUM_THREADS": str(job.cfg.threads),
            }
            process = subprocess.Popen(
                command(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            self.running.append(_Worker(job, process, log, time.monotonic(), attempt))

    def reap(self, say: Any) -> None:
        """Take what has ended out of the running list; queue a failure once more."""
        for worker in list(self.running):
            limit = worker.job.time_limit_s
            if limit is not None and not worker.timed_out and time.monotonic() - worker.started > limit:
                worker.timed_out = True
                worker.process.send_signal(signal.SIGTERM)
            elif worker.timed_out and time.monotonic() - worker.started > (limit or 0.0) + _STOP_S:
                worker.process.kill()
            code = worker.process.poll()
            if code is None:
                continue
            worker.log.close()
            self.running.remove(worker)
            run_id = worker.job.cfg.run_id
            if code == 0 and is_finished(worker.job):
                self._finish(worker.job)
                say(f"[{self.done}/{len(self.jobs)}] {_outcome(worker.job)}")
            elif worker.timed_out:
                self.problems.append(f"{run_id} reached its time limit; start the study again to continue it")
                say(self.problems[-1])
            elif worker.attempt < _TRIES:
                say(f"{run_id} ended with code {code}; it is tried once more")
                self.queue.append((worker.job, worker.attempt + 1))
            else:
                where = worker.job.cfg.folder / "log.txt"
                self.problems.append(
                    f"{run_id} failed {_TRIES} times (code {code}), see {where}: {_last_line(where)}"
                )
                say(self.problems[-1])

    def stop(self) -> list[str]:
        """Ask every worker for a checkpoint; kill those that do not end, and name their runs."""
        killed = []
        for worker in self.running:
            worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for worker in self.running:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
                killed.append(worker.job.cfg.run_id)
            worker.log.close()
        self.running = []
        return killed

    def steps(self) -> int:
        """Steps made by all runs of the list so far."""
        waiting = {id(job) for job, _ in self.queue}
        running = {id(w.job) for w in self.running}
        total = 0
        for job in self.jobs:
            if id(job) in running or id(job) in waiting:
                total += min(_last_step(job.cfg.folder), job.cfg.total_steps)
            else:
                total += job.cfg.total_steps
        return total


def command(job: Job) -> list[str]:
    """The words that start or continue a job."""
    cfg = job.cfg
    start = [sys.executable, "-m", "marl.cli", "train"]
    if checkpoint.steps(cfg.folder):
        trust = [f"trust=[{','.join(cfg.trust)}]"] if cfg.trust else []
        return [*start, f"resume={cfg.folder}", *trust]
    return [*start, *job.overrides, f"run_id={cfg.run_id}"]


def drain(study: Study, count: int) -> list[str]:
    """Run every job that is not finished.

    Returns:
        One sentence per run that failed twice or reached its time limit.

    Raises:
        Interrupted: a signal came; the workers have written their checkpoints.
    """
    pool = _Pool(study, count)
    progress = Progress(sum(job.cfg.total_steps for job in pool.jobs), pool.steps())
    progress.say(f"{study.name}: {len(pool.jobs)} runs, {pool.done} finished, {count} at a time")
    if pool.elsewhere:
        fix = f"remove their files in {study.folder / 'raw'} to run them again"
        progress.say(f"{pool.elsewhere} of them were finished elsewhere: {fix}")
    try:
        with Signals() as signals:
            while pool.queue or pool.running:
                pool.start()
                pool.reap(progress.say)
                progress.advance(pool.steps())
                if signals.received is not None:
                    killed = pool.stop()
                    done = "every run has written its checkpoint"
                    if killed:
                        done = f"{', '.join(killed)} did not end within {_STOP_S:.0f} s and was killed"
                    name = signal.Signals(signals.received).name
                    fix = "the same command goes on from the last checkpoints"
                    raise Interrupted(signals.received, f"{name}: {done}; {fix}")
                time.sleep(_POLL_S)
    finally:
        pool.stop()
        progress.close()
    return pool.problems


def _outcome(job: Job) -> str:
    final = results.read(job.cfg.folder)["final"] or {}
    parts = [
        f"{name} {sum(final[name][0]) / len(final[name][0]):.3f}"
        for name in ("success", "return")
        if name in final
    ]
    return "  ".join([job.cfg.run_id, *parts])


def _last_step(folder: Path) -> int:
    """Step of the last whole line of metrics.jsonl; 0 before there is one."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError, KeyError):
        return 0


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
