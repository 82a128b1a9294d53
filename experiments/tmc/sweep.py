"""Measure trained teams under other thresholds and over other channels, on the same episodes for all.

    python -m experiments.tmc.sweep tune     the grid of thresholds, on the runs of the parts *_tune
    python -m experiments.tmc.sweep report   the others: every threshold, and the chosen one over all channels

needs the run folders of `marl study experiments/tmc/study.yaml` and writes
experiments/tmc/raw/eval/<run_id>.json, whose entries are kept: the same command measures what is missing, in
two processes with `--share 1/2` and `--share 2/2`. The threshold of a method on a world is chosen by
`choose`, from the tuning runs alone, of seeds that nobody reports, once all of them are measured. `matched`
chooses for two methods that are compared by their messages: each at its fewest that still win what both can
win. What was chosen stands in the file (`chosen`, `matched`). Its commit, hardware and date are those of its
first entry; an entry that was made at another commit or on another machine has its own.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from experiments.claims import ROOT
from marl import files, plots, results
from marl.channel import PerfectLink
from marl.config import label
from marl.errors import FieldError, MarlError
from marl.evaluate import conversation, evaluate
from marl.measure import load_agent, load_run
from marl.rng import Rng, Stream
from marl.types import Act, Agent, Carry, Env, TimeStep

HERE = ROOT / "experiments" / "tmc"
CHANNELS = ("perfect", "light", "medium", "heavy", "gilbert_elliott")  # the last at the paper's 15.6 %
TUNE_SEEDS = (100, 101)  # of the parts that choose, in study.yaml
TUNE_EPISODES, REPORT_EPISODES, SWEEP_EPISODES = 1000, 2000, 500
BATCH = 500  # worlds at a time; changes no episode
_SEED = 7_000  # of the episodes: the same for all methods of a training seed

# Thresholds that are tried; a word is a setting of the team that its networks do not depend on.
GRIDS: dict[str, tuple[dict[str, Sequence[float]], ...]] = {
    "tmc": (
        {"delta": (0.0, 0.05, 0.1, 0.15, 0.224, 0.35, 0.5, 0.75, 1.0), "timeout": (6,), "window": (12,)},
        {"delta": (0.1, 0.224, 0.5, 1.0), "timeout": (12,), "window": (24,)},
        {"delta": (0.15, 0.224, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0), "timeout": (24,), "window": (48,)},
        {"delta": (1.5, 2.0, 3.0), "timeout": (6,), "window": (12,)},
        {"delta": (1.5, 2.0, 3.0), "timeout": (12,), "window": (24,)},
        {"delta": (0.85,), "timeout": (24,), "window": (48,)},
        {"delta": (0.75, 0.85, 1.0, 1.25), "timeout": (48,), "window": (96,)},
        {"delta": (1e6,), "timeout": (6, 12, 24), "window": (24,)},
    ),
    "vbc": (
        {
            "request_gap": (0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0, 1e6),
            "reply_deviation": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
        },
    ),
    "schednet": ({"k": (1, 2, 3)},),
}
# TMC's team as all-to-all: what the protocol costs is told apart from what training another team changes.
EVERY_MESSAGE = {"tmc": ("agent.delta=0", "agent.timeout=6", "agent.window=12")}
MARGIN = 0.015  # CHOICE: wins that a threshold may cost on the tuning seeds; claimed are 2 points
RIVALS = ("vbc", "schednet")  # whose messages are compared with TMC's, where both win alike
SILENT = ("qmix", "vdn")  # to whom all channels are one
BY_RETURN = ("navigation",)  # worlds whose success is too rare to compare by: no team covers every landmark
LONG = "480k"  # after the name of a world whose teams were trained twice, of those that were trained longer
OTHERS = ("_tune", "_forms")  # parts whose runs are not reported: tuning seeds, other forms of TMC

Entry = dict[str, Any]


def base(agent: str) -> str:
    """The method of a name with a training channel or a form: tmc of "tmc(heavy)"."""
    return re.split(r"[( ]", agent)[0]


def settings(agent: str) -> list[tuple[str, ...]]:
    """Every setting of a method's grid as words of `marl evaluate`; methods without a threshold have one."""
    out: list[tuple[str, ...]] = []
    for grid in GRIDS.get(base(agent), ({},)):
        for values in itertools.product(*grid.values()):
            words = tuple(f"agent.{name}={value:g}" for name, value in zip(grid, values, strict=True))
            out.append(words)
    return out


