"""A bar on a terminal, plain lines elsewhere."""

import io
import math

import pytest

from marl import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_plain_lines_have_speed_time_left_and_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    shown = progress.Progress(1000, 0, stream)
    shown.show({"train/return": 1.234, "eval/success": 0.5, "train/loss": 3.0, "eval/return": math.nan})
    now = 1.0
    shown.advance(10)
    assert stream.getvalue() == ""  # not a line for every step
    now = 20.0
    shown.advance(200)
    assert (
        stream.getvalue()
        == "200/1,000 steps (20%)  10 steps/s  1 min 20 s left  return 1.23  eval success 50.0%\n"
    )
    now = 100.0
    shown.advance(1200)  # a rollout's last steps may go beyond
    assert " 0 s left" in stream.getvalue().splitlines()[-1]
    shown.say("done")
    shown.close()
    assert stream.getvalue().endswith("done\n")
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown = progress.Progress(1000, 0, stream)
    shown.show({"eval/success": 0.25, "train/return": 3.0})
    shown.close()
    assert "eval success 25.0%" in stream.getvalue()
    assert "\u2026" not in stream.getvalue()  # nothing was cut off
    length = len(stream.getvalue())
    shown.say("after")
    assert stream.getvalue()[length:] == "after\n"
