"""The study's table, curves and claims, redrawn from its raw files.

    python -m experiments.ground.table

reads experiments/ground/raw/*.json (one file per run: `marl.raw`) and writes experiments/ground/README.md
between its markers, plots/<part>.png, and the row ground.win_rate_3m.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims import ROOT, Derived, machine, write_claim
from marl import plots, stats
from marl.files import write_atomic

HERE = ROOT / "experiments" / "ground"
RAW = HERE / "raw"
PAGE = HERE / "README.md"
COMMAND = "marl study experiments/ground/study.yaml"
CLAIM_SEEDS = 5  # fewer are shown as a trial: house rule 15
_BLOCK = re.compile(r"(<!-- study -->\n).*?(<!-- /study -->)", re.DOTALL)
_SEED = 0  # of the bootstrap: the same table from the same files


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run: its map, agent and seed, and what it scored."""

    part: str
    map: str
    agent: str
    seed: int
    steps: int
    wins: float
    reward: float
    curve: list[tuple[int, float]]
    hash: str


def read(paths: Iterable[Path]) -> list[Run]:
    """The runs of these raw files, in order of part, map, agent, seed."""
    runs = [_run(json.loads(path.read_text())) for path in paths]
    return sorted(runs, key=lambda r: (r.part, r.steps, r.map, r.agent, r.seed))


def _run(raw: dict[str, Any]) -> Run:
    words = dict(word.split("=", 1) for word in raw["overrides"])
    episodes, names, points = np.array(raw["episodes"], dtype=float), raw["columns"], raw["curve_columns"]
    return Run(
        part=raw["part"],
        map=words["env"].removeprefix("battle/"),
        agent=words["agent"],
        seed=raw["seed"],
        steps=raw["steps"],
        wins=float(episodes[:, names.index("success")].mean()),
        reward=float(episodes[:, names.index("return")].mean()),
        curve=[(row[0], row[points.index("success")]) for row in raw["curve"]],
        hash=raw["config_hash"],
    )


def groups(runs: Iterable[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Runs that differ by their seed alone, by (part, map, agent)."""
    out: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        out.setdefault((run.part, run.map, run.agent), []).append(run)
    for key, members in out.items():
        assert len({run.hash for run in members}) == 1, f"{key}: runs of different configs"
    return out


def estimate(values: list[float]) -> stats.Estimate:
    """IQM over seeds with its 95 % interval."""
    return stats.interval(np.array(values), rng=np.random.default_rng(_SEED))


def _cell(values: list[float], form: str) -> str:
    value, low, high = estimate(values).numbers()
    if low is None or high is None:
        return format(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def table(runs: list[Run]) -> str:
    """Markdown, a row per map and agent."""
    lines = [
        "| part | map | agent | seeds | wins | return | team steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for (part, map_name, agent), members in groups(runs).items():
        trial = " (trial)" if len(members) < CLAIM_SEEDS else ""
        wins = _cell([r.wins for r in members], ".1%")
        lines.append(
            f"| {part} | {map_name} | {agent} | {len(members)}{trial} | {wins} "
            f"| {_cell([r.reward for r in members], '.2f')} | {members[0].steps:,} |"
        )
    return "\n".join(lines) + "\n"


def draw(runs: list[Run]) -> None:
    """plots/<part>.png: a panel per map, a line per agent."""
    for part in dict.fromkeys(run.part for run in runs):
        panels: dict[str, list[plots.Line]] = {}
        for (_, map_name, agent), members in groups(r for r in runs if r.part == part).items():
            steps = [step for step, _ in members[0].curve]
            wins_TR1 = np.array([[wins for _, wins in run.curve] for run in members]).T[..., None]
            line = plots.learning_line(agent, steps, wins_TR1, np.random.default_rng(_SEED))
            panels.setdefault(map_name, []).append(line)
        plots.save(plots.curves(panels, title=f"battle, {part} maps"), HERE / "plots" / f"{part}.png")


def win_rate(*paths: Path) -> Derived:
    """IQM of the final win rate over the runs in these files, with its 95 % interval."""
    value, low, high = estimate([run.wins for run in read(paths)]).numbers()
    return value, low, high, len(paths)


def made(paths: Iterable[Path]) -> dict[str, str]:
    """Commit, hardware and date that the raw files themselves name; different ones side by side."""
    raws = [json.loads(path.read_text()) for path in paths]
    commits = {str(raw["git"]["commit"]) + " with changes" * bool(raw["git"]["dirty"]) for raw in raws}
    machines, dates = {machine(raw["hardware"]) for raw in raws}, {raw["date"][:10] for raw in raws}
    return {
        "commit": ", ".join(sorted(commits)),
        "hardware": "; ".join(sorted(machines)),
        "date": ", ".join(sorted(dates)),
    }


def main() -> None:
    paths = sorted(RAW.glob("*.json"))
    runs = read(paths)
    draw(runs)
    about = f"Commit of the runs: {made(paths)['commit']}. Raw: `raw/<run_id>.json`, a row per final episode."
    page = _BLOCK.sub(lambda m: f"{m[1]}\n{table(runs)}\n{about}\n\n{m[2]}", PAGE.read_text())
    write_atomic(PAGE, page.encode())
    ours = [p for p in paths if (r := read([p])[0]).map == "3m" and r.agent == "qmix"]
    if ours:
        write_claim(
            id="ground.win_rate_3m",
            unit="1",
            test="value >= 0.95",
            derive_with="experiments.ground.table:win_rate",
            raw=[str(path.relative_to(ROOT)) for path in ours],
            command=COMMAND,
            note="QMIX, fast settings, battle/3m: share of 320 final greedy episodes won, IQM over seeds; "
            "a simulator, not StarCraft II",
            trial=len(ours) < CLAIM_SEEDS,
            made=made(ours),
        )
    print(table(runs))


if __name__ == "__main__":
    main()
