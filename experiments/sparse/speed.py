"""Claims, tables and heat maps of the grouped layers' speed, from the raw files of
`experiments.benchmarks.sparse`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.interleave import read_rows
from experiments.benchmarks.machine import ROOT
from experiments.claims import Derived, made_before, write_claim
from marl import plots
from marl.files import write_atomic

GROUPS = (2, 4, 8, 16, 32)
PAGE = "experiments/sparse/README.md"
_BLOCK = re.compile(r"(<!-- speed -->\n).*?(<!-- /speed -->)", re.DOTALL)

Raw = Mapping[str, Any]
Ratios = dict[tuple[str, int, int, int, str], list[float]]  # size, batch, groups, threads, side
OURS = ("network", "gathered", "alone", "ragged network", "ragged alone")


def raw(table: str) -> str:
    """The raw file of a table, relative to the repository."""
    return f"experiments/sparse/raw/speed_{table}.csv"


def _seconds(row: Raw) -> float:
    return float(row["seconds"]) / int(row["calls"])


def _cell(row: Raw) -> tuple[str, int, int, int]:
    return str(row["size"]), int(row["batch"]), int(row["groups"]), int(row["threads"])


def _sides(rows: Iterable[Raw]) -> dict[tuple[str, int, int, int], dict[str, list[float]]]:
    """Seconds of a call by cell and side, in the order of turns."""
    found: dict[tuple[str, int, int, int], dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(_cell(row), {}).setdefault(str(row["side"]), []).append(_seconds(row))
    return found


def _name(side: str) -> tuple[str, float]:
    """A ragged side carries its density: ("ragged alone", density); others have none."""
    words = side.split()
    return (" ".join(words[:-1]), float(words[-1])) if words[0] == "ragged" else (side, 0.0)


def _ratio(sides: Mapping[str, Sequence[float]], side: str, over: float = 1.0) -> Derived:
    """Dense over ours: ratio of medians, least and greatest of one turn, turns; all divided by `over`."""
    dense, ours = sides["dense"], sides[side]
    turns = [a / b / over for a, b in zip(dense, ours, strict=True)]
    return statistics.median(dense) / statistics.median(ours) / over, min(turns), max(turns), len(turns)


def summary(rows: Sequence[Raw], about: Raw) -> str:
    """One cell in one line: every side's speed-up over dense."""
    sides = _sides(row for row in rows if _cell(row) == _cell(about))[_cell(about)]
    dense = statistics.median(sides["dense"])
    parts = ", ".join(f"{side} {_ratio(sides, side)[0]:.2f}" for side in sides if side != "dense")
    size, batch, groups, threads = _cell(about)
    return f"{size} batch {batch} G={groups} threads {threads}: dense {dense * 1e6:,.0f} us; {parts}"


def _worst(
    paths: Sequence[Path],
    keep: Callable[[tuple[str, int, int, int]], bool],
    names: Sequence[str],
    over_groups: bool = False,
) -> Derived:
    """The least ratio over the cells that are kept, and over the sides that are named."""
    found: list[Derived] = []
    for path in paths:
        for cell, sides in _sides(read_rows(path)).items():
            over = cell[2] if over_groups else 1.0
            found += [_ratio(sides, side, over) for side in sides if _name(side)[0] in names and keep(cell)]
    return min(found)


def _large(cell: tuple[str, int, int, int]) -> bool:
    return min(map(int, cell[0].split("x"))) >= 1024 and cell[1] <= 512


def g16_min_1024up(*paths: Path) -> Derived:
    """Inside a network, sizes from 1024, batches to 512, one and two threads."""
    return _worst(paths, _large, ["network"])


def over_g_min_1024up(*paths: Path) -> Derived:
    """The same for every G, over G."""
    return _worst(paths, _large, ["network"], over_groups=True)


def standalone_over_g_min_1024up(*paths: Path) -> Derived:
    """With random permutations in and out, over G."""
    return _worst(paths, _large, ["alone"], over_groups=True)


def never_slower(*paths: Path) -> Derived:
    """Every cell and every setting, ragged groups too."""
    return _worst(paths, lambda _: True, OURS)


def b8to32_128x512(*paths: Path) -> Derived:
    """128x512, batch 8 and 32, inside a network."""
    return _worst(paths, lambda c: c[0] == "128x512" and c[1] in (8, 32), ["network"])


def b1_128x512(*paths: Path) -> Derived:
    """128x512, batch 1, inside a network."""
    return _worst(paths, lambda c: c[0] == "128x512" and c[1] == 1, ["network"])


def ragged_over_density(*paths: Path) -> Derived:
    """Ragged groups inside a network, sizes from 1024, batches to 512: over 1 / density."""
    found: list[Derived] = []
    for path in paths:
        for cell, sides in _sides(read_rows(path)).items():
            found += [
                _ratio(sides, side, 1 / _name(side)[1])
                for side in sides
                if _name(side)[0] == "ragged network" and _large(cell)
            ]
    return min(found)


