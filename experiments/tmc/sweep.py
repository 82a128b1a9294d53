"""Measure trained teams under other thresholds and over other channels, on the same episodes for all.

    python -m experiments.tmc.sweep tune     the grid of thresholds, on the runs of the parts *_tune
    python -m experiments.tmc.sweep report   the others: every threshold, and the chosen one over all channels

needs the run folders of `marl study experiments/tmc/study.yaml` and writes
experiments/tmc/raw/eval/<run_id>.json, whose entries are kept: the same command measures what is missing. The
threshold of a method on a world is chosen by `choose`, from the tuning runs alone: seeds that nobody reports.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.claims import ROOT
from marl import files, plots, results
from marl.errors import MarlError
from marl.evaluate import conversation, evaluate
from marl.measure import load_agent, load_run
from marl.rng import Rng

HERE = ROOT / "experiments" / "tmc"
CHANNELS = ("perfect", "light", "medium", "heavy", "gilbert_elliott")  # the last at the paper's 15.6 %
TUNE_EPISODES, REPORT_EPISODES, SWEEP_EPISODES = 500, 2000, 500
BATCH = 500  # worlds at a time; changes no episode
_SEED = 7_000  # of the episodes: the same for all methods of a training seed

# Thresholds that are tried; a word is a setting of the team that its networks do not depend on.
GRIDS: dict[str, tuple[dict[str, Sequence[float]], ...]] = {
    "tmc": (
        {"delta": (0.0, 0.05, 0.1, 0.15, 0.224, 0.35, 0.5, 0.75, 1.0), "timeout": (6,), "window": (12,)},
        {"delta": (0.1, 0.224, 0.5, 1.0), "timeout": (12,), "window": (24,)},
        {"delta": (1e6,), "timeout": (6, 12, 24), "window": (24,)},
    ),
    "vbc": (
        {
            "request_gap": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 1e6),
            "reply_deviation": (0.0, 0.1),
        },
    ),
    "schednet": ({"k": (1, 2, 3)},),
}
MARGIN = 0.015  # CHOICE: wins that a threshold may cost on the tuning seeds; claimed are 2 points

Entry = dict[str, Any]


def settings(agent: str) -> list[tuple[str, ...]]:
    """Every setting of a method's grid as words of `marl evaluate`; methods without a threshold have one."""
    out: list[tuple[str, ...]] = []
    for grid in GRIDS.get(agent, ({},)):
        for values in itertools.product(*grid.values()):
            words = tuple(f"agent.{name}={value:g}" for name, value in zip(grid, values, strict=True))
            out.append(words)
    return out


def runs(raw: Path = HERE / "raw") -> list[dict[str, Any]]:
    """The study's finished runs: run_id, part, env, agent (with what it was trained over), seed."""
    out = []
    for path in sorted(raw.glob("*.json")):
        data = json.loads(path.read_text())
        if data["study"] == "tmc":
            words = dict(word.split("=", 1) for word in data["overrides"])
            trained = words.get("train_channel")
            world = [w.removeprefix("env.") for w in data["label"].split() if w.startswith("env.")]
            out.append(
                {
                    "run_id": data["run_id"],
                    "part": data["part"],
                    "env": " ".join([words["env"], *world]),
                    "agent": words["agent"] + (f"({trained})" if trained else ""),
                    "seed": data["seed"],
                }
            )
    return out


def evaluations(raw: Path = HERE / "raw" / "eval") -> list[dict[str, Any]]:
    """Everything that was measured, one file per run."""
    return [json.loads(path.read_text()) for path in sorted(raw.glob("*.json"))]


def measure(folder: Path, words: Sequence[str], channel: str, episodes: int) -> Entry:
    """One entry: per-episode numbers of a run's team."""
    cfg, saved = load_run(folder, words=(*words, f"channel={channel}"))
    torch.set_num_threads(1)
    found = evaluate(
        load_agent(cfg, saved),
        cfg.env,
        episodes=episodes,
        rng=Rng(_SEED + cfg.seed, "tmc"),
        device=torch.device("cpu"),
        threads=1,
        batch=BATCH,
        channel=cfg.channel,
    ).lists()
    out: Entry = {"words": list(words), "channel": channel, "episodes": episodes}
    if "success" in found:
        out["success"] = "".join(str(int(value)) for value in found["success"])
    else:
        out["return"] = [round(value, 3) for value in found["return"]]
    for name in ("length", "link.messages", "link.delivered"):
        out[name] = [int(value) for value in found.get(name, [0.0] * episodes)]
    return out


def wins(entry: Entry) -> float:
    """Mean success, or mean return where the world has none."""
    if "success" in entry:
        return entry["success"].count("1") / len(entry["success"])
    return float(np.mean(entry["return"]))


def messages(entry: Entry) -> float:
    """Messages sent per team step: over all ordered pairs."""
    return sum(entry["link.messages"]) / sum(entry["length"])