def runs(raw: Path = HERE / "raw") -> list[dict[str, Any]]:
    """The study's finished runs: run_id, part, env, agent (with training channel, mute, or form), seed."""
    out = []
    for path in sorted(raw.glob("*.json")):
        data = json.loads(path.read_text())
        if data["study"] == "tmc":
            words = dict(word.split("=", 1) for word in data["overrides"])
            trained = words.get("train_channel") or ("mute" if words.get("agent.messages") == "false" else "")
            world = [w.removeprefix("env.") for w in data["overrides"] if w.startswith("env.")]
            world += [LONG] * ("_long" in data["part"])
            own = [w for w in data["overrides"] if w.startswith("agent.") and data["part"].endswith("_forms")]
            form = " ".join(w.removeprefix("agent.") for w in own)
            agent = words["agent"] + (f"({trained})" if trained else "") + (f" {form}" if form else "")
            about = {"env": " ".join([words["env"], *world]), "agent": agent, "seed": data["seed"]}
            out.append({"run_id": data["run_id"], "part": data["part"], **about})
    return out


def evaluations(raw: Path = HERE / "raw" / "eval") -> list[dict[str, Any]]:
    """Everything that was measured, one file per run."""
    return read(sorted(raw.glob("*.json")))


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """What these files of measurements hold.

    Raises:
        MarlError: two of them are of the same method, world and seed: settings of training were changed.
    """
    found = [json.loads(path.read_text()) for path in paths]
    known: dict[tuple[str, str, int], str] = {}
    for m in found:
        key = m["agent"], m["env"], m["seed"]
        if known.setdefault(key, m["run_id"]) != m["run_id"]:
            fix = "remove experiments/tmc/raw/<run_id>.json and raw/eval/<run_id>.json of one"
            raise MarlError(
                f"{m['agent']} on {m['env']}, seed {m['seed']}: {known[key]} and {m['run_id']}: {fix}"
            )
    return found


