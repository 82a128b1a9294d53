"""Every attack on every victim: one raw file per cell, so that the same command does what is missing.

    python -m experiments.attack.grid                    the grid on all victims of the study, one thread each
    python -m experiments.attack.grid --workers 2        two victims at a time
    python -m experiments.attack.grid --weights          weights of the regulariser on the tuning victims
    python -m experiments.attack.grid --defences         the defences that were tried on the tuning seed
    python -m experiments.attack.grid --run <run_id>     one victim

needs the run folders of `marl study experiments/attack/study.yaml` and of defended/study.yaml, and writes
experiments/attack/raw/cells/<run_id>-<choose>-<force>.json (raw/tuning/ for --defences). Adversaries are kept
beside their victims; a grid trains each of them once, and one that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.claims import ROOT
from marl import files, results
from marl.agents.cmarl_attack import Config, Learner
from marl.errors import MarlError
from marl.measure import load_agent, load_run
from marl.process import prepare_process
from marl.robust.attack import measure
from marl.robust.perturbation import Budget

HERE = ROOT / "experiments" / "attack"
RAW = HERE / "raw" / "cells"
TUNING = HERE / "raw" / "tuning"
RUNS = ROOT / "runs"
COMMAND = "python -m experiments.attack.grid"
CHOOSE = ("random", "local_worst", "mixer_worst", "ow", "owr")
FORCE = ("control", "fgsm", "itfgsm", "pgd", "jsma", "djsma")
# Cells of defended teams. CHOICE: the learned adversaries with d-JSMA and PGD, of those that hurt
# undefended QMIX teams most, and OWR's direct control.
DEFENDED = (
    ("none", "none"),
    ("ow", "djsma"),
    ("ow", "pgd"),
    ("owr", "control"),
    ("owr", "djsma"),
    ("owr", "pgd"),
)
# Beside them, on the method that defended teams are of: changes within an L-infinity, the first two
# what they are trained for, and more. CHOICE, like theirs.
BOUNDED = (("ow", "pgd_0.1"), ("ow", "pgd_0.2"), ("ow", "pgd_0.3"))
EPISODES = 320
VICTIMS = 5  # of each method, the first seeds that win
WINS = 0.98  # of its final episodes that a victim wins; a defended team need not
VICTIM = 0  # a stalker: ids sort by unit type, as in the paper
# fgsm: half the width of the widest range in one step, CHOICE; pgd: AMI's re-implementation, whose gain
# (log-probability), step (0.1) and iterations (30) are the attack's defaults.
BUDGETS = {"fgsm": Budget(linf=1.0), "pgd": Budget(linf=1.0)}
WEIGHTS = {"qmix": 0.25, "mappo": 0.002}  # of the regulariser: README.md, "Weights"
REGULARISERS: tuple[Literal["reward", "soft"], ...] = ("reward", "soft")
TRIED = {"qmix": (0.1, 0.25, 0.5, 2.0), "mappo": (0.002, 0.01, 0.05)}  # logits differ more than values


def attack(agent: str, choose: str, force: str, weight: float | None = None) -> Config:
    """A cell's settings; step two with a number behind it (pgd_0.1) stays within that L-infinity."""
    name, _, size = force.partition("_")
    weight = WEIGHTS[agent] if weight is None else weight
    return Config(
        agents=(VICTIM,),
        choose=choose,  # type: ignore[arg-type]
        force=name,  # type: ignore[arg-type]
        budget=Budget(linf=float(size)) if size else BUDGETS.get(name, Budget()),
        learner=Learner(weight=weight) if choose == "owr" else Learner(),
    )


def victims(here: Path = HERE) -> list[dict[str, Any]]:
    """The finished runs of both studies: run_id, part, seed, agent, defence and its settings."""
    found = []
    for study in (here, here / "defended"):
        found += [json.loads(path.read_text()) for path in sorted((study / "raw").glob("*.json"))]
    out = []
    for run in found:
        words = dict(word.split("=", 1) for word in run["overrides"])
        about = {"agent": words["agent"], "defence": words.get("defence", "none")}
        settings = " ".join(f"{k}={v}" for k, v in words.items() if k.startswith("defence."))
        won = [episode[run["columns"].index("success")] for episode in run["episodes"]]
        about |= {"settings": settings, "wins_trained": sum(won) / len(won)}
        out.append({"run_id": run["run_id"], "part": run["part"], "seed": run["seed"], **about})
    return out


def folder(victim: dict[str, Any]) -> Path:
    """Where its study left the run."""
    return RUNS / ("attack" if victim["defence"] == "none" else "attack_defended") / str(victim["run_id"])


