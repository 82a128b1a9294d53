"""How a run shows where it is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

_PLAIN_EVERY_S = 10.0  # CHOICE: seconds between two plain lines, so that log files stay short
_REDRAW_EVERY_S = 0.2  # CHOICE: seconds between two redraws of the bar
_MEMORY_S = 20.0  # CHOICE: time constant of the speed shown, seconds


class Progress:
    """Steps, speed, time left and the newest metrics of one run.

    Args:
        total: steps at which the run ends.
        done: steps made before this process (a resumed run).
        stream: where to print; a terminal gets a bar.
    """

    def __init__(self, total: int, done: int, stream: TextIO | None = None) -> None:
        self._total, self._done = total, done
        self._stream = stream or sys.stderr
        self._shown: dict[str, str] = {}
        self._last_time = time.monotonic()
        self._last_done, self._rate = done, 0.0
        self._bar: Any = None
        if self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._task = self._bar.add_task("train", total=total, completed=done, note="")
            self._bar.start()

    def show(self, values: Mapping[str, float]) -> None:
        """Remember metrics for the next time something is printed."""
        for name, value in values.items():
            short = name.split("/")[-1]
            if short in ("return", "success") and value == value:
                kind = "eval " if name.startswith("eval/") else ""
                self._shown[kind + short] = f"{value:.1%}" if short == "success" else f"{value:.2f}"

    def advance(self, done: int) -> None:
        """Say how many steps are made; prints when it is time to."""
        self._done = done
        elapsed = time.monotonic() - self._last_time
        if elapsed < (_REDRAW_EVERY_S if self._bar else _PLAIN_EVERY_S):
            return
        rate = (done - self._last_done) / elapsed
        weight = min(1.0, elapsed / _MEMORY_S) if self._rate else 1.0
        self._rate += weight * (rate - self._rate)
        self._last_time, self._last_done = time.monotonic(), done
        if self._bar:
            self._bar.update(self._task, completed=done, note=self._note(short=True), refresh=True)
        else:
            self.say(f"{done:,}/{self._total:,} steps ({done / self._total:.0%})  {self._note()}")

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Draw the bar for the last time; what is said after this are plain lines."""
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=self._note(short=True), refresh=True)
            self._bar.stop()
            self._bar = None

    def _note(self, short: bool = False) -> str:
        """Speed, time left and metrics; short fits beside a bar in 80 columns."""
        left = max(0, self._total - self._done) / self._rate if self._rate > 0 else float("nan")
        words = [f"{self._rate:,.0f} steps/s", f"{duration(left)} left"]
        shown = list(self._shown.items())
        if short:
            order = ("eval success", "success", "eval return", "return")
            shown = [(name, self._shown[name]) for name in order if name in self._shown][:1]
        return "  ".join(words + [f"{name} {value}" for name, value in shown])


def _make_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(file=stream),
        auto_refresh=False,
    )


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 07 min."""
    if seconds != seconds or seconds > 1e7:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
