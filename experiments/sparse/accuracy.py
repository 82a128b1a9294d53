"""What sparsity costs in success: tables, picture and claims of experiments/sparse/study.yaml.

    python -m experiments.sparse.accuracy

reads experiments/sparse/raw/ic3net-*.json (one file per run: `marl.raw`) and writes the accuracy section of
experiments/sparse/README.md, plots/accuracy.png and the claims sparse.accuracy_* and sparse.learned_*. The
paper's values stand beside ours; its task is known by a few words only, so that levels do not compare, only
what grouping takes from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from experiments.claims import ROOT, Derived, write_claim
from marl import plots, stats
from marl.errors import MarlError
from marl.files import write_atomic

HERE = ROOT / "experiments" / "sparse"
COMMAND = "marl study experiments/sparse/study.yaml"
AGENTS, GROUPS = (4, 8, 10), (1, 2, 4, 8, 16)
PAPER = {  # LearningGroup, figure 9, read by eye, +-2 %
    4: (66, 66.5, 68, 49, 38),
    8: (81.5, 81, 82.5, 82.5, 76.5),
    10: (95, 95, 93.5, 93, 77),
}
HALF = {  # figure 4a, at 50 %: how it is asked for here, and the paper's value
    "dense": ("none", 1, 66.40),
    "magnitude": ("magnitude", 0, 50.89),
    "block-circulant": ("block_circulant", 0, 61.98),
    "group-sparse training": ("group_sparse", 0, 64.06),
    "random groups": ("random_groups", 2, None),
    "learned groups": ("grouped", 2, 66.49),
}
LEARNED = ("balance=capacity", "refresh=10")  # how study.yaml learns groups
DENSE_FIRST = (*LEARNED, "warmup=300")
# Of all runs of their kind; the table does not repeat them.
BASE = ("smallest=1", "end=750", "every=50", "distil_decay=1125")
# What may keep success at G=16 best, named before the study ran.
RECIPE = (
    "balance=capacity",
    "dense=[encoder,heads]",
    "distil=runs/sparse/dense-teacher",
    "refresh=10",
)
_BLOCK = re.compile(r"(<!-- accuracy -->\n).*?(<!-- /accuracy -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run: number of agents, kind of sparsity, G (0: it has none), other settings, result."""

    agents: int
    kind: str
    groups: int
    options: tuple[str, ...]
    seed: int
    success: float
    hash: str


def read(paths: Iterable[Path]) -> list[Run]:
    """The runs of these raw files."""
    return [_run(json.loads(path.read_text())) for path in paths]


def _run(raw: dict[str, Any]) -> Run:
    words = dict(word.split("=", 1) for word in raw["overrides"])
    kind, prefix = words.get("sparsity", "none"), "agent.sparsity."
    own = {key.removeprefix(prefix): value for key, value in words.items() if key.startswith(prefix)}
    groups = 1 if kind == "none" else int(words.get("groups", 0))
    success = np.array(raw["episodes"], dtype=float)[:, raw["columns"].index("success")]
    agents = int(words["env.n_agents"])
    return Run(
        agents=agents,
        kind=kind,
        groups=groups,
        options=tuple(f"{k}={v}" for k, v in sorted(own.items()) if f"{k}={v}" not in BASE),
        seed=raw["seed"],
        success=float(success.mean()),
        hash=raw["config_hash"],
    )


def pick(
    runs: Sequence[Run], agents: int, kind: str, groups: int, options: tuple[str, ...] = ()
) -> list[float]:
    """Success of the runs of one setting, by seed.

    Raises:
        MarlError: they are of different configs.
    """
    key = agents, kind, groups, options
    found = [r for r in runs if (r.agents, r.kind, r.groups, r.options) == key]
    if len({r.hash for r in found}) > 1:
        raise MarlError(f"{key}: its runs have different configs: remove the raw files of the older ones")
    return [r.success for r in sorted(found, key=lambda r: r.seed)]


def minus(ours: Sequence[float], other: Sequence[float]) -> Derived:
    """Difference of the IQMs over seeds in points of per cent, its 95 % interval, the smaller count."""
    found = stats.difference_interval(list(ours), list(other), rng=np.random.default_rng(0))
    value, low, high = (None if x is None else 100.0 * x for x in found.numbers())
    assert value is not None
    return value, low, high, found.runs


