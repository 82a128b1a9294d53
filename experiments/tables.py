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
        curve: (team steps, score of `quantity`) of every evaluation.
        quantity: "success" where the world has one, else "return".
        hash: of the config.
    """

    part: str
    env: str
    agent: str
    seed: int
    steps: int
    scores: dict[str, float]
    curve: list[tuple[int, float]]
    quantity: str
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
    quantity = "success" if "success" in scores else "return"
    return Run(
        part=raw["part"],
        env=words["env"],
        agent=" ".join([words["agent"], *own]),
        seed=raw["seed"],
        steps=raw["steps"],
        scores=scores,
        curve=[(row[0], row[points.index(quantity)]) for row in raw["curve"]],
        quantity=quantity,
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
        panels: dict[str, list[plots.Line]] = {}
        mine = [run for run in runs if run.part == part]
        for (_, env, agent), members in groups(mine).items():
            steps = [step for step, _ in members[0].curve]
            scores_TR1 = np.array([[score for _, score in run.curve] for run in members]).T[..., None]
            line = plots.learning_line(agent, steps, scores_TR1, np.random.default_rng(_SEED))
            panels.setdefault(env, []).append(line)
        quantities = sorted({run.quantity for run in mine}, reverse=True)
        share, label = quantities == ["success"], f"{' or '.join(quantities)} (IQM)"
        figure = plots.curves(panels, title=f"{title}, {part}", ylabel=label, share=share)
        plots.save(figure, folder / f"{part}.png")


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
