"""The grid's table, picture and claims, redrawn from its raw files.

    python -m experiments.attack.table

reads experiments/attack/raw/cells/*.json and writes the table into experiments/attack/README.md,
plots/grid.png, plots/defences.png and the rows attack.* that the files support.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from experiments.attack.grid import BOUNDED, CHOOSE, DEFENDED, FORCE, HERE, RAW, TUNING, WINS, cells, victims
from experiments.claims import ROOT, Derived, write_claim
from marl import plots, stats
from marl.errors import MarlError
from marl.files import write_atomic

Cell = dict[str, Any]
Attack = tuple[str, str]  # step one, step two
COMMAND = "python -m experiments.attack.grid"
# What a defence regains is counted under these: direct control asks nothing of a network.
UNBOUNDED = tuple(attack for attack in DEFENDED if attack[1] not in ("none", "control"))
SMALL = BOUNDED[
    1:2
]  # and, beside that, under this: what most of the tried defences are trained for, or twice it

_REGAINED = ("regained", f"regained within {SMALL[0][1].partition('_')[2]}")


def read(paths: Iterable[Path]) -> list[Cell]:
    """The cells of these raw files."""
    return [json.loads(path.read_text()) for path in paths]


def defence_of(cell: Cell) -> str:
    """The team's defence with the settings that were given."""
    return f"{cell['defence']} {cell.get('settings', '')}".strip()


def kind(cell: Cell) -> tuple[str, str, str, str]:
    """Victim's method, its defence, step one, step two."""
    return cell["agent"], defence_of(cell), cell["choose"], cell["force"]


def number(cell: Cell, name: str) -> float | None:
    """A number of a cell: recomputed from its episodes where they are kept."""
    if name == "return":
        return float(np.mean(cell["returns"]))
    if name == "success":
        return cell["wins"].count("1") / len(cell["wins"])
    value = cell["numbers"][name]
    return None if value is None else float(value)


def _mean(values: list[float]) -> stats.Estimate:
    """Mean over victims with its 95 % interval (CHOICE: five victims; the paper reports means)."""
    return stats.interval(np.array(values), stats.mean, rng=np.random.default_rng(0))


def _derived(one: stats.Estimate) -> Derived:
    return *one.numbers(), one.runs


def _shown(cells: list[Cell], name: str, form: str) -> str:
    values = [v for v in (number(cell, name) for cell in cells) if v is not None]
    if not values:
        return "-"
    return _between(_mean(values), form)