def over_dense(*paths: Path) -> Derived:
    """Learned groups minus dense; the files hold these two settings."""
    runs = read(paths)
    sides = [[r.success for r in runs if (r.kind == "none") == dense] for dense in (False, True)]
    return minus(*sides)


def over_random(*paths: Path) -> Derived:
    """Learned minus random groups; the files hold these two settings."""
    runs = read(paths)
    return minus(*([r.success for r in runs if r.kind == kind] for kind in ("grouped", "random_groups")))


def _estimate(values: Sequence[float]) -> str:
    if not values:
        return "-"
    value, low, high = tables.estimate(list(values)).numbers()
    trial = "" if len(values) >= tables.CLAIM_SEEDS else f" (trial, {len(values)})"
    return f"{value:.1%}" + (f" [{low:.1%}, {high:.1%}]" if low is not None else "") + trial


def _less(ours: Sequence[float], dense: Sequence[float]) -> str:
    if not ours or not dense:
        return "-"
    value, low, high, _ = minus(ours, dense)
    return f"{value:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if low is not None else "")


def table(runs: Sequence[Run]) -> str:
    """Markdown: agents and groups, methods at 50 %, ways to keep accuracy at G=16."""
    lines = [
        "| agents | G | success | points over dense | paper | paper over dense |",
        "|---|---|---|---|---|---|",
    ]
    for agents in AGENTS:
        dense = pick(runs, agents, "none", 1)
        for groups, paper in zip(GROUPS, PAPER[agents], strict=True):
            ours = dense if groups == 1 else pick(runs, agents, "grouped", groups, LEARNED)
            if not ours:
                continue
            less = "" if groups == 1 else _less(ours, dense)
            theirs = "" if groups == 1 else f"{paper - PAPER[agents][0]:+g}"
            lines.append(f"| {agents} | {groups} | {_estimate(ours)} | {less} | {paper:g} % | {theirs} |")
    lines += ["", "At 50 % sparsity, 4 agents:", ""]
    lines += ["| method | success | points over dense | paper |", "|---|---|---|---|"]
    dense = pick(runs, 4, "none", 1)
    for name, (kind, groups, paper_half) in HALF.items():
        ours = pick(runs, 4, kind, groups, LEARNED if kind == "grouped" else ())
        paper_cell = "-" if paper_half is None else f"{paper_half} %"
        less = "" if name == "dense" else _less(ours, dense)
        lines.append(f"| {name} | {_estimate(ours)} | {less} | {paper_cell} |")
    lines += ["", "Learned against random groups, and other ways to learn them:", ""]
    lines += ["| agents | G | groups | settings | success | points over dense |", "|---|---|---|---|---|---|"]
    for agents, groups in ((8, 8), (4, 16)):
        dense = pick(runs, agents, "none", 1)
        for kind in ("random_groups", "grouped"):
            for options, ours in _settings(runs, agents, kind, groups).items():
                cells = agents, groups, kind.split("_")[0], " ".join(options) or "-", _estimate(ours)
                lines.append("| " + " | ".join(map(str, cells)) + f" | {_less(ours, dense)} |")
    return "\n".join(lines) + "\n"


def _settings(runs: Sequence[Run], agents: int, kind: str, groups: int) -> dict[tuple[str, ...], list[float]]:
    """Success by options of all runs of this kind and G."""
    found = {r.options for r in runs if (r.agents, r.kind, r.groups) == (agents, kind, groups)}
    return {options: pick(runs, agents, kind, groups, options) for options in sorted(found)}