def train_over_g(*paths: Path) -> Derived:
    """A whole training step, batches from 512, over G.

    CHOICE: a training batch is sequences x time x agents, thousands of rows; 128 stands in the table only.
    """
    return _worst(paths, lambda cell: cell[1] >= 512, ["network"], over_groups=True)


_ALL = [raw(f"g{groups}") for groups in GROUPS]
_SETTING = (
    "modules under no_grad against torch.nn.Linear, float32, one and two threads, the worst cell counts"
)
CLAIMS: tuple[tuple[str, str, str, list[str], str], ...] = (  # id, test, derive, raw, note
    (
        "speedup_g16_min_1024up",
        "value >= 12.52",
        "g16_min_1024up",
        [raw("g16")],
        f"inside a network, G=16, sizes 1024 to 4096, batches 1 to 512; {_SETTING}",
    ),
    (
        "speedup_over_g_min_1024up",
        "value >= 0.8",
        "over_g_min_1024up",
        _ALL,
        f"speed-up over G inside a network, sizes 1024 to 4096, batches 1 to 512; {_SETTING}",
    ),
    (
        "standalone_over_g_min_1024up",
        "value >= 0.65",
        "standalone_over_g_min_1024up",
        _ALL,
        f"the same with random permutations in and out; {_SETTING}",
    ),
    (
        "never_slower_min",
        "value >= 1",
        "never_slower",
        _ALL,
        f"every size from 128x128, batch to 4096, G, setting, equal and ragged groups; {_SETTING}",
    ),
    (
        "speedup_128x512_g16_min_b8to32",
        "value >= 4",
        "b8to32_128x512",
        [raw("g16")],
        f"inside a network, 128x512, G=16, batches 8 and 32; {_SETTING}",
    ),
    (
        "speedup_128x512_g16_b1",
        "value >= 3",
        "b1_128x512",
        [raw("g16")],
        f"inside a network, 128x512, G=16, batch 1: call overhead counts; {_SETTING}",
    ),
    (
        "ragged_over_density_min_1024up",
        "value >= 0.65",
        "ragged_over_density",
        _ALL,
        f"Dirichlet groups inside a network, speed-up over 1 / density; the project's own goal; {_SETTING}",
    ),
    (
        "train_step_over_g_min_512up",
        "value >= 0.7",
        "train_over_g",
        [raw("train")],
        "forward, backward, selected-entry mask gradient and clipped Adam inside a network, over G, sizes "
        "512 to 4096, batches from 512; against the same step of torch.nn.Linear; 1 and 2 threads",
    ),
)


def publish(command: str, *, made_now: bool) -> None:
    """Claims whose raw files are all there, the page's tables, the heat maps."""
    for name, test, function, files, note in CLAIMS:
        if not all((ROOT / path).is_file() for path in files):
            continue
        id = f"sparse.{name}"
        write_claim(
            id=id,
            unit="x",
            test=test,
            derive_with=f"experiments.sparse.speed:{function}",
            raw=files,
            command=command,
            note=note,
            made=None if made_now else made_before(id),
        )
    write_page()
    draw()


def write_page() -> None:
    """Tables between the page's markers."""
    text = (ROOT / PAGE).read_text()
    found = [forward_tables(), training_table(), learning_table(), peers_table(), changes_table()]
    write_atomic(
        ROOT / PAGE, _BLOCK.sub(lambda m: m[1] + "\n" + "\n".join(found) + "\n" + m[2], text).encode()
    )


def _read(table: str) -> dict[tuple[str, int, int, int], dict[str, list[float]]]:
    path = ROOT / raw(table)
    return _sides(read_rows(path)) if path.is_file() else {}


def forward_tables() -> str:
    """A table per number of threads: G = 2/4/8/16/32 in every entry."""
    found = {groups: _read(f"g{groups}") for groups in GROUPS}
    if not all(found.values()):
        return ""
    lines: list[str] = []
    settings = ("network", "gathered", "alone", "masked dense", "padded bmm")
    for threads in (1, 2):
        lines += [
            f"Speed-up over torch.nn.Linear, {threads} thread(s), G = {'/'.join(map(str, GROUPS))}:",
            "",
        ]
        lines += [
            f"| size, batch | dense, us | {' | '.join(settings)} |",
            "|---|---|" + "---|" * len(settings),
        ]
        for cell in (cell for cell in found[GROUPS[0]] if cell[3] == threads):
            of = [found[groups][(cell[0], cell[1], groups, threads)] for groups in GROUPS]
            dense = statistics.median(statistics.median(sides["dense"]) for sides in of) * 1e6
            parts = ["/".join(f"{_ratio(sides, name)[0]:.3g}" for sides in of) for name in settings]
            lines.append(f"| {cell[0]}, {cell[1]} | {dense:,.0f} | {' | '.join(parts)} |")
        lines.append("")
    return "\n".join(lines)