def table(found: list[Cell]) -> str:
    """Markdown: a row per victim's method, defence, step one and step two."""
    columns = "victim, defence, step one, step two, victims, return, wins, misled, target reached"
    names = [*columns.split(", "), "L1", "L0", "L-infinity", "attacked"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for agent, defence in dict.fromkeys((cell["agent"], defence_of(cell)) for cell in found):
        for choose, force in cells(agent, "none"):
            mine = [c for c in found if kind(c) == (agent, defence, choose, force)]
            if not mine:
                continue
            parts = [
                ("return", ".2f"),
                ("success", ".1%"),
                ("misclassified", ".1%"),
                ("target_reached", ".1%"),
                ("l1", ".2f"),
                ("l0", ".1f"),
                ("linf", ".2f"),
                ("steps_attacked", ".1f"),
            ]
            shown = " | ".join(_shown(mine, name, form) for name, form in parts)
            lines.append(f"| {agent} | {defence} | {choose} | {force} | {len(mine)} | {shown} |")
    return "\n".join(lines) + "\n"


def alone(found: list[Cell]) -> str:
    """A sentence: what every victim wins alone, and which of them are not trained."""
    parts, weak = [], []
    for agent, defence in dict.fromkeys((cell["agent"], defence_of(cell)) for cell in found):
        mine = [c for c in found if kind(c) == (agent, defence, "none", "none")]
        wins = [f"{_wins(c):.1%}" for c in mine]
        parts.append(f"{agent}, {defence}: {', '.join(wins) or 'not played'}")
        weak += [c["run_id"] for c in mine if _wins(c) < WINS]
    under = f"under {WINS:.0%}: {', '.join(weak) or 'none'}"
    return f"Wins of the victims alone, one number each. {'; '.join(parts)}; {under}."


def left_out(teams: list[dict[str, Any]]) -> str:
    """A sentence: the teams without a defence that were trained, and those of them that win too little.

    Args:
        teams: of `grid.victims`.
    """
    parts = []
    bare = [t for t in teams if t["defence"] == "none"]
    for agent in dict.fromkeys(t["agent"] for t in bare):
        mine = sorted((t for t in bare if t["agent"] == agent), key=lambda t: t["seed"])
        weak = [f"seed {t['seed']} {t['wins_trained']:.1%}" for t in mine if t["wins_trained"] < WINS]
        parts.append(f"{agent} {len(weak)} of {len(mine)}" + (f" ({', '.join(weak)})" if weak else ""))
    return f"Trained, but left out for winning less than {WINS:.0%}: {'; '.join(parts)}."


def weights_table(found: list[Cell]) -> str:
    """Markdown: what the forms and weights of the regulariser gave on the tuning victims."""
    names = ["victim", "regulariser", "weight", "return under control", "return under d-JSMA", "wins", "L1"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    by = {(c["agent"], c["regulariser"], c["weight"], c["force"]): c for c in found}
    for agent, regulariser, weight, force in sorted(by):
        direct = by.get((agent, regulariser, weight, "control"))
        if force != "djsma" or direct is None:
            continue
        cell = by[agent, regulariser, weight, "djsma"]
        returns = " | ".join(f"{number(c, 'return'):.2f}" for c in (direct, cell))
        shown = f"{returns} | {number(cell, 'success'):.1%} | {number(cell, 'l1') or 0:.2f}"
        lines.append(f"| {agent} | {regulariser} | {weight:g} | {shown} |")
    return "\n".join(lines) + "\n"


def tuning_table(found: list[Cell]) -> str:
    """Markdown: the settings of defences that were tried on the tuning seed; the bare team first."""
    met = DEFENDED + BOUNDED
    under = [f"return under {choose} by {force}" for choose, force in met[1:]]
    names = ["defence", "wins alone", "return alone", *under, *_REGAINED]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    by: dict[str, dict[tuple[str, str], Cell]] = {}
    for cell in found:
        by.setdefault(defence_of(cell), {})[cell["choose"], cell["force"]] = cell
    shares = (_shares(found), _shares(found, SMALL))
    for defence, team in sorted(by.items(), key=lambda item: (item[0] != "none", item[0])):
        if not team.keys() >= set(met):
            continue
        alone = f"{number(team['none', 'none'], 'success'):.1%}"
        returns = [f"{number(team[attack], 'return'):.2f}" for attack in met]
        regained = [_regained(defence, one) for one in shares]
        lines.append(f"| {' | '.join([defence, alone, *returns, *regained])} |")
    return "\n".join(lines) + "\n"


def defences_table(found: list[Cell]) -> str:
    """Markdown: what each defence that is reported regains and gives up; the bare teams first."""
    under = ["under attack", *(f"under {choose} by {force}" for choose, force in BOUNDED)]
    names = ["defence", "seeds", "wins given up", "return alone", *under, *_REGAINED]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    shares = _shares(found)
    for defence, share in _bare_first(shares):
        given = "-" if defence == "none" else _between(share.wins_given_up, ".1%")
        returns = [_between(value, ".2f") for value in (share.alone, share.hit)]
        returns += [_shown(_under(found, defence, attack), "return", ".2f") for attack in BOUNDED]
        regained = [_regained(defence, one) for one in (shares, _shares(found, SMALL))]
        lines.append(f"| {' | '.join([defence, str(share.regained.runs), given, *returns, *regained])} |")
    return "\n".join(lines) + "\n"


def _bare_first(shares: dict[str, Share]) -> list[tuple[str, Share]]:
    return sorted(shares.items(), key=lambda item: (item[0] != "none", item[0]))


def _regained(defence: str, shares: dict[str, Share]) -> str:
    return _between(shares[defence].regained, ".0%") if defence != "none" and defence in shares else "-"


def _under(found: Iterable[Cell], defence: str, attack: Attack) -> list[Cell]:
    """Cells of an attack on the teams of a defence."""
    return [c for c in found if (defence_of(c), (c["choose"], c["force"])) == (defence, attack)]


def _between(one: stats.Estimate, form: str) -> str:
    value, low, high = one.numbers()
    return f"{value:{form}}" + ("" if low is None or high is None else f" [{low:{form}}, {high:{form}}]")


def draw(found: list[Cell], path: Path) -> None:
    """Mean return of every cell of teams without defence, a panel per victim's method."""
    found = [cell for cell in found if cell["defence"] == "none"]
    agents = list(dict.fromkeys(cell["agent"] for cell in found))
    figure, axes = plots.canvas(len(agents), "mean team return under attack", (4.6, 3.4))
    for ax, agent in zip(axes, agents, strict=False):
        for i, choose in enumerate(CHOOSE):
            values: list[float] = []
            for force in FORCE:
                mine = [c for c in found if (c["agent"], c["choose"], c["force"]) == (agent, choose, force)]
                returns = [np.mean(c["returns"]) for c in mine]
                values.append(float(np.mean(returns)) if mine else float("nan"))
            look = {"color": plots.COLOURS[i], "marker": plots.MARKERS[i], "linestyle": plots.DASHES[i]}
            ax.plot(range(len(FORCE)), values, label=choose, **look)
        clean = [number(c, "return") for c in found if (c["agent"], c["choose"]) == (agent, "none")]
        if clean:
            ax.axhline(float(np.mean([v for v in clean if v is not None])), color="#555555", linewidth=1.0)
        ax.set_xticks(range(len(FORCE)), FORCE, fontsize=8)
        ax.set_title(agent, fontsize=10)
        ax.set_ylabel("team return", fontsize=9)
        ax.legend(fontsize=7, frameon=False)
    plots.save(figure, path)


def draw_defences(found: list[Cell], path: Path) -> None:
    """Returns of defended teams: alone, under small changes, under the attack that hurts most; bare first."""
    small, shares = SMALL[0], _shares(found)
    if not shares:
        return
    panels: dict[str, dict[str, stats.Estimate]] = {
        "return alone": {},
        f"return under {' by '.join(small)}": {},
        "return under attack": {},
    }
    for defence, share in _bare_first(shares):
        bounded = [float(np.mean(c["returns"])) for c in _under(found, defence, small)]
        known = (share.alone, _mean(bounded) if bounded else None, share.hit)
        for panel, one in zip(panels.values(), known, strict=True):
            if one is not None:  # a grid may be half played
                panel[defence.replace("defence.", "").replace(" ", "\n", 1)] = one
    plots.save(plots.intervals(panels, title="QMIX on battle/2s3z, defended"), path)


def _each(name: str) -> Callable[..., Derived]:
    def of(*paths: Path) -> Derived:
        return _derived(_mean([v for v in (number(cell, name) for cell in read(paths)) if v is not None]))

    return of


return_djsma_owr, win_rate_djsma_owr, l1_djsma_owr = _each("return"), _each("success"), _each("l1")


def djsma_over_control_damage(*paths: Path) -> Derived:
    """Lost return under d-JSMA over that under direct control, both by OWR; mean over victims.

    Args:
        paths: of every victim the cells none, control and djsma.
    """
    by: dict[str, dict[str, float]] = {}
    for cell in read(paths):
        value = number(cell, "return")
        assert value is not None
        by.setdefault(cell["run_id"], {})[cell["force"]] = value
    return _derived(_mean([(v["none"] - v["djsma"]) / (v["none"] - v["control"]) for v in by.values()]))


@dataclasses.dataclass(frozen=True)
class Share:
    """What a defence is worth, mean over seeds.

    Attributes:
        regained: return under attack less that of the bare team, over what the attack cost the bare team.
        wins_given_up: wins without an attack, the bare team's less the defended one's, in [-1, 1].
        alone, hit: return without an attack, and under the one that hurts most.
    """

    regained: stats.Estimate
    wins_given_up: stats.Estimate
    alone: stats.Estimate
    hit: stats.Estimate


def defended(found: Iterable[Cell]) -> dict[str, Share]:
    """By defence what it is worth, seed against seed; of `none`, the bare teams, nothing regained.

    Every team meets the attack that hurts it most. A seed of which a cell is missing, of the team or of the
    bare one, does not count: the missing attack may be the one that hurts. What counts is what defended
    teams met.
    """
    teams: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in found:
        attack = "none" if cell["choose"] == "none" else f"{cell['choose']}-{cell['force']}"
        teams.setdefault((defence_of(cell), str(cell["seed"])), {})[attack] = cell
    attacks = {attack for (defence, _), team in teams.items() if defence != "none" for attack in team} - {
        "none"
    }
    shares: dict[str, list[tuple[float, float, float, float]]] = {}
    for (defence, seed), own in teams.items():
        bare = teams.get(("none", seed), {})
        if not attacks or not attacks | {"none"} <= own.keys() & bare.keys():
            continue
        hit, bare_hit = (min(float(np.mean(t[a]["returns"])) for a in attacks) for t in (own, bare))
        alone, bare_alone = (float(np.mean(t["none"]["returns"])) for t in (own, bare))
        regained = (hit - bare_hit) / (bare_alone - bare_hit)
        given_up = _wins(bare["none"]) - _wins(own["none"])
        shares.setdefault(defence, []).append((regained, given_up, alone, hit))
    return {
        name: Share(*(_mean(list(column)) for column in zip(*rows, strict=True)))
        for name, rows in shares.items()
    }


def _shares(found: Iterable[Cell], attacks: Iterable[Attack] = UNBOUNDED) -> dict[str, Share]:
    """`defended` of the method that was trained with defences, alone and under these attacks."""
    found = list(found)
    methods = {cell["agent"] for cell in found if cell["defence"] != "none"}
    wanted = (("none", "none"), *attacks)
    return defended(c for c in found if c["agent"] in methods and (c["choose"], c["force"]) in wanted)


def _wins(cell: Cell) -> float:
    return float(cell["wins"].count("1") / len(cell["wins"]))


def best_defence(paths: Iterable[Path]) -> str:
    """Of the defences that are reported that which regains most on the tuning seed, which is not reported.

    Among those that give up at most 2 points of wins there, or else among all.

    Args:
        paths: cells without an attack and with the attacks of grid.DEFENDED; those of the tuning seed stand
            in a folder of the name of grid.TUNING.

    Raises:
        MarlError: no reported defence has its cells on the tuning seed.
    """
    paths = list(paths)
    reported = defended(read(_reported(paths)))
    tried = defended(read(path for path in paths if path.parent.name == TUNING.name))
    found = {name: share for name, share in tried.items() if name in reported and name != "none"}
    if not found:
        raise MarlError(f"no defence was chosen: run {COMMAND} --defences first")
    cheap = {name: share for name, share in found.items() if float(share.wins_given_up.value) <= 0.02}
    return max(cheap or found, key=lambda name: float(found[name].regained.value))


def _reported(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.parent.name != TUNING.name]


def l1_saved_by_regularisation(*paths: Path) -> Derived:
    """Mean L1 per attacked step of d-JSMA with OW less that with OWR; mean over victims.

    Args:
        paths: of every victim both cells.
    """
    by: dict[str, dict[str, float]] = {}
    for cell in read(paths):
        value = number(cell, "l1")
        if value is not None:
            by.setdefault(cell["run_id"], {})[cell["choose"]] = value
    return _derived(_mean([one["ow"] - one["owr"] for one in by.values() if len(one) == 2]))


def defence_return_regained(*paths: Path) -> Derived:
    """Return under attack of the best defence less that of none, over what the attack cost without it."""
    return _derived(defended(read(_reported(paths)))[best_defence(paths)].regained)


def defence_clean_win_cost(*paths: Path) -> Derived:
    """Wins without attack that the best defence gives up."""
    return _derived(defended(read(_reported(paths)))[best_defence(paths)].wins_given_up)


def claims() -> None:
    """Write the rows that the raw files support."""

    def paths(choose: str, force: str, *, defended: bool = False) -> list[Path]:
        found = sorted(RAW.glob(f"qmix-*-{choose}-{force}.json"))
        return [p for p in found if (json.loads(p.read_text())["defence"] != "none") == defended]

    best, direct, clean = paths("owr", "djsma"), paths("owr", "control"), paths("none", "none")
    if not best:
        return

    def write(name: str, unit: str, test: str, raw: list[Path], note: str, by: str = "") -> None:
        write_claim(
            id=f"attack.{name}",
            unit=unit,
            test=test,
            derive_with=f"experiments.attack.table:{by or name}",
            raw=[str(path.relative_to(ROOT)) for path in raw],
            command=COMMAND,
            note=f"QMIX on battle/2s3z, one stalker, 320 episodes a victim; {note}",
            trial=globals()[by or name](*raw)[3] < tables.CLAIM_SEEDS,
            made=tables.made(raw),
        )

    note = "d-JSMA with OWR; the paper's figure in StarCraft II, here a simulator"
    write("return_djsma_owr", "1", "value <= 9.4", best, note)
    write("win_rate_djsma_owr", "1", "value <= 0.01", best, note)
    write("l1_djsma_owr", "1", "value <= 8.33", best, f"per attacked step; {note}")
    if len(best) == len(direct) == len(clean):
        note = "lost return of d-JSMA over that of direct control, both by OWR"
        every = [*clean, *direct, *best]
        write("djsma_over_control_damage", "1", "value >= 0.95", every, note)
    free = paths("ow", "djsma")
    if len(best) == len(free):
        note = "per attacked step of d-JSMA, with OW less with OWR"
        write("l1_saved_by_regularisation", "1", "low > 0", [*free, *best], note)
    trained = "the best on a seed that is not reported; adversaries were trained against every team"
    hurts = "under that of d-JSMA and PGD, each with OW and with OWR, which hurts it most"
    small = f"under PGD with OW, changes within {BOUNDED[1][1].partition('_')[2]} of a feature"
    for suffix, attacks, under in (("", UNBOUNDED, hurts), ("_bounded", SMALL, small)):
        chosen = (("none", "none"), *attacks)
        raw = [
            path for defended in (False, True) for cell in chosen for path in paths(*cell, defended=defended)
        ]
        raw += [path for cell in chosen for path in sorted(TUNING.glob(f"*-{'-'.join(cell)}.json"))]
        try:
            name = best_defence(raw)
        except MarlError as error:
            print(f"no claim of a defence: {error}")
            continue
        note = f"defence={name}, {trained}; every team {under}"
        for what, test in (("return_regained", "value >= 0.5"), ("clean_win_cost", "value <= 0.02")):
            write(f"defence_{what}{suffix}", "1", test, raw, note, by=f"defence_{what}")


def main() -> None:
    page = HERE / "README.md"
    for name, made, folder in (
        ("weights", weights_table, RAW.parent / "weights"),
        ("tuning", tuning_table, TUNING),
    ):
        tried = read(sorted(folder.glob("*.json")))
        if tried:
            write_atomic(page, tables.fill_block(page.read_text(), made(tried), name).encode())
    paths = sorted(RAW.glob("*.json"))
    found = read(paths)
    if not found:
        print("no cell has been played: python -m experiments.attack.grid")
        return
    commit = tables.made(paths)["commit"]
    raw = f"Commit of the cells: {commit}. Raw: `raw/cells/`, a file per cell."
    about = "\n\n".join([alone(found), left_out(victims()), raw])
    text = tables.fill_block(page.read_text(), f"{table(found)}\n{about}\n")
    write_atomic(page, tables.fill_block(text, defences_table(found), "defended").encode())
    draw(found, HERE / "plots" / "grid.png")
    draw_defences(found, HERE / "plots" / "defences.png")
    claims()
    print(table(found))


if __name__ == "__main__":
    main()