class Witness:
    """A team, and how many of its messages went between living agents, in the episodes that count.

    Args:
        team: acts.
        N: its members.
    """

    def __init__(self, team: Agent, N: int) -> None:
        self.team, self.sent, self.pairs = team, 0, 0  # pairs: of living agents, over all exchanges
        self._others_NN = ~torch.eye(N, dtype=torch.bool)
        self._alive_BN = torch.ones(0, N, dtype=torch.bool)
        self._trace: list[tuple[Tensor, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.team, name)

    def act(self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: PerfectLink) -> Act:
        self._alive_BN, self._trace = ts.alive_BN, []
        link.trace = self._trace
        return self.team.act(ts, carry, rng=rng, explore=explore, link=link)

    def begin(self, env: Env) -> None:
        """As `marl.evaluate.Watcher`."""

    def step(self, act: Act, playing_B: Tensor) -> None:
        """As `marl.evaluate.Watcher`, after `act`."""
        living_BNN = self._alive_BN[:, :, None] & self._alive_BN[:, None] & self._others_NN
        living_BNN &= playing_B[:, None, None]
        for wanted_BNN, _ in self._trace:
            self.sent += int((wanted_BNN & living_BNN).sum())
            self.pairs += int(living_BNN.sum())


def measure(folder: Path, words: Sequence[str], channel: str, episodes: int) -> Entry:
    """One entry: per-episode numbers of a run's team."""
    cfg, saved = load_run(folder, words=(*words, f"channel={channel}"))
    torch.set_num_threads(1)
    agent = load_agent(cfg, saved)
    N = agent.spec.n_agents
    witness = Witness(agent, N)
    found = evaluate(
        cast("Agent", witness),
        cfg.env,
        episodes=episodes,
        rng=Rng(_SEED + cfg.seed, "tmc"),
        device=torch.device("cpu"),
        threads=1,
        batch=BATCH,
        channel=cfg.channel,
        watcher=witness,
    ).lists()
    out: Entry = {"words": list(words), "channel": channel, "episodes": episodes}
    out |= {"pairs": N * (N - 1), "living": [witness.sent, witness.pairs]}
    if "success" in found and label(cfg.env) not in BY_RETURN:
        out["success"] = "".join(str(int(value)) for value in found["success"])
    else:
        out["return"] = [round(value, 3) for value in found["return"]]
    for name in ("length", "link.messages", "link.delivered"):
        out[name] = [int(value) for value in found.get(name, [0.0] * episodes)]
    return out


def wins(entry: Entry) -> float:
    """Mean success, or mean return where the world has none or is of BY_RETURN."""
    if "success" in entry:
        return entry["success"].count("1") / len(entry["success"])
    return float(np.mean(entry["return"]))


def messages(entry: Entry) -> float:
    """Messages sent per team step: over all ordered pairs."""
    return sum(entry["link.messages"]) / sum(entry["length"])


def talk(entry: Entry) -> float:
    """Broadcasts per agent and step: messages over all ordered pairs, of which all-to-all is 1."""
    return messages(entry) / entry["pairs"]


def living_talk(entry: Entry) -> float:
    """Messages between living agents over their ordered pairs: all-to-all is 1; 0 without exchanges."""
    sent, pairs = entry["living"]
    return sent / pairs if pairs else 0.0


Means = dict[tuple[str, ...], tuple[float, float]]  # by setting: wins and messages per team step


def tuned(measured: Sequence[dict[str, Any]], env: str, agent: str) -> Means:
    """What every setting of a method gave, mean over TUNE_SEEDS.

    Settings that were not measured on all of these seeds are left out.

    Raises:
        MarlError: one of the seeds is not trained or not measured.
    """
    mine = tuning_entries(measured, env, agent)
    for seed in TUNE_SEEDS:
        if not mine.get(seed):
            fix = "run python -m experiments.tmc.sweep tune first"
            raise MarlError(f"{agent} on {env} is not tuned on seed {seed}: {fix}")
    whole = set.intersection(*(set(mine[seed]) for seed in TUNE_SEEDS))
    return {
        words: (
            float(np.mean([wins(mine[seed][words]) for seed in TUNE_SEEDS])),
            float(np.mean([messages(mine[seed][words]) for seed in TUNE_SEEDS])),
        )
        for words in mine[TUNE_SEEDS[0]]
        if words in whole
    }


def tuning_entries(
    measured: Iterable[dict[str, Any]], env: str, agent: str
) -> dict[int, dict[tuple[str, ...], Entry]]:
    """By seed and setting: what a method's tuning runs gave without loss."""
    return {
        m["seed"]: {tuple(e["words"]): e for e in m["entries"] if e["channel"] == "perfect"}
        for m in measured
        if m["part"].endswith(OTHERS) and (m["env"], m["agent"]) == (env, agent)
    }


def best(means: Means) -> float:
    """The most wins of any setting."""
    return max(won for won, _ in means.values())


def fewest(means: Means, level: float) -> tuple[str, ...]:
    """The setting with the fewest messages whose wins are `level`, or the most of any, within MARGIN.

    (Returns are compared with the margin times the level's size.)
    """
    level = min(level, best(means))
    least = level - MARGIN * (1.0 if 0 <= level <= 1 else abs(level))
    enough = {words: sent for words, (won, sent) in means.items() if won >= least}
    return min(enough, key=lambda words: enough[words])


def choose(measured: Sequence[dict[str, Any]], env: str, agent: str) -> tuple[str, ...]:
    """The setting with the fewest messages whose wins on the tuning seeds are all-to-all's, within MARGIN.

    Where none wins so much, those that win most are the measure.

    Raises:
        MarlError: nothing was tuned for this method or for ac.
    """
    return fewest(tuned(measured, env, agent), best(tuned(measured, env, "ac")))


def matched(measured: Sequence[dict[str, Any]], env: str, rival: str) -> dict[str, tuple[str, ...]]:
    """Settings of TMC and of a rival, each with the fewest messages that win what both of them and ac can.

    Raises:
        MarlError: nothing was tuned for one of them.
    """
    means = {agent: tuned(measured, env, agent) for agent in ("tmc", rival, "ac")}
    level = min(best(m) for m in means.values())
    return {agent: fewest(means[agent], level) for agent in ("tmc", rival)}


def decided(run: dict[str, Any], measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the tuning runs say of a reported run: its setting, and those for comparisons by messages.

    Raises:
        MarlError: the tuning runs of its world are not all measured.
    """
    agent, env = run["agent"], run["env"]
    if base(agent) in GRIDS and (missing := _not_tuned(measured, env)):
        raise MarlError(f"{missing} is not tuned: run python -m experiments.tmc.sweep tune first")
    out: dict[str, Any] = {"chosen": list(choose(measured, env, agent)) if base(agent) in GRIDS else []}
    out["matched"] = {}
    for rival in RIVALS if agent == "tmc" else (agent,) * (agent in RIVALS):
        try:
            out["matched"][rival] = list(matched(measured, env, rival)[agent])
        except MarlError:  # the rival was not tuned: there is no comparison
            continue
    return out


def _not_tuned(measured: Sequence[dict[str, Any]], env: str) -> str:
    """Id of a tuning run of this world of which a setting is not measured yet; "" where there is none."""
    known = {m["run_id"]: {tuple(e["words"]) for e in m["entries"]} for m in measured}
    tuning = [run for run in runs() if run["env"] == env and run["part"].endswith("_tune")]
    wanting = (r["run_id"] for r in tuning if not set(settings(r["agent"])) <= known.get(r["run_id"], set()))
    return next(wanting, "")


def _jobs(data: dict[str, Any], what: str) -> list[tuple[tuple[str, ...], str, int]]:
    """(words, channel, episodes) of everything to measure of a run."""
    agent = base(data["agent"])
    if what == "tune":
        return [(words, "perfect", TUNE_EPISODES) for words in settings(agent)]
    chosen = tuple(data["chosen"])
    jobs = [(chosen, channel, REPORT_EPISODES) for channel in CHANNELS[: 1 if agent in SILENT else None]]
    jobs += [(tuple(words), "perfect", REPORT_EPISODES) for words in data["matched"].values()]
    if agent in EVERY_MESSAGE:
        jobs.append((EVERY_MESSAGE[agent], "perfect", REPORT_EPISODES))
    if agent in GRIDS:
        there = {words for words, _, _ in jobs}
        jobs += [(words, "perfect", SWEEP_EPISODES) for words in settings(agent) if words not in there]
    return list(dict.fromkeys(jobs))


def _write(path: Path, data: dict[str, Any]) -> None:
    """A line per entry."""
    head = json.dumps({k: v for k, v in data.items() if k != "entries"}, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in data["entries"])
    files.make_folder(path.parent)
    files.write_atomic(path, f'{head},\n "entries": [\n{lines}\n ]\n}}\n'.encode())


def sweep(what: str, runs_dir: Path, only: str = "", share: tuple[int, int] = (1, 1)) -> None:
    """Measure what is missing of every run of the study; runs that cannot be measured yet are named."""
    mine = [r for r in runs() if r["part"].endswith(OTHERS) == (what == "tune") and only in r["run_id"]]
    tuning = evaluations() if what == "report" else []
    for run in mine[share[0] - 1 :: share[1]]:
        path = HERE / "raw" / "eval" / f"{run['run_id']}.json"
        data = json.loads(path.read_text()) if path.is_file() else {"entries": []}
        try:
            new = run | (decided(run, tuning) if what == "report" else {})
            changed = any(data.get(name) != value for name, value in new.items())
            data = new | {name: value for name, value in data.items() if name not in new}
            _measure_missing(path, data, what, runs_dir / run["run_id"], changed=changed)
        except MarlError as error:
            print(f"{run['run_id']} is left out: {error}")
    if what == "report" and share == (1, 1):
        _draw_talk(runs_dir)


def _measure_missing(path: Path, data: dict[str, Any], what: str, folder: Path, *, changed: bool) -> None:
    """Every job of a run that its file does not hold; the file is written after each."""
    there = {(tuple(e["words"]), e["channel"], e["episodes"]) for e in data["entries"]}
    todo = [job for job in _jobs(data, what) if job not in there]
    if changed and not todo:
        _write(path, data)
    for job in todo:
        entry = measure(folder, *job)
        today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        made = {"git": results.git(), "hardware": results.hardware(), "date": today}
        for name, value in made.items():
            data.setdefault(name, value)
        if made["git"] != data["git"] or made["hardware"] != data["hardware"]:
            entry |= made  # than what was measured before
        data["entries"].append(entry)
        _write(path, data)
        shown = " ".join(job[0]).replace("agent.", "")
        print(f"{data['run_id']} {shown} {job[1]}: {wins(entry):.3f}, {messages(entry):.2f} messages")


def _draw_talk(runs_dir: Path) -> None:
    """plots/talk-<world>.png: who talks to whom in one episode of TMC, at the chosen threshold."""
    shown: set[str] = set()
    for m in evaluations():
        folder = runs_dir / m["run_id"]
        known = m["agent"] == "tmc" and "chosen" in m and m["env"] not in shown
        if not known or m["part"].endswith(OTHERS) or not folder.is_dir():
            continue
        shown.add(m["env"])
        cfg, saved = load_run(folder, words=(*m["chosen"], "channel=heavy"))
        rest = {"rng": Rng(_SEED + cfg.seed, "tmc"), "channel": cfg.channel, "threads": 1}
        said = conversation(load_agent(cfg, saved), cfg.env, device=torch.device("cpu"), **rest)
        assert said is not None
        figure = plots.conversation(*said, title=f"TMC on {m['env']}, heavy losses, one episode")
        plots.save(figure, HERE / "plots" / f"{talk_picture(m['env'])}.png")


def talk_picture(env: str) -> str:
    """Name of a world's picture of who talks to whom."""
    return f"talk-{re.sub(r'[^A-Za-z0-9]+', '_', env)}"


def _share(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise FieldError("share", text, "give k/n, the k-th of n shares: 1/2")
    return int(k), int(n)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tmc.sweep", description=__doc__)
    parser.add_argument("what", choices=("tune", "report"))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tmc", help="run folders of the study")
    parser.add_argument("--only", default="", help="runs whose id has this in it")
    parser.add_argument("--share", default="1/1", help="k/n: every n-th run from the k-th on")
    options = parser.parse_args()
    sweep(options.what, options.runs, options.only, _share(options.share))


if __name__ == "__main__":
    main()