def draw(runs: Sequence[Run], path: Path) -> None:
    """Success over G, a panel per number of agents, the paper's values beside ours."""
    figure, axes = plots.canvas(len(AGENTS), "IC3Net with learned groups: success over G")
    for ax, agents in zip(axes, AGENTS, strict=True):
        values = {
            g: pick(runs, agents, *(("none", 1) if g == 1 else ("grouped", g, LEARNED))) for g in GROUPS
        }
        shown = {g: tables.estimate(v).numbers() for g, v in values.items() if v}
        places = [GROUPS.index(g) for g in shown]
        middle = [value for value, _, _ in shown.values()]
        below = [value - (value if low is None else low) for value, low, _ in shown.values()]
        above = [(value if high is None else high) - value for value, _, high in shown.values()]
        style: dict[str, Any] = {
            "color": plots.COLOURS[0],
            "marker": plots.MARKERS[0],
            "capsize": 3,
            "label": "ours",
        }
        ax.errorbar(places, middle, yerr=(below, above), **style)
        paper = [p / 100 for p in PAPER[agents]]
        rest: dict[str, Any] = {
            "color": plots.COLOURS[1],
            "marker": plots.MARKERS[1],
            "linestyle": plots.DASHES[1],
        }
        ax.plot(range(len(GROUPS)), paper, label="paper (another setting)", **rest)
        ax.set_xticks(range(len(GROUPS)), [str(g) for g in GROUPS])
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("groups G", fontsize=9)
        ax.set_ylabel("success (IQM)", fontsize=9)
        ax.set_title(f"{agents} agents", fontsize=10)
        ax.legend(fontsize=7, frameon=False)
    plots.save(figure, path)


def _claim(id: str, paths: Sequence[Path], test: str, derive_with: str, note: str) -> None:
    seeds = min(len({r.seed for r in side}) for side in _sides(read(paths)))
    write_claim(
        id=id,
        unit="points",
        test=test,
        derive_with=derive_with,
        raw=[str(path.relative_to(ROOT)) for path in paths],
        command=COMMAND,
        note=note,
        trial=seeds < tables.CLAIM_SEEDS,
        made=tables.made(paths),
    )


def _sides(runs: Sequence[Run]) -> list[list[Run]]:
    out: dict[str, list[Run]] = {}
    for run in runs:
        out.setdefault(run.kind, []).append(run)
    return list(out.values())


def claims(paths: Sequence[Path]) -> None:
    """Write the rows that the raw files support."""
    found = {path: read([path])[0] for path in paths}

    def of(agents: int, kind: str, groups: int, options: tuple[str, ...] = ()) -> list[Path]:
        key = agents, kind, groups, options
        return [p for p, r in found.items() if (r.agents, r.kind, r.groups, r.options) == key]

    task = "IC3Net on predator_prey (7 x 7), share of 320 greedy episodes with success, IQM over seeds"
    for agents, groups, options, name, test in (
        (4, 4, LEARNED, "a4_g4", "low >= -3"),
        (8, 8, LEARNED, "a8_g8", "low >= -3"),
        (10, 8, LEARNED, "a10_g8", "low >= -3"),
        (8, 8, (), "a8_g8_as_published", "low >= -3"),
        (4, 16, (), "a4_g16_as_published", "low > -28"),
        (4, 16, RECIPE, "a4_g16", "low > -28"),
    ):
        ours, dense = of(agents, "grouped", groups, options), of(agents, "none", 1)
        if ours and dense:
            how = f" with {' '.join(options)}" if options else " as published"
            note = f"{task}: {groups} learned groups{how} minus dense, {agents} agents; paper: "
            note += f"{PAPER[agents][GROUPS.index(groups)] - PAPER[agents][0]:+g}"
            id = f"sparse.accuracy_minus_dense_{name}"
            _claim(id, [*ours, *dense], test, "experiments.sparse.accuracy:over_dense", note)
    random = of(8, "random_groups", 8)
    for settings, name, how in (
        (LEARNED, "", "from the first step on"),
        (DENSE_FIRST, "_dense_first", "after a dense phase"),
    ):
        learned = of(8, "grouped", 8, settings)
        if learned and random:
            _claim(
                f"sparse.learned_minus_random_grouping_a8_g8{name}",
                [*learned, *random],
                "value >= 10",
                "experiments.sparse.accuracy:over_random",
                f"{task}: 8 groups learned {how} minus 8 random ones that never change, both of equal size, "
                "8 agents",
            )


def main() -> None:
    paths = sorted((HERE / "raw").glob("ic3net-*.json"))
    runs = read(paths)
    if not runs:
        raise SystemExit(f"there is no raw file of the study yet: {COMMAND}")
    draw(runs, HERE / "plots" / "accuracy.png")
    about = f"Commit of the runs: {tables.made(paths)['commit']}. Raw: `raw/ic3net-*.json`."
    page = HERE / "README.md"
    text = _BLOCK.sub(lambda m: f"{m[1]}\n{table(runs)}\n{about}\n\n{m[2]}", page.read_text())
    write_atomic(page, text.encode())
    claims(paths)
    print(table(runs))


if __name__ == "__main__":
    main()
