"""The table, the plots and the claims of TMC, redrawn from raw files.

    python -m experiments.tmc.table

reads experiments/tmc/raw/eval/*.json (`experiments.tmc.sweep`) and the runs' raw files, and writes
experiments/tmc/README.md between its markers, plots/pareto.png, plots/losses.png, the learning curves
plots/<part>.png and the rows tmc.*. Every world is reported; the claims are of those worlds where messages
pay: all-to-all wins at least 80 % and silence at least 10 points less. Messages of two methods are compared
at thresholds of their own for each pair (`sweep.matched`), and claimed where TMC wins as much, within 2
points, or more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import tables
from experiments.claims import ROOT, Derived, derive, machine, write_claim
from experiments.tmc.cells import Cells, Measured, any_entry, cells, estimate, methods, pairwise, read
from experiments.tmc.figures import losses, pareto
from experiments.tmc.sweep import (
    BY_RETURN,
    CHANNELS,
    EVERY_MESSAGE,
    HERE,
    LONG,
    OTHERS,
    REPORT_EPISODES,
    RIVALS,
    SILENT,
    TUNE_SEEDS,
    Entry,
    base,
    best,
    evaluations,
    fewest,
    living_talk,
    messages,
    runs,
    talk,
    talk_picture,
    tuned,
    tuning_entries,
    wins,
)
from marl import plots
from marl.errors import MarlError
from marl.files import write_atomic

COMMAND = "marl study experiments/tmc/study.yaml; python -m experiments.tmc.sweep tune, then report"
LEAST_WINS, LEAST_GAP = 0.8, 0.1  # where messages pay
NEAR = 0.02  # wins that are no further apart are matched


def _derived(values: Cells) -> Derived:
    one = estimate(values)
    return (*one.numbers(), one.runs)


def message_reduction(*paths: Path) -> Derived:
    """1 - messages of TMC / messages of all-to-all."""
    return _reduction(read(paths), talk)


def living_message_reduction(*paths: Path) -> Derived:
    """The same, of messages between living agents alone, per pair of living agents."""
    return _reduction(read(paths), living_talk)


def _reduction(m: Measured, of: Callable[[Entry], float]) -> Derived:
    sent = cells(m, "tmc", of), cells(m, "ac", of)
    return _derived(pairwise(*sent, lambda ours, all_: 1 - ours / all_))


def win_gap_points(*paths: Path) -> Derived:
    """Win rate of all-to-all minus that of TMC, in points."""
    m = read(paths)
    return _derived(pairwise(cells(m, "tmc", wins), cells(m, "ac", wins), lambda a, b: 100 * (b - a)))


def protocol_cost_points(*paths: Path) -> Derived:
    """Win rate of TMC's team when everybody sends at every step minus that at its threshold, in points."""
    m = read(paths)
    open_, ours = cells(m, "tmc", wins, at=EVERY_MESSAGE["tmc"]), cells(m, "tmc", wins)
    return _derived(pairwise(open_, ours, lambda a, b: 100 * (a - b)))


def vbc_over_tmc_messages(*paths: Path) -> Derived:
    """Messages of VBC / messages of TMC."""
    return _ratio(read(paths), "vbc")


def schednet_over_tmc_messages(*paths: Path) -> Derived:
    """Messages of SchedNet / messages of TMC."""
    return _ratio(read(paths), "schednet")


def _ratio(m: Measured, rival: str) -> Derived:
    return _derived(ratios(m, rival))


def ratios(m: Measured, rival: str, env: str = "") -> Cells:
    """Messages of a rival / messages of TMC, both at their settings for this comparison.

    CHOICE: who sent nothing counts as one message in all episodes: the ratio stays finite.
    """

    def some(entry: Entry) -> float:
        return max(messages(entry), 1 / sum(entry["length"]))

    ours, theirs = (cells(m, agent, some, env=env, rival=rival) for agent in ("tmc", rival))
    return pairwise(ours, theirs, lambda a, b: b / a)


def gaps(m: Measured, rival: str, env: str = "") -> Cells:
    """Wins of TMC minus those of a rival at the settings of `ratios`."""
    ours, theirs = (cells(m, agent, wins, env=env, rival=rival) for agent in ("tmc", rival))
    return pairwise(ours, theirs, lambda a, b: a - b)


def likeness(m: Measured, rival: str, env: str) -> str:
    """How TMC's wins compare with a rival's there: matched, more, fewer; "" where one was not measured."""
    found = gaps(m, rival, env)
    if not found:
        return ""
    gap = float(estimate(found).value)
    return "matched" if abs(gap) <= NEAR else "more" if gap > 0 else "fewer"