def training_table() -> str:
    """Whole training steps."""
    found = _read("train")
    if not found:
        return ""
    lines = ["Training step over torch.nn.Linear's, G = 2/4/8/16/32:", ""]
    lines += ["| size, batch | dense, ms | 1 thread | 2 threads |", "|---|---|---|---|"]
    for size, batch in dict.fromkeys(cell[:2] for cell in found):
        of = {threads: [found[(size, batch, g, threads)] for g in GROUPS] for threads in (1, 2)}
        dense = statistics.median(statistics.median(sides["dense"]) for sides in of[1]) * 1e3
        parts = [
            "/".join(f"{_ratio(sides, 'network')[0]:.3g}" for sides in of[threads]) for threads in (1, 2)
        ]
        lines.append(f"| {size}, {batch} | {dense:,.2f} | {' | '.join(parts)} |")
    return "\n".join([*lines, ""])


def learning_table() -> str:
    """Whole teams in training: time of a turn, the dense twin's share outside products, Amdahl's bound."""
    path = ROOT / raw("learning")
    if not path.is_file():
        return ""
    found: dict[tuple[str, str, str], dict[str, list[Raw]]] = {}
    for row in read_rows(path):
        key = row["team"], row["hidden"], row["groups"]
        found.setdefault(key, {}).setdefault(row["side"], []).append(row)
    lines = ["Training from end to end, acting and learning, against the dense twin (1 thread):", ""]
    lines += ["| team, hidden, G | dense, ms | outside products | Amdahl's bound | full | selected |"]
    lines += ["|---|---|---|---|---|---|"]
    for (team, hidden, groups), sides in found.items():
        seconds = {side: statistics.median(float(r["seconds"]) for r in rows) for side, rows in sides.items()}
        share = float(sides["dense"][0]["outside"])
        bound = amdahl(share, int(groups))
        ours = [
            f"{seconds['dense'] / seconds[side]:.2f} ({float(sides[side][0]['outside']):.0%} outside)"
            for side in ("full", "selected")
        ]
        cells = (
            f"{team}, {hidden}, {groups}",
            f"{seconds['dense'] * 1e3:,.0f}",
            f"{share:.0%}",
            f"{bound:.2f}",
        )
        lines.append(f"| {' | '.join((*cells, *ours))} |")
    return "\n".join([*lines, ""])


def amdahl(outside: float, groups: int) -> float:
    """What training could gain at most where products become G times as fast and all else stays."""
    return 1.0 / (outside + (1.0 - outside) / groups)


def changes_table() -> str:
    """How many times as long a call takes without each part of the kernels."""
    found = _read("changes")
    if not found:
        return ""
    cells = list(found)
    heads = " | ".join(f"{size}, {batch}, G={groups}" for size, batch, groups, _ in cells)
    lines = [
        "What each part of the kernels gives: time without it over time with it, network / alone, 1 thread:",
        "",
    ]
    lines += [f"| without | {heads} |", "|---|" + "---|" * len(cells)]
    parts = [side.split(": ")[1] for side in found[cells[0]] if side.startswith("network: ")]
    for part in parts:
        if part == "complete":
            continue
        ratios = []
        for cell in cells:
            sides = found[cell]
            pair = (
                statistics.median(sides[f"{mode}: {part}"]) / statistics.median(sides[f"{mode}: complete"])
                for mode in ("network", "alone")
            )
            ratios.append(" / ".join(f"{ratio:.2f}" for ratio in pair))
        lines.append(f"| {part} | {' | '.join(ratios)} |")
    return "\n".join([*lines, ""])


def peers_table() -> str:
    """Other ways to execute the mask, on the named cells."""
    found = _read("peers")
    if not found:
        return ""
    names = list(dict.fromkeys(side for sides in found.values() for side in sides if side != "dense"))
    lines = ["Speed-up over torch.nn.Linear, stand-alone (compiled bmm: on four cells):", ""]
    lines += [f"| size, batch, G, threads | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for (size, batch, groups, threads), sides in found.items():
        parts = [f"{_ratio(sides, name)[0]:.3g}" if name in sides else "-" for name in names]
        lines.append(f"| {size}, {batch}, {groups}, {threads} | {' | '.join(parts)} |")
    return "\n".join([*lines, ""])


def draw() -> None:
    """plots/speed.png: a map per G, size over batch, one thread, inside a network."""
    found = {groups: _read(f"g{groups}") for groups in GROUPS}
    if not all(found.values()):
        return
    figure, axes = plots.canvas(len(GROUPS), "Speed-up over torch.nn.Linear / G, inside a network, 1 thread")
    for ax, groups in zip(axes, GROUPS, strict=False):
        mine = {(c[0], c[1]): sides for c, sides in found[groups].items() if c[3] == 1}
        sizes, batches = list(dict.fromkeys(s for s, _ in mine)), list(dict.fromkeys(b for _, b in mine))
        grid = np.array([[_ratio(mine[size, batch], "network")[0] for batch in batches] for size in sizes])
        ax.imshow(grid / groups, cmap="RdYlGn", vmin=0, vmax=2, aspect="auto")
        ax.grid(visible=False)
        for (i, j), value in np.ndenumerate(grid):
            ax.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=7)
        ax.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        ax.set_yticks(range(len(sizes)), sizes)
        ax.set_title(f"G = {groups}: speed-up; colour: over G")
        ax.set_xlabel("batch")
    plots.save(figure, ROOT / "experiments/sparse/plots/speed.png")
