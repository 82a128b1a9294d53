"""Which method of a study is better: probability of improvement, and performance profiles.

A method is compared with another of its part on the tasks that both ran. A task is an environment with its
own settings; a method, what is left of a run's overrides: of the words that not all runs of its task share.
Scores are success rates where a task has them, else returns: one per seed, of the final episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl import plots, stats
from marl.config import label
from marl.study import Job

Found = Sequence[tuple[Job, dict[str, Any]]]
Scores = dict[str, dict[int, float]]  # of a method: task, seed
_SEED = 0  # of the bootstrap: the same table from the same runs
_POINTS = 101  # thresholds of a profile


def names(jobs: Iterable[Job]) -> dict[str, tuple[str, str]]:
    """Task and method of each run by run id; a task's name has its settings where others share its label."""
    jobs = list(jobs)
    alike: dict[str, list[Any]] = {}
    for job in jobs:
        there = alike.setdefault(label(job.cfg.env), [])
        there += [] if job.cfg.env in there else [job.cfg.env]
    tasks, words = {}, {}
    common: dict[tuple[str, str], set[str]] = {}
    for job in jobs:
        name = label(job.cfg.env)
        own = [w for w in job.label.split() if w.startswith("env.")] if len(alike[name]) > 1 else []
        run, tasks[job.cfg.run_id] = job.cfg.run_id, " ".join([name, *own])
        words[run] = [w for w in job.label.split() if not w.startswith("env")]
        key = (job.part, tasks[run])
        common[key] = common.get(key, set(words[run])) & set(words[run])
    out = {}
    for job in jobs:
        run = job.cfg.run_id
        own = [w for w in words[run] if w not in common[job.part, tasks[run]]]
        out[run] = tasks[run], " ".join(own) or label(job.cfg.agent)
    return out


def by_method(found: Found) -> dict[str, dict[str, Scores]]:
    """Final scores: part, method, task, seed. Runs without final episodes are left out."""
    called = names(job for job, _ in found)
    out: dict[str, dict[str, Scores]] = {}
    for job, result in found:
        final = result["final"] or {}
        quantity = "success" if "success" in final else "return"
        if quantity in final:
            task, method = called[job.cfg.run_id]
            scores = out.setdefault(job.part, {}).setdefault(method, {}).setdefault(task, {})
            scores[job.cfg.seed] = float(np.mean(final[quantity]))
    return out


def matrix(scores: Scores, tasks: Sequence[str]) -> np.ndarray | None:
    """Scores of shape (R, M) over the seeds that every task has; None where there are none."""
    seeds = sorted(set.intersection(*(set(scores[name]) for name in tasks)))
    return np.array([[scores[name][seed] for name in tasks] for seed in seeds]) if seeds else None


def improvement_table(found: Found) -> str:
    """Markdown: how often a run of one method beats a run of another; "" where nothing can be compared."""
    rows = []
    for part, methods in by_method(found).items():
        for (name, one), (other, two) in itertools.combinations(methods.items(), 2):
            tasks = [t for t in one if t in two]
            x, y = (matrix(scores, tasks) if tasks else None for scores in (one, two))
            if x is None or y is None:
                continue
            rng = np.random.default_rng(_SEED)
            value, low, high = stats.improvement_interval(x, y, rng=rng).numbers()
            between = "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"
            seeds = f"{len(x)}, {len(y)}"
            cells = [part or "-", name, other, f"{value:.2f}", between, str(len(tasks)), seeds]
            rows.append("| " + " | ".join(cells) + " |")
    if not rows:
        return ""
    head = [
        "Probability that a run of the first method beats one of the second on a task that both ran, a tie "
        "counting half.",
        "",
        "| part | method | over | probability | 95 % interval | tasks | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def profiles(found: Found, title: str, folder: Path) -> list[Path]:
    """Performance profiles of each part of two methods or more, in <folder>/<title>_<part>_profiles.png.

    Every method over the tasks that all of the part's methods ran. Success rates share a scale; returns do
    not, so a part is drawn only where all is success, or where there is one task.
    """
    made = []
    shares = all("success" in (result["final"] or {}) for _, result in found)
    for part, methods in by_method(found).items():
        tasks = [t for t in next(iter(methods.values())) if all(t in scores for scores in methods.values())]
        if len(methods) < 2 or not tasks or not (shares or len(tasks) == 1):
            continue
        drawn = {name: matrix(scores, tasks) for name, scores in methods.items()}
        known: Mapping[str, np.ndarray] = {name: x for name, x in drawn.items() if x is not None}
        if len(known) < 2:
            continue
        ends = (0.0, 1.0) if shares else _ends(known.values())
        figure = plots.profiles(
            known,
            np.linspace(*ends, _POINTS),
            rng=np.random.default_rng(_SEED),
            xlabel="success" if shares else f"return on {tasks[0]}",
            title=" ".join(w for w in (title, part) if w),
        )
        name = "_".join(w for w in (title, part.replace("/", "_").replace(" ", "_"), "profiles") if w)
        made.append(plots.save(figure, folder / f"{name}.png"))
    return made


def _ends(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """A little more than the range of all scores."""
    every = np.concatenate([x.ravel() for x in values])
    room = 0.05 * float(np.ptp(every)) or 1.0
    return float(every.min()) - room, float(every.max()) + room