def rank_light_loss(*paths: Path) -> Derived:
    """1 + methods that win more than TMC under light losses."""
    return _rank(read(paths), "light")


def rank_medium_loss(*paths: Path) -> Derived:
    """1 + methods that win more than TMC under medium losses."""
    return _rank(read(paths), "medium")


def rank_heavy_loss(*paths: Path) -> Derived:
    """1 + methods that win more than TMC under heavy losses."""
    return _rank(read(paths), "heavy")


def rank_gilbert_elliott_loss(*paths: Path) -> Derived:
    """1 + methods that win more than TMC at the paper's 15.6 %."""
    return _rank(read(paths), "gilbert_elliott")


def _rank(m: Measured, channel: str) -> Derived:
    """1 + methods that win more than TMC over a channel, of those that have every seed of TMC.

    The value (and low end) counts those whose difference has its whole 95 % interval above 0: within the
    interval of the best is rank 1. The high end counts all whose difference is above 0.

    Raises:
        MarlError: there is nobody to compare with.
    """
    ours, surely, perhaps = cells(m, "tmc", wins, channel), 1, 1
    runs = estimate(ours).runs
    others = _ranked(m, channel)
    if not others:
        raise MarlError("nobody else is measured on every seed of TMC")
    for agent in others:
        more = pairwise(ours, cells(m, agent, wins, channel), lambda a, b: b - a)
        value, low, _ = estimate(more).numbers()
        perhaps += value > 0
        surely += low is not None and low > 0
    return surely, surely, perhaps, runs


def _ranked(m: Measured, channel: str) -> list[str]:
    """Other methods that were measured over a channel on every world and seed that TMC was."""
    ours = set(cells(m, "tmc", wins, channel))
    others = sorted({run["agent"] for run in m if base(run["agent"]) != "tmc"})
    return [agent for agent in others if ours <= set(cells(m, agent, wins, channel))]


def where_messages_pay(measured: Measured) -> list[str]:
    """Worlds of the claims."""
    out = []
    for env in sorted({m["env"] for m in measured}):
        talk = cells(measured, "ac", wins, env=env)
        mute = [cells(measured, agent, wins, env=env) for agent in SILENT]
        silent = [float(estimate(c).value) for c in mute if c]
        if talk and silent and "success" in any_entry(measured, env):
            best = float(estimate(talk).value)
            if best >= LEAST_WINS and best - max(silent) >= LEAST_GAP:
                out.append(env)
    return out


# The page


def _cell(values: Cells, share: bool) -> str:
    if not values:
        return "-"
    value, low, high = estimate(values).numbers()
    form = ".1%" if share else ".2f"
    return format(value, form) if low is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _shown(words: Sequence[str]) -> str:
    return ", ".join(word.removeprefix("agent.") for word in words) or "-"


def _chosen(measured: Measured, env: str, agent: str, rival: str = "") -> str:
    """The setting; several where it was chosen anew and not every run is measured at it yet."""
    mine = [m for m in measured if (m["env"], m["agent"]) == (env, agent)]
    words = [m.get("matched", {}).get(rival, []) if rival else m.get("chosen", []) for m in mine]
    return " or ".join(dict.fromkeys(map(_shown, words))) or "-"


