"""The table, the plots and the claims of TMC, redrawn from raw files.

    python -m experiments.tmc.table

reads experiments/tmc/raw/eval/*.json (`experiments.tmc.sweep`) and the runs' raw files, and writes
experiments/tmc/README.md between its markers, plots/pareto.png, plots/losses.png, the learning curves
plots/<part>.png and the rows tmc.*. Every world is reported; the claims are of those worlds where messages
pay: all-to-all wins at least 80 % and silence at least 10 points less.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import tables
from experiments.claims import ROOT, Derived, machine, write_claim
from experiments.tmc.sweep import CHANNELS, HERE, REPORT_EPISODES, Entry, messages, wins
from marl import plots, stats
from marl.files import write_atomic

COMMAND = "marl study experiments/tmc/study.yaml; python -m experiments.tmc.sweep tune, then report"
SILENT = ("qmix", "vdn")
LEAST_WINS, LEAST_GAP = 0.8, 0.1  # where messages pay
_SEED = 0  # of the bootstrap
Measured = list[dict[str, Any]]
Cells = dict[tuple[str, int], float]  # by (env, seed)


def read(paths: Sequence[Path]) -> Measured:
    """What was measured of the reported runs."""
    found = [json.loads(path.read_text()) for path in paths]
    return [m for m in found if not m["part"].endswith("_tune")]


def cells(
    measured: Measured, agent: str, of: Callable[[Entry], float], channel: str = "perfect", env: str = ""
) -> Cells:
    """A number of the reported entry of every run of a method."""
    out: Cells = {}
    for m in measured:
        if m["agent"] != agent or (env and m["env"] != env):
            continue
        for entry in m["entries"]:
            if entry["channel"] == channel and entry["episodes"] == REPORT_EPISODES:
                out[m["env"], m["seed"]] = of(entry)
    return out


def estimate(values: Cells) -> stats.Estimate:
    """IQM over seeds and worlds with its 95 % interval; seeds that every world has."""
    envs = sorted({env for env, _ in values})
    seeds = sorted(set.intersection(*({s for e, s in values if e == env} for env in envs)))
    x_RM = np.array([[values[env, seed] for env in envs] for seed in seeds])
    return stats.interval(x_RM, rng=np.random.default_rng(_SEED))


def pairwise(ours: Cells, other: Cells, of: Callable[[float, float], float]) -> Cells:
    """A number of two methods on the same world and seed, which were measured on the same episodes."""
    return {key: of(ours[key], other[key]) for key in ours if key in other}


def _derived(values: Cells) -> Derived:
    one = estimate(values)
    return (*one.numbers(), one.runs)


def message_reduction(*paths: Path) -> Derived:
    """1 - messages of TMC / messages of all-to-all."""
    m = read(paths)
    sent = cells(m, "tmc", messages), cells(m, "ac", messages)
    return _derived(pairwise(*sent, lambda ours, all_: 1 - ours / all_))


def win_gap_points(*paths: Path) -> Derived:
    """Win rate of all-to-all minus that of TMC, in points."""
    m = read(paths)
    return _derived(pairwise(cells(m, "tmc", wins), cells(m, "ac", wins), lambda a, b: 100 * (b - a)))


def vbc_over_tmc_messages(*paths: Path) -> Derived:
    """Messages of VBC / messages of TMC."""
    return _ratio(read(paths), "vbc")


def schednet_over_tmc_messages(*paths: Path) -> Derived:
    """Messages of SchedNet / messages of TMC."""
    return _ratio(read(paths), "schednet")


def _ratio(m: Measured, agent: str) -> Derived:
    sent = cells(m, "tmc", messages), cells(m, agent, messages)
    return _derived(pairwise(*sent, lambda ours, other: other / ours))


def rank_heavy_loss(*paths: Path) -> Derived:
    """1 + methods that win more than TMC under heavy losses.

    The value (and low end) counts those whose difference has its whole 95 % interval above 0: within the
    interval of the best is rank 1. The high end counts all whose difference is above 0.
    """
    m = read(paths)
    ours, surely, perhaps = cells(m, "tmc", wins, "heavy"), 1, 1
    runs = estimate(ours).runs
    for agent in sorted({run["agent"] for run in m} - {"tmc"}):
        more = pairwise(ours, cells(m, agent, wins, "heavy"), lambda a, b: b - a)
        if len(more) < len(ours):
            continue  # not on every world and seed
        value, low, _ = estimate(more).numbers()
        perhaps += value > 0
        surely += low is not None and low > 0
    return surely, surely, perhaps, runs


def where_messages_pay(measured: Measured) -> list[str]:
    """Worlds of the claims."""
    out = []
    for env in sorted({m["env"] for m in measured}):
        talk = cells(measured, "ac", wins, env=env)
        mute = [cells(measured, agent, wins, env=env) for agent in SILENT]
        silent = [float(estimate(c).value) for c in mute if c]
        if talk and silent and "success" in _any_entry(measured, env):
            best = float(estimate(talk).value)
            if best >= LEAST_WINS and best - max(silent) >= LEAST_GAP:
                out.append(env)
    return out


def _any_entry(measured: Measured, env: str) -> Entry:
    entry: Entry = next(m["entries"][0] for m in measured if m["env"] == env and m["entries"])
    return entry


# The page


def _cell(values: Cells, share: bool) -> str:
    if not values:
        return "-"
    value, low, high = estimate(values).numbers()
    form = ".1%" if share else ".2f"
    return format(value, form) if low is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _agents(measured: Measured, env: str) -> list[str]:
    order = ["tmc", "ac", "ac(light)", "ac(heavy)", "vbc", "schednet", "tarmac", *SILENT]
    return [a for a in order if any(m["agent"] == a and m["env"] == env for m in measured)]


def _chosen(measured: Measured, env: str, agent: str) -> str:
    for m in measured:
        if (m["env"], m["agent"]) == (env, agent):
            for entry in m["entries"]:
                if entry["episodes"] == REPORT_EPISODES:
                    return ", ".join(word.removeprefix("agent.") for word in entry["words"]) or "-"
    return "-"


def table(measured: Measured) -> str:
    """Markdown, a row per world and method."""
    head = ["world", "method", "threshold", "seeds", "messages per agent-step", "wins", *CHANNELS[1:], "drop"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for env in sorted({m["env"] for m in measured}):
        share = "success" in _any_entry(measured, env)
        for agent in _agents(measured, env):
            by = {channel: cells(measured, agent, wins, channel, env) for channel in CHANNELS}
            runs = [m for m in measured if (m["env"], m["agent"]) == (env, agent)]
            per_agent = cells(measured, agent, _per_agent_step(env, measured), env=env)
            drop = pairwise(by["perfect"], by["heavy"], lambda a, b: a - b)
            trial = "" if len(runs) >= tables.CLAIM_SEEDS else " (trial)"
            row = [env, agent, _chosen(measured, env, agent), f"{len(runs)}{trial}", _cell(per_agent, False)]
            row += [_cell(by[channel], share) for channel in CHANNELS]
            lines.append("| " + " | ".join([*row, _cell(drop, share)]) + " |")
    return "\n".join(lines) + "\n"


def _per_agent_step(env: str, measured: Measured) -> Callable[[Entry], float]:
    """Broadcasts per agent and step: all-to-all is 1."""
    everybody = cells(measured, "ac", messages, env=env)
    most = max(everybody.values(), default=1.0)
    return lambda entry: messages(entry) / most


def _panels(measured: Measured, title: str) -> tuple[Figure, list[tuple[str, Axes]]]:
    envs = sorted({m["env"] for m in measured})
    figure, axes = plots.canvas(len(envs), title)
    for env, ax in zip(envs, axes, strict=False):
        ax.set_title(env, fontsize=10)
        ax.set_ylabel("wins" if "success" in _any_entry(measured, env) else "return", fontsize=9)
    return figure, list(zip(envs, axes, strict=False))


def pareto(measured: Measured) -> Figure:
    """Wins against messages per agent-step, a point per threshold: the mean over seeds."""
    figure, panels = _panels(measured, "Wins against messages, no loss")
    for env, ax in panels:
        scale = _per_agent_step(env, measured)
        for k, agent in enumerate(_agents(measured, env)):
            points: dict[tuple[str, ...], list[tuple[float, float]]] = {}
            for m in measured:
                if (m["env"], m["agent"]) == (env, agent):
                    for entry in (e for e in m["entries"] if e["channel"] == "perfect"):
                        points.setdefault(tuple(entry["words"]), []).append((scale(entry), wins(entry)))
            xy = np.array([np.mean(p, 0) for p in points.values()]).reshape(-1, 2)
            style: dict[str, Any] = {"color": plots.COLOURS[k % len(plots.COLOURS)], "label": agent}
            ax.scatter(xy[:, 0], xy[:, 1], marker=plots.MARKERS[k % len(plots.MARKERS)], s=22, **style)
        ax.set_xlabel("messages per agent-step and receiver", fontsize=9)
        ax.legend(fontsize=7, frameon=False)
    return figure


def losses(measured: Measured) -> Figure:
    """Wins by loss level: IQM over seeds with its 95 % interval."""
    figure, panels = _panels(measured, "Wins when messages are lost")
    for env, ax in panels:
        for k, agent in enumerate(_agents(measured, env)):
            by = [cells(measured, agent, wins, channel, env) for channel in CHANNELS]
            at = [i for i, values in enumerate(by) if values]
            found = [estimate(by[i]).numbers() for i in at]
            style: dict[str, Any] = {"color": plots.COLOURS[k % len(plots.COLOURS)], "label": agent}
            style |= {"markersize": 4}
            style |= {"marker": plots.MARKERS[k % len(plots.MARKERS)], "linewidth": 1.2}
            ends = [[value - low if low is not None else 0.0 for value, low, _ in found]]
            ends.append([high - value if high is not None else 0.0 for value, _, high in found])
            x = np.array(at) + 0.06 * (k - 3)
            ax.errorbar(x, [f[0] for f in found], yerr=np.maximum(ends, 0), capsize=2, **style)
        ax.set_xticks(range(len(CHANNELS)), [c.replace("_", "\n") for c in CHANNELS], fontsize=7)
        ax.legend(fontsize=7, frameon=False)
    return figure


def made(paths: Sequence[Path]) -> dict[str, str]:
    """Commit, hardware and date that the raw files name."""
    raws = [json.loads(path.read_text()) for path in paths]
    commits = {str(raw["git"]["commit"]) + " with changes" * bool(raw["git"]["dirty"]) for raw in raws}
    return {
        "commit": ", ".join(sorted(commits)),
        "hardware": "; ".join(sorted({machine(raw["hardware"]) for raw in raws})),
        "date": ", ".join(sorted({raw["date"][:10] for raw in raws})),
    }


_CLAIMS = {  # test and what was compared
    "message_reduction": ("value >= 0.8", "1 - messages of TMC over those of all-to-all, no loss"),
    "win_gap_points": ("value <= 2", "win rate of all-to-all minus that of TMC, points, no loss"),
    "vbc_over_tmc_messages": ("value >= 1.3", "messages of VBC over those of TMC, no loss"),
    "schednet_over_tmc_messages": ("value >= 3.7", "messages of SchedNet over those of TMC, no loss"),
    "rank_heavy_loss": ("value == 1", "1 + methods that surely win more than TMC under channel=heavy"),
}


def claims(paths: Sequence[Path], measured: Measured, envs: Sequence[str]) -> None:
    """Write the rows that the raw files support, of the worlds where messages pay."""
    kinds = {"message_reduction": ("tmc", "ac"), "win_gap_points": ("tmc", "ac")}
    kinds |= {"vbc_over_tmc_messages": ("tmc", "vbc"), "schednet_over_tmc_messages": ("tmc", "schednet")}
    for name, (test, what) in _CLAIMS.items():
        wanted = kinds.get(name)
        mine = [
            path
            for path, m in ((p, json.loads(p.read_text())) for p in paths)
            if m["env"] in envs
            and not m["part"].endswith("_tune")
            and (m["agent"] in wanted if wanted else m["agent"] != "tarmac")
        ]
        found = read(mine)
        if not set(wanted or ("tmc", "ac")) <= {m["agent"] for m in found}:
            continue
        seeds = estimate(cells(found, "tmc", wins)).runs
        ours = f"tmc {100 * float(estimate(cells(found, 'tmc', wins)).value):.1f} %"
        others = [a for a in wanted or () if a != "tmc"]
        won = [f"{a} {100 * float(estimate(cells(found, a, wins)).value):.1f} %" for a in others]
        write_claim(
            id=f"tmc.{name}",
            unit="points" if "points" in name else "x" if "over" in name else "1",
            test=test,
            derive_with=f"experiments.tmc.table:{name}",
            raw=[str(path.relative_to(ROOT)) for path in mine],
            command=COMMAND,
            note=f"{what}; {', '.join(envs)}; IQM over seeds of {REPORT_EPISODES:,} paired greedy episodes, "
            f"thresholds chosen on other seeds; wins without loss: {', '.join([ours, *won])}",
            trial=seeds < tables.CLAIM_SEEDS,
            made=made(mine),
        )


def main() -> None:
    paths = sorted((HERE / "raw" / "eval").glob("*.json"))
    measured = read(paths)
    tables.draw(tables.read(sorted((HERE / "raw").glob("*.json"))), HERE / "plots", "tmc")
    if not measured:
        print("nothing was measured yet: run python -m experiments.tmc.sweep report")
        return
    envs = where_messages_pay(measured)
    plots.save(pareto(measured), HERE / "plots" / "pareto.png")
    plots.save(losses(measured), HERE / "plots" / "losses.png")
    claims(paths, measured, envs)
    page = HERE / "README.md"
    where = f"Claims are of: {', '.join(envs)}." if envs else "Messages pay on none of these: no claims."
    about = f"{where} Commit of the measurements: {made(paths)['commit']}. Raw: `raw/eval/<run_id>.json`."
    pictures = "![Wins against messages](plots/pareto.png)\n\n![Wins under losses](plots/losses.png)"
    shown = f"{table(measured)}\n{about}\n\n{pictures}\n"
    write_atomic(page, tables.fill_block(page.read_text(), shown).encode())
    print(shown)


if __name__ == "__main__":
    main()
