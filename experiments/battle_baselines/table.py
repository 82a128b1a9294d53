"""From raw rows to win rates with intervals: the table, the plot and the claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from experiments.benchmarks.interleave import read_rows
from experiments.claims import Derived
from marl import plots, stats

MAPS = ("3m", "8m", "2s3z", "3s5z", "3s_vs_3z", "3s_vs_5z", "MMM", "5m_vs_6m", "corridor", "2c_vs_64zg")
POLICIES = ("random", "nearest", "heuristic", "focus", "kiting")


@dataclass(frozen=True)
class Share:
    """How many of n episodes were won, over so many seeds."""

    won: int
    n: int
    seeds: int

    @property
    def value(self) -> float:
        return self.won / self.n

    def interval(self) -> tuple[float, float]:
        """95 % interval of the share, Wilson's.

        The episodes of a scripted team are independent draws, whatever the seed, so that they are pooled.
        """
        _, low, high = stats.share([1] * self.won + [0] * (self.n - self.won)).numbers()
        assert low is not None
        assert high is not None
        return low, high

    def text(self) -> str:
        """Per cent: value (low to high)."""
        low, high = self.interval()
        return f"{100 * self.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def shares(path: Path) -> dict[str, Share]:
    """Win share per policy from the raw rows of one map."""
    rows = read_rows(path)
    out = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        seeds = len({row["seed"] for row in mine})
        out[policy] = Share(sum(int(row["won"]) for row in mine), len(mine), seeds)
    return out


def markdown(folder: Path, maps: Sequence[str] = MAPS) -> str:
    """Table of wins in per cent with intervals, a line per map."""
    lines = ["| map | " + " | ".join(POLICIES) + " |", "|---|" + "---|" * len(POLICIES)]
    for name in maps:
        found = shares(folder / f"{name}.csv")
        lines.append(f"| {name} | " + " | ".join(found[policy].text() for policy in POLICIES) + " |")
    return "\n".join(lines) + "\n"


def figure(folder: Path, maps: Sequence[str] = MAPS) -> Figure:
    """Wins of every team on every map, with 95 % intervals."""
    drawing, (ax,) = plots.canvas(1, "Scripted teams on the battle maps", panel=(9.0, 3.6))
    for k, policy in enumerate(POLICIES):
        offset = 0.15 * (k - (len(POLICIES) - 1) / 2)
        found = [shares(folder / f"{name}.csv")[policy] for name in maps]
        low, high = zip(*(share.interval() for share in found), strict=True)
        value = [share.value for share in found]
        below = [max(0.0, v - a) for v, a in zip(value, low, strict=True)]
        above = [max(0.0, b - v) for v, b in zip(value, high, strict=True)]
        ax.errorbar(
            [i + offset for i in range(len(maps))],
            [100 * v for v in value],
            yerr=[[100 * v for v in below], [100 * v for v in above]],
            fmt=plots.MARKERS[k],
            color=plots.COLOURS[k],
            label=policy,
            markersize=4,
            linewidth=1.0,
        )
    ax.set_xticks(range(len(maps)), maps, rotation=20)
    ax.set_ylabel("episodes won, %")
    ax.set_ylim(-4, 104)
    ax.legend(ncols=len(POLICIES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return drawing


def _claim(path: Path, policy: str) -> Derived:
    share = shares(path)[policy]
    return share.value, *share.interval(), share.seeds


def random_wins(path: Path) -> Derived:
    """Share of episodes that the random team wins."""
    return _claim(path, "random")


def kiting_wins(path: Path) -> Derived:
    """Share of episodes that the kiting team wins."""
    return _claim(path, "kiting")


def focus_over_nearest(path: Path) -> Derived:
    """Win rate of focus fire minus that of nearest enemy, with Newcombe's interval.

    Reference: Newcombe, "Interval estimation for the difference between independent proportions: comparison
    of eleven methods", Statistics in Medicine, 1998 (method 10: from the two Wilson intervals).
    """
    found = shares(path)
    focus, nearest = found["focus"], found["nearest"]
    (low_f, high_f), (low_n, high_n) = focus.interval(), nearest.interval()
    difference = focus.value - nearest.value
    low = difference - math.hypot(focus.value - low_f, high_n - nearest.value)
    high = difference + math.hypot(high_f - focus.value, nearest.value - low_n)
    return difference, low, high, focus.seeds