def choose(measured: Iterable[dict[str, Any]], env: str, agent: str) -> tuple[str, ...]:
    """The setting with the fewest messages whose wins on the tuning seeds are all-to-all's, within MARGIN.

    Where none is, the one that wins most. (Returns are compared with the margin times all-to-all's size.)

    Raises:
        MarlError: nothing was tuned for this method or for ac.
    """
    tuned = [m for m in measured if m["part"].endswith("_tune") and m["env"] == env]
    means: dict[str, dict[tuple[str, ...], tuple[float, float]]] = {}
    for name in {agent, "ac"}:
        entries = [e for m in tuned if m["agent"] == name for e in m["entries"] if e["channel"] == "perfect"]
        if not entries:
            raise MarlError(f"{name} on {env} is not tuned: run python -m experiments.tmc.sweep tune first")
        by_words: dict[tuple[str, ...], list[Entry]] = {}
        for entry in entries:
            by_words.setdefault(tuple(entry["words"]), []).append(entry)
        means[name] = {
            words: (float(np.mean([wins(e) for e in es])), float(np.mean([messages(e) for e in es])))
            for words, es in by_words.items()
        }
    (least,) = (won for won, _ in means["ac"].values())
    least -= MARGIN * (1.0 if 0 <= least <= 1 else abs(least))
    enough = {words: sent for words, (won, sent) in means[agent].items() if won >= least}
    if enough:
        return min(enough, key=lambda words: enough[words])
    return max(means[agent], key=lambda words: means[agent][words][0])


def _jobs(run: dict[str, Any], what: str) -> list[tuple[tuple[str, ...], str, int]]:
    """(words, channel, episodes) of everything to measure of a run."""
    agent = run["agent"].partition("(")[0]
    if what == "tune":
        return [(words, "perfect", TUNE_EPISODES) for words in settings(agent)]
    chosen = choose(evaluations(), run["env"], agent) if agent in GRIDS else ()
    jobs = [(chosen, channel, REPORT_EPISODES) for channel in CHANNELS]
    if agent in GRIDS:
        jobs += [(words, "perfect", SWEEP_EPISODES) for words in settings(agent) if words != chosen]
    return jobs


def _write(path: Path, data: dict[str, Any]) -> None:
    """A line per entry."""
    head = json.dumps({k: v for k, v in data.items() if k != "entries"}, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in data["entries"])
    files.make_folder(path.parent)
    files.write_atomic(path, f'{head},\n "entries": [\n{lines}\n ]\n}}\n'.encode())


def sweep(what: str, runs_dir: Path, only: str = "") -> None:
    """Measure what is missing of every run of the study."""
    for run in runs():
        if run["part"].endswith("_tune") != (what == "tune") or only not in run["run_id"]:
            continue
        path = HERE / "raw" / "eval" / f"{run['run_id']}.json"
        data = json.loads(path.read_text()) if path.is_file() else {**run, "entries": []}
        today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        data |= {"git": results.git(), "hardware": results.hardware(), "date": today}
        there = {(tuple(e["words"]), e["channel"], e["episodes"]) for e in data["entries"]}
        for job in _jobs(run, what):
            if job not in there:
                entry = measure(runs_dir / run["run_id"], *job)
                data["entries"].append(entry)
                _write(path, data)
                shown = " ".join(job[0]).replace("agent.", "")
                print(f"{run['run_id']} {shown} {job[1]}: {wins(entry):.3f}, {messages(entry):.2f} messages")
    if what == "report":
        _draw_talk(runs_dir)


def _draw_talk(runs_dir: Path) -> None:
    """plots/talk-<world>.png: who talks to whom in one episode of TMC, at the chosen threshold."""
    reported = [r for r in runs() if r["agent"] == "tmc" and not r["part"].endswith("_tune")]
    for env, run in {r["env"]: r for r in reversed(reported)}.items():
        words = choose(evaluations(), env, "tmc")
        cfg, saved = load_run(runs_dir / run["run_id"], words=(*words, "channel=heavy"))
        rest = {"rng": Rng(_SEED + cfg.seed, "tmc"), "channel": cfg.channel, "threads": 1}
        said = conversation(load_agent(cfg, saved), cfg.env, device=torch.device("cpu"), **rest)
        assert said is not None
        figure = plots.conversation(*said, title=f"TMC on {env}, heavy losses, one episode")
        plots.save(figure, HERE / "plots" / f"talk-{re.sub(r'[^A-Za-z0-9]+', '_', env)}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tmc.sweep", description=__doc__)
    parser.add_argument("what", choices=("tune", "report"))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tmc", help="run folders of the study")
    parser.add_argument("--only", default="", help="runs whose id has this in it")
    options = parser.parse_args()
    sweep(options.what, options.runs, options.only)


if __name__ == "__main__":
    main()