def winners(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By method the undefended teams that win, in order of their seeds."""
    bare = sorted((v for v in found if v["defence"] == "none"), key=lambda v: v["seed"])
    won = [v for v in bare if v["wins_trained"] >= WINS]
    return {
        agent: [v for v in won if v["agent"] == agent] for agent in dict.fromkeys(v["agent"] for v in won)
    }


def in_grid(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The teams that the grid attacks: of each method the first seeds that win, and defended teams."""
    bare = [v for won in winners(found).values() for v in won[:VICTIMS]]
    return bare + [v for v in found if v["part"] == "defended"]


def spare(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method the next seed that wins: settings are chosen on it, and nobody reports it."""
    return [v for won in winners(found).values() for v in won[VICTIMS : VICTIMS + 1]]


def cells(agent: str, defence: str) -> Iterator[tuple[str, str]]:
    """(choose, force) of a team of the grid, the team alone first."""
    if defence == "none":
        yield "none", "none"
        yield from itertools.product(CHOOSE, FORCE)
    else:
        yield from DEFENDED
    if agent == "qmix":
        yield from BOUNDED


def cell(folder: Path, about: dict[str, Any], settings: Config | None) -> dict[str, Any]:
    """Play one cell.

    Args:
        folder: the victim's run.
        about: what the raw file says besides.
        settings: the attack; None leaves the team alone.
    """
    cfg, saved = load_run(folder, threads=1)
    prepare_process(cfg)
    team = load_agent(cfg, saved)
    if settings is not None:
        team = settings.build(cfg=cfg, saved=saved, agent=team)
        torch.set_num_threads(1)
    played = measure(team, cfg, episodes=EPISODES, seed=cfg.seed)
    numbers = played.numbers()
    return {
        **about,
        "checkpoint": saved.step,
        "weight": settings.learner.weight if settings is not None and settings.choose == "owr" else None,
        "attack_hash": settings.hash if settings is not None else None,
        "numbers": numbers,
        "returns": [round(value, 4) for value in played.episodes["return"]],
        "wins": "".join(str(int(value)) for value in played.episodes["success"]),
        "attacked": [int(value) for value in played.episodes.get("attack.attacked", [])],
        "command": COMMAND,
        "git": results.git(),
        "hardware": results.hardware(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def attack_victim(victim: dict[str, Any]) -> None:
    """Every cell of one victim that has no raw file."""
    _play(victim, cells(victim["agent"], victim["defence"]), RAW)


def try_defence(victim: dict[str, Any]) -> None:
    """The cells of defended teams on a tuning victim, defended or not."""
    _play(victim, DEFENDED + BOUNDED, TUNING)


def _play(victim: dict[str, Any], chosen: Iterable[tuple[str, str]], raw: Path) -> None:
    for choose, force in chosen:
        path = raw / f"{victim['run_id']}-{choose}-{force}.json"
        if path.is_file():
            continue
        settings = None if choose == "none" else attack(victim["agent"], choose, force)
        out = cell(folder(victim), {**victim, "choose": choose, "force": force}, settings)
        files.make_folder(raw)
        files.write_json(path, out)
        _say(path.stem, out)


def _is_unplayed(victim: dict[str, Any], given: argparse.Namespace) -> bool:
    """Whether a cell of it is to be played: one that has all of them needs no run folder."""
    if given.weights:
        return True
    of_team = cells(victim["agent"], victim["defence"])
    chosen, raw = (DEFENDED + BOUNDED, TUNING) if given.defences else (of_team, RAW)
    return any(not (raw / f"{victim['run_id']}-{choose}-{force}.json").is_file() for choose, force in chosen)


def try_weights(victim: dict[str, Any]) -> None:
    """d-JSMA and direct control of owr under every weight and both regularisers, on a tuning victim."""
    tried = itertools.product(REGULARISERS, TRIED[victim["agent"]])
    for (regulariser, weight), force in itertools.product(tried, ("control", "djsma")):
        path = RAW.parent / "weights" / f"{victim['run_id']}-{regulariser}-{weight:g}-{force}.json"
        if path.is_file():
            continue
        settings = attack(victim["agent"], "owr", force, weight)
        learner = dataclasses.replace(settings.learner, regulariser=regulariser)
        about = {**victim, "choose": "owr", "force": force, "regulariser": regulariser}
        out = cell(folder(victim), about, dataclasses.replace(settings, learner=learner))
        files.make_folder(path.parent)
        files.write_json(path, out)
        _say(path.stem, out)


def _say(name: str, out: dict[str, Any]) -> None:
    n = out["numbers"]
    l1 = "-" if n["l1"] is None else f"{n['l1']:.2f}"
    print(
        f"{name}: return {n['return']:.2f}, wins {n['success']:.1%}, L1 {l1}, {n['seconds']:.0f} s",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--workers", type=int, default=1, help="victims at a time, a process of one thread each"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--weights", action="store_true", help="try the regulariser's weights instead")
    what.add_argument("--defences", action="store_true", help="attack the tuning teams, defended and bare")
    parser.add_argument("--run", help="one victim alone")
    given = parser.parse_args(arguments)
    found = victims()
    if given.defences:
        do, chosen = try_defence, [v for v in spare(found) if v["agent"] == "qmix"]
        chosen += [v for v in found if v["part"] == "tune"]
    elif given.weights:
        do, chosen = try_weights, spare(found)
    else:
        do, chosen = attack_victim, in_grid(found)
    if given.run is not None:
        chosen = [v for v in chosen if v["run_id"] == given.run]
    if not chosen:
        raise MarlError("no victim is trained: run marl study experiments/attack/study.yaml first")
    if gone := [v["run_id"] for v in chosen if _is_unplayed(v, given) and not folder(v).is_dir()]:
        fix = "remove their files in experiments/attack (raw/ or defended/raw/) and run marl study again"
        raise MarlError(f"the run folders of {', '.join(gone)} are not on this machine: {fix}")
    if given.workers == 1 or len(chosen) == 1:
        for victim in chosen:
            do(victim)
        return
    command = [sys.executable, "-m", "experiments.attack.grid"]
    command += [f"--{name}" for name in ("weights", "defences") if getattr(given, name)]
    with ThreadPoolExecutor(given.workers) as pool:
        codes = list(pool.map(lambda v: subprocess.run([*command, "--run", v["run_id"]]).returncode, chosen))
    if any(codes):
        raise MarlError("a victim's cells failed; the same command does what is missing")


if __name__ == "__main__":
    main()
