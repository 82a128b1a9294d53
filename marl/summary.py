"""What a study found: its table, its comparisons of methods and its plots, from its finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl import compare, files, plots, stats
from marl.compare import Found
from marl.config import label
from marl.study import Job, Study

Groups = dict[tuple[str, str], list[tuple[Job, dict[str, Any]]]]
_CLAIM_SEEDS = 5  # fewer seeds are shown as a trial (house style)
_RESAMPLES_SEED = 0  # the bootstrap's own randomness: the same table from the same runs


def groups(found: Found) -> Groups:
    """Runs that differ by their seed alone, by (part, label), in the order of the study."""
    out: Groups = {}
    for job, result in found:
        out.setdefault((job.part, job.label), []).append((job, result))
    return out


def scores(runs: Sequence[tuple[Job, dict[str, Any]]], name: str) -> np.ndarray | None:
    """Mean over the final episodes, one per seed; None where it was not measured."""
    if any(not r["final"] or name not in r["final"] for _, r in runs):
        return None
    return np.array([np.mean(row) for _, r in runs for row in r["final"][name]])


def _cell(values: np.ndarray | None, percent: bool) -> str:
    if values is None:
        return "-"
    value, low, high = stats.interval(values, rng=np.random.default_rng(_RESAMPLES_SEED)).numbers()
    words = [f"{x:.1%}" if percent else f"{x:.2f}" for x in (value, low, high) if x is not None]
    return words[0] if len(words) < 3 else f"{words[0]} [{words[1]}, {words[2]}]"


def table(study: Study, found: Found) -> str:
    """Markdown: IQM over seeds of success and return, with 95 % intervals, and steps."""
    lines = [
        f"## {study.name}: {len(found)} of {len(study.jobs)} runs finished",
        "",
        "IQM over seeds of the mean over each run's final episodes, with the 95 % interval of the stratified",
        "bootstrap. Rows marked (trial) have too few seeds for a claim.",
        "",
        "| part | env | agent | setting | seeds | success | return | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (part, name), runs in groups(found).items():
        cfg = runs[0][0].cfg
        seeds = len({job.cfg.seed for job, _ in runs})
        trial = " (trial)" if runs[0][0].trial or seeds < _CLAIM_SEEDS else ""
        success, reward = scores(runs, "success"), scores(runs, "return")
        cells = [part or "-", label(cfg.env), label(cfg.agent), name or "-", f"{seeds}{trial}"]
        cells += [_cell(success, True), _cell(reward, False), f"{cfg.total_steps:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(study: Study, found: Found, path: Path) -> None:
    """Success (or return) over team steps: a panel per part and env, a line per setting, IQM, 95 % band."""
    panels: dict[str, list[plots.Line]] = {}
    name = "success" if all("success" in r["curve"][0] for _, r in found if r["curve"]) else "return"
    names = compare.names(job for job, _ in found)
    for (part, _), runs in groups(found).items():
        curves = [r["curve"] for _, r in runs]
        count = min(len(c) for c in curves)  # evaluations that every run made
        if count == 0:
            continue
        values_TRM = [[[np.mean(c[t][name])] for c in curves] for t in range(count)]
        steps = [entry["step"] for entry in curves[0][:count]]
        task, method = names[runs[0][0].cfg.run_id]
        drawn = plots.learning_line(method, steps, values_TRM, np.random.default_rng(_RESAMPLES_SEED))
        panels.setdefault(" ".join(filter(None, (part, task))), []).append(drawn)
    share = name == "success"
    figure = plots.curves(
        panels, title=study.name, ylabel="wins (IQM)" if share else "return (IQM)", share=share
    )
    plots.save(figure, path)


def write(study: Study, found: Found) -> None:
    """Write <folder>/table.md and the pictures in <folder>/plots, and print the tables."""
    text = "\n".join(part for part in (table(study, found), compare.improvement_table(found)) if part)
    files.write_atomic(study.folder / "table.md", text.encode())
    plot(study, found, study.folder / "plots" / f"{study.name}.png")
    compare.profiles(found, study.name, study.folder / "plots")
    print(text, end="")