def table(measured: Measured) -> str:
    """Markdown, a row per world and method."""
    head = ["world", "method", "threshold", "seeds", "messages per agent-step", "of the living"]
    head += ["wins", *CHANNELS[1:], "drop"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for env in sorted({m["env"] for m in measured}):
        share = "success" in any_entry(measured, env)
        for agent in methods(measured, env):
            by = {channel: cells(measured, agent, wins, channel, env) for channel in CHANNELS}
            runs = [m for m in measured if (m["env"], m["agent"]) == (env, agent)]
            said = [cells(measured, agent, of, env=env) for of in (talk, living_talk)]
            drop = pairwise(by["perfect"], by["heavy"], lambda a, b: a - b)
            trial = "" if len(runs) >= tables.CLAIM_SEEDS else " (trial)"
            row = [env, agent, _chosen(measured, env, agent), f"{len(runs)}{trial}"]
            row += [_cell(values, False) for values in said]
            row += [_cell(by[channel], share) for channel in CHANNELS]
            lines.append("| " + " | ".join([*row, _cell(drop, share)]) + " |")
    return "\n".join(lines) + "\n"


def in_hindsight(measured: Measured, env: str, rival: str) -> str:
    """A rival's fewest messages per agent-step that win what TMC does, both IQM of the reported seeds.

    Nobody could have chosen that threshold, as it is found on these seeds; it tells what a choice cost.
    """
    level = float(estimate(cells(measured, "tmc", wins, env=env, rival=rival)).value)
    by: dict[tuple[str, ...], tuple[Cells, Cells]] = {}
    mine = [m for m in measured if (m["env"], m["agent"]) == (env, rival)]
    for m in mine:
        for entry in (entry for entry in m["entries"] if entry["channel"] == "perfect"):
            won, sent = by.setdefault(tuple(entry["words"]), ({}, {}))
            won[env, m["seed"]], sent[env, m["seed"]] = wins(entry), talk(entry)
    whole = [pair for pair in by.values() if len(pair[0]) == len(mine)]
    enough = [float(estimate(sent).value) for won, sent in whole if float(estimate(won).value) >= level]
    return f"{min(enough):.2f}" if enough else "-"


def compared(measured: Measured) -> str:
    """Markdown, a row per world and rival: messages at matched wins."""
    head = "| world | rival | threshold of TMC | of the rival | wins of TMC | of the rival | messages of TMC "
    head += "| of the rival | ratio | TMC wins | rival, in hindsight |"
    lines = [head, "|" + "---|" * 11]
    for env in sorted({m["env"] for m in measured}):
        share = "success" in any_entry(measured, env)
        for rival in (rival for rival in RIVALS if ratios(measured, rival, env)):
            row = [env, rival, *(_chosen(measured, env, agent, rival) for agent in ("tmc", rival))]
            for of, as_share in ((wins, share), (talk, False)):
                for agent in ("tmc", rival):
                    row.append(_cell(cells(measured, agent, of, env=env, rival=rival), as_share))
            row += [_cell(ratios(measured, rival, env), False)]
            row += [likeness(measured, rival, env) if share else "-", in_hindsight(measured, env, rival)]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def each_seed(measured: Measured, envs: Sequence[str]) -> str:
    """Sentences: wins of TMC and all-to-all without loss, a number per seed, in the worlds of the claims."""
    out = []
    for env in envs:
        ways: dict[str, Cells] = {
            "TMC": cells(measured, "tmc", wins, env=env),
            "TMC with every message": cells(measured, "tmc", wins, env=env, at=EVERY_MESSAGE["tmc"]),
            "all-to-all": cells(measured, "ac", wins, env=env),
        }
        shown = (f"{name} {', '.join(f'{c[key]:.1%}' for key in sorted(c))}" for name, c in ways.items())
        out.append(f"Wins on {env} without loss, seeds in order: {'; '.join(shown)}.")
    return " ".join(out)


def lost(measured: Measured) -> str:
    """A sentence: how many of all-to-all's messages each channel lost."""
    shares = []
    for channel in CHANNELS[1:]:
        done = [e for m in measured if m["agent"] == "ac" for e in m["entries"] if e["channel"] == channel]
        sent, came = (sum(sum(e[f"link.{name}"]) for e in done) for name in ("messages", "delivered"))
        shares += [f"{channel} {1 - came / sent:.1%}"] if sent else []
    return f"Lost of all-to-all's messages: {', '.join(shares) or 'not measured'}."


def forms(measured: Measured) -> str:
    """Markdown, a row per world and form of a method, on tuning seeds; "" where there are none."""
    head = "| world | form | most wins | threshold | wins, a seed each | messages per agent-step |"
    lines = [head, "|" + "---|" * 6]
    for env in sorted({m["env"] for m in measured if m["part"].endswith("_forms")}):
        names = sorted({m["agent"] for m in measured if m["env"] == env and m["part"].endswith("_forms")})
        plain = dict.fromkeys(name.split()[0] for name in names)
        for name in sorted([*plain, *names]):
            try:
                ((level, everybody),) = tuned(measured, env, "ac").values()  # it has one setting
                means = tuned(measured, env, name)
            except MarlError as error:
                print(f"no row of {name} on {env}: {error}")
                continue
            words = fewest(means, level)
            by = tuning_entries(measured, env, name)
            each = ", ".join(f"{wins(by[seed][words]):.3f}" for seed in TUNE_SEEDS)
            row = [env, name, f"{best(means):.3f}", _shown(words), each, f"{means[words][1] / everybody:.2f}"]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def looked_at(raw: Path = HERE / "scout" / "raw") -> str:
    """Markdown, a row per world and number of steps: what all-to-all and silence reached, one per seed."""
    by: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in sorted(runs(raw), key=lambda run: (run["env"], run["seed"])):
        found = json.loads((raw / f"{run['run_id']}.json").read_text())
        env = run["env"].removesuffix(f" {LONG}")  # how long, a column says
        name = "success" if "success" in found["columns"] and env not in BY_RETURN else "return"
        column = found["columns"].index(name)
        mean = sum(row[column] for row in found["episodes"]) / len(found["episodes"])
        steps = dict(word.split("=", 1) for word in found["overrides"])["total_steps"]
        kind = "silent" if run["agent"] in SILENT else "open"
        by.setdefault((f"{env} ({name})", f"{int(steps):,}"), {}).setdefault(kind, []).append(mean)
    lines = ["| world | steps | all-to-all | silence |", "|---|---|---|---|"]
    for about, scores in by.items():
        shown = [", ".join(f"{x:.3f}" for x in scores.get(kind, [])) or "-" for kind in ("open", "silent")]
        lines.append("| " + " | ".join([*about, *shown]) + " |")
    return "\n".join(lines) + "\n"


def made(paths: Sequence[Path]) -> dict[str, str]:
    """Commits, hardware and dates that the raw files and their entries name."""
    raws = [json.loads(path.read_text()) for path in paths]
    raws += [entry for raw in raws for entry in raw["entries"] if "git" in entry]
    commits = {str(raw["git"]["commit"]) + " with changes" * bool(raw["git"]["dirty"]) for raw in raws}
    return {
        "commit": ", ".join(sorted(commits)),
        "hardware": "; ".join(sorted({machine(raw["hardware"]) for raw in raws})),
        "date": ", ".join(sorted({raw["date"][:10] for raw in raws})),
    }


_RANK = "1 + methods that surely win more than TMC under channel="
_CLAIMS = {  # test and what was compared
    "message_reduction": ("value >= 0.8", "1 - messages of TMC over those of all-to-all, no loss"),
    "living_message_reduction": ("value >= 0.8", "the same of messages between living agents, no loss"),
    "win_gap_points": ("value <= 2", "win rate of all-to-all minus that of TMC, points, no loss"),
    "protocol_cost_points": (
        "value <= 2",
        "win rate of TMC's own team when everybody sends at every step minus that at its threshold, points",
    ),
    "vbc_over_tmc_messages": ("value >= 1.3", "messages of VBC over those of TMC, at wins as many, no loss"),
    "schednet_over_tmc_messages": (
        "value >= 3.7",
        "messages of SchedNet over those of TMC, at wins as many, no loss",
    ),
    **{f"rank_{name}_loss": ("value == 1", f"{_RANK}{name}") for name in CHANNELS[1:]},
}


def claimed(measured: Measured) -> list[str]:
    """Worlds of the claims: where messages pay, and of these, if there are any, those with enough seeds.

    A world whose teams were trained twice counts once: with the longer training.
    """
    pay = where_messages_pay(measured)
    enough = [e for e in pay if len(cells(measured, "tmc", wins, env=e)) >= tables.CLAIM_SEEDS] or pay
    return [env for env in enough if f"{env} {LONG}" not in enough]


def claims(paths: Sequence[Path], measured: Measured, envs: Sequence[str]) -> None:
    """Write the rows that the raw files support, of the worlds where messages pay; rows of before go."""
    everything = {path: json.loads(path.read_text()) for path in paths}
    written = set()
    for name in _CLAIMS:
        rival = _other(name) if _other(name) in RIVALS else ""
        worlds = [e for e in envs if not rival or likeness(measured, rival, e) in ("matched", "more")]
        mine = [
            path
            for path, m in everything.items()
            if m["env"] in worlds and not m["part"].endswith(OTHERS) and _counts(name, m["agent"])
        ]
        if not mine:
            alike = f" and TMC wins like {rival}" if rival else ""
            print(f"no claim tmc.{name}: no world where messages pay{alike}")
            continue
        try:
            _write_row(name, mine, rival)
            written.add(f"tmc.{name}")
        except MarlError as error:
            print(f"no claim tmc.{name}: {error}")
    path = HERE / "claims.json"
    if path.is_file():
        rows = [row for row in json.loads(path.read_text()) if row["id"] in written]
        write_atomic(path, json.dumps(rows, indent=1, allow_nan=False).encode() + b"\n")


def _other(name: str) -> str:
    """Whom a claim compares TMC with; "" where it is everybody."""
    if name.startswith("rank"):
        return ""
    if name.startswith("protocol"):
        return "tmc"
    return name.removesuffix("_over_tmc_messages") if "_over_" in name else "ac"


def _counts(name: str, agent: str) -> bool:
    """Whether a method's runs are raw files of a claim. TarMAC learns otherwise, and is in none."""
    return agent in ("tmc", _other(name)) if _other(name) else agent != "tarmac"


def _write_row(name: str, paths: Sequence[Path], rival: str) -> None:
    """One row, of the seeds that all who are compared have.

    Raises:
        MarlError: something that it needs is not measured.
    """
    test, what = _CLAIMS[name]
    found, other = read(paths), _other(name)
    won = {a: cells(found, a, wins, rival=rival) for a in ("tmc", other) if a}
    seeds = set.intersection(*map(set, won.values()))
    shown = [
        f"{a} {100 * float(estimate({key: w[key] for key in seeds}).value):.1f} %" for a, w in won.items()
    ]
    if not other:
        channel = name.removeprefix("rank_").removesuffix("_loss")
        there = _ranked(found, channel)
        what = f"{what}, against {', '.join(there)}"
        left = sorted({m["agent"] for m in found if base(m["agent"]) != "tmc"} - set(there))
        what += f" (without {', '.join(left)}: not on every seed)" if left else ""
    worlds = sorted({m["env"] for m in found})
    raw = [path for path, m in zip(paths, found, strict=True) if (m["env"], m["seed"]) in seeds]
    derive_with = f"experiments.tmc.table:{name}"
    write_claim(
        id=f"tmc.{name}",
        unit="points" if "points" in name else "x" if "over" in name else "1",
        test=test,
        derive_with=derive_with,
        raw=[str(path.relative_to(ROOT)) for path in raw],
        command=COMMAND,
        note=f"{what}; {', '.join(worlds)}; IQM over seeds of {REPORT_EPISODES:,} paired greedy "
        f"episodes, thresholds chosen on other seeds; wins without loss: {', '.join(shown)}",
        trial=derive(derive_with, [str(path) for path in raw])[3] < tables.CLAIM_SEEDS,
        made=made(raw),
    )


def page(paths: Sequence[Path], measured: Measured) -> str:
    """What stands between the markers of README.md."""
    envs = claimed(measured)
    where = f"Claims are of: {', '.join(envs)}." if envs else "Messages pay on none of these: no claims."
    fewer = [(env, rival) for env in envs for rival in RIVALS if likeness(measured, rival, env) == "fewer"]
    where += "".join(f" On {env} TMC wins fewer than {rival}: not in its claim." for env, rival in fewer)
    about = f"{each_seed(measured, envs)}\n\n" * bool(envs) + f"{lost(measured)}\n\n{where} "
    about += f"Commit of the measurements: {made(paths)['commit']}. "
    about += "Raw: `raw/eval/<run_id>.json`."
    names = {"pareto": "Wins against messages", "losses": "Wins under losses"}
    names |= {talk_picture(env): f"Who talks to whom, {env}" for env in sorted({m["env"] for m in measured})}
    there = [name for name in names if (HERE / "plots" / f"{name}.png").is_file()]
    pictures = "\n\n".join(f"![{names[name]}](plots/{name}.png)" for name in there)
    tried = forms(evaluations())
    tried = f"Other settings, tuning seeds (trials):\n\n{tried}\n" if tried else ""
    tried += f"Worlds that were looked at, a number per seed (trials):\n\n{looked_at()}\n"
    alike = (
        f"Messages where both win as much (matched: within {100 * NEAR:.0f} points; in hindsight: the "
        f"rival's fewest on the reported seeds that win what TMC does there):\n\n{compared(measured)}"
    )
    return f"{table(measured)}\n{alike}\n{tried}{about}\n\n{pictures}\n"


def main() -> None:
    paths = sorted((HERE / "raw" / "eval").glob("*.json"))
    measured = read(paths)
    tables.draw(tables.read(sorted((HERE / "raw").glob("*.json"))), HERE / "plots", "tmc")
    if not measured:
        print("nothing was measured yet: run python -m experiments.tmc.sweep report")
        return
    plots.save(pareto(measured), HERE / "plots" / "pareto.png")
    plots.save(losses(measured), HERE / "plots" / "losses.png")
    claims(paths, measured, claimed(measured))
    readme, shown = HERE / "README.md", page(paths, measured)
    write_atomic(readme, tables.fill_block(readme.read_text(), shown).encode())
    print(shown)


if __name__ == "__main__":
    main()
