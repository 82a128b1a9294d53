"""A study's table, curves and profiles, redrawn from its raw files (`marl.raw`).

Runs that differ by their seed alone form a group; a group of unequal configs is refused, because its
numbers would belong to no setting that anyone can run again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims import Derived, machine
from marl import plots, stats
from marl.errors import MarlError
from marl.files import write_atomic

CLAIM_SEEDS = 5  # fewer are shown as a trial: house rule 15
_SEED = 0  # of the bootstrap: the same table from the same files
_SOME = 0.05  # share of episodes below which a curve of success says nothing


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run.

    Args:
        part: of the study.
        env: as the command line names it.
        agent: as the command line names it, with those of its own settings that the study varies and names
            after it; what a study says before `agent=` is of a world, for all agents alike.
        seed: of the run.
        steps: team steps of training.
        scores: mean over the final episodes by name: "return", "success" where the world has one, ...
        curves: by the names of `scores`: (team steps, score) of every evaluation.
        hash: of the config.
    """

    part: str
    env: str
    agent: str
    seed: int
    steps: int
    scores: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]
    hash: str


Groups = dict[tuple[str, str, str], list[Run]]


def read(paths: Iterable[Path]) -> list[Run]:
    """The runs of these raw files, in order of part, env, agent, seed."""
    runs = [_run(json.loads(path.read_text())) for path in paths]
    return sorted(runs, key=lambda r: (r.part, r.steps, r.env, r.agent, r.seed))


def _run(raw: dict[str, Any]) -> Run:
    words = dict(word.split("=", 1) for word in raw["overrides"])
    varied = raw["label"].split()
    after = raw["overrides"][[word.split("=")[0] for word in raw["overrides"]].index("agent") + 1 :]
    mine = [word for word in after if word.startswith(("agent.", "train_channel")) and word in varied]
    own = [word.removeprefix("agent.") for word in mine]
    episodes, points = np.array(raw["episodes"], dtype=float), raw["curve_columns"]
    scores = {name: float(mean) for name, mean in zip(raw["columns"], episodes.mean(0), strict=True)}
    return Run(
        part=raw["part"],
        env=words["env"],
        agent=" ".join([words["agent"], *own]),
        seed=raw["seed"],
        steps=raw["steps"],
        scores=scores,
        curves={n: [(row[0], row[points.index(n)]) for row in raw["curve"]] for n in scores if n in points},
        hash=raw["config_hash"],
    )


def groups(runs: Iterable[Run]) -> Groups:
    """Runs that differ by their seed alone, by (part, env, agent).

    Raises:
        MarlError: a group holds runs of different configs.
    """
    out: Groups = {}
    for run in runs:
        out.setdefault((run.part, run.env, run.agent), []).append(run)
    for (part, env, agent), members in out.items():
        if len({run.hash for run in members}) != 1:
            fix = "remove the raw files of the older ones"
            raise MarlError(f"{part}, {env}, {agent}: its runs have different configs: {fix}")
    return out


def estimate(values: list[float]) -> stats.Estimate:
    """IQM over seeds with its 95 % interval."""
    return stats.interval(np.array(values), rng=np.random.default_rng(_SEED))


def _cell(members: list[Run], name: str, form: str) -> str:
    if any(name not in run.scores for run in members):
        return "-"
    value, low, high = estimate([run.scores[name] for run in members]).numbers()
    if low is None or high is None:
        return format(value, form)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def table(runs: list[Run]) -> str:
    """Markdown, a row per env and agent."""
    lines = [
        "| part | env | agent | seeds | success | return | team steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for (part, env, agent), members in groups(runs).items():
        trial = " (trial)" if len(members) < CLAIM_SEEDS else ""
        lines.append(
            f"| {part} | {env} | {agent} | {len(members)}{trial} | {_cell(members, 'success', '.1%')} "
            f"| {_cell(members, 'return', '.2f')} | {members[0].steps:,} |"
        )
    return "\n".join(lines) + "\n"


def draw(runs: list[Run], folder: Path, title: str) -> None:
    """<folder>/<part>.png: a panel per env, a line per agent."""
    for part in dict.fromkeys(run.part for run in runs):
        mine = [run for run in runs if run.part == part]
        envs = list(dict.fromkeys(run.env for run in mine))
        panels = []
        for env in envs:
            here = [run for run in mine if run.env == env]
            name = _shown(here)
            lines = [_line(agent, members, name) for (*_, agent), members in groups(here).items()]
            panels.append((env, name, lines))
        size = plots.panel(*(lines for *_, lines in panels))
        figure, axes = plots.canvas(len(envs), f"{title}, {part}", size)
        for ax, (env, name, lines) in zip(axes, panels, strict=False):
            plots.draw(ax, lines, ylabel=f"{name} (IQM)", share=name == "success")
            ax.set_title(env, fontsize=10)
        plots.save(figure, folder / f"{part}.png")


def _shown(runs: list[Run]) -> str:
    """What tells these runs of one env apart: success, or the return where hardly a run succeeds."""
    rates = [rate for run in runs for _, rate in run.curves.get("success", [])]
    return "success" if max(rates, default=0.0) >= _SOME else "return"


def _line(agent: str, members: list[Run], name: str) -> plots.Line:
    """IQM over the runs of one agent."""
    curves = [run.curves[name] for run in members]
    scores_TR1 = np.array([[score for _, score in curve] for curve in curves]).T[..., None]
    return plots.learning_line(agent, [s for s, _ in curves[0]], scores_TR1, np.random.default_rng(_SEED))


def write_page(page: Path, runs: list[Run], paths: list[Path]) -> None:
    """Put the table between the page's study markers."""
    about = f"Commit of the runs: {made(paths)['commit']}. Raw: `raw/<run_id>.json`, a row per final episode."
    write_atomic(page, fill_block(page.read_text(), f"{table(runs)}\n{about}\n").encode())


def fill_block(text: str, shown: str, name: str = "study") -> str:
    """The page with this between the markers of this name."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return block.sub(lambda m: f"{m[1]}\n{shown}\n{m[2]}", text)


def success(*paths: Path) -> Derived:
    """IQM of the final success rate over the runs in these files, with its 95 % interval."""
    value, low, high = estimate([run.scores["success"] for run in read(paths)]).numbers()
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
