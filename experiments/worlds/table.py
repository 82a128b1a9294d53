"""The studies' tables, curves and claims on grids and navigation, redrawn from their raw files.

    python -m experiments.worlds.table

reads experiments/worlds/raw/*.json (one file per run: `marl.raw`) and writes experiments/worlds/README.md
between its markers, plots/<part>.png, and the rows worlds.ic3net_*.
"""

from __future__ import annotations

from pathlib import Path

from experiments import tables
from experiments.claims import ROOT, Derived, write_claim

HERE = ROOT / "experiments" / "worlds"
COMMAND = "marl study experiments/worlds/study_ic3net.yaml"
JUNCTION, HUNT = "traffic_junction_easy", "predator_prey_medium"  # parts of study_ic3net.yaml
MUTE = "messages=false"  # in the agent's words: the twin without messages


def over_mute(*paths: Path) -> Derived:
    """IC3Net's success rate minus its mute twin's: difference of the IQMs over seeds.

    The bounds are those of the two intervals as far apart and as near as they allow: the low one is above
    zero exactly where the intervals do not overlap. n is the smaller number of seeds.
    """
    runs = tables.read(paths)
    sides = [[run.scores["success"] for run in runs if (MUTE in run.agent) == mute] for mute in (False, True)]
    (ours, low, high), (mute, mute_low, mute_high) = (tables.estimate(side).numbers() for side in sides)
    few = min(len(side) for side in sides)
    if low is None or high is None or mute_low is None or mute_high is None:
        return ours - mute, None, None, few
    return ours - mute, low - mute_high, high - mute_low, few


def _claim(paths: list[Path], id: str, test: str, derive_with: str, note: str) -> None:
    seeds = len({run.seed for run in tables.read(paths)})
    write_claim(
        id=id,
        unit="1",
        test=test,
        derive_with=derive_with,
        raw=[str(path.relative_to(ROOT)) for path in paths],
        command=COMMAND,
        note=note,
        trial=seeds < tables.CLAIM_SEEDS,
        made=tables.made(paths),
    )


def claims(paths: list[Path]) -> None:
    """Write the rows that the raw files support."""
    found = {path: tables.read([path])[0] for path in paths}
    junction = [p for p, r in found.items() if r.part == JUNCTION and MUTE not in r.agent]
    hunts = [p for p, r in found.items() if r.part == HUNT]
    if junction:
        _claim(
            junction,
            "worlds.ic3net_tj_easy_success",
            "value >= 0.9",
            "experiments.tables:success",
            "IC3Net on traffic_junction/easy at the final arrival rate: share of 320 greedy episodes without "
            "a collision, IQM over seeds; PPO update, not the paper's REINFORCE, and 64 features",
        )
    if len({found[path].agent for path in hunts}) == 2:
        _claim(
            hunts,
            "worlds.ic3net_minus_mute_pp_medium",
            "low > 0",
            "experiments.worlds.table:over_mute",
            "success of IC3Net, its gate open, minus that of the same network without messages in training "
            "and test, predator_prey/medium; the low end is above 0 where their intervals do not overlap",
        )


def main() -> None:
    paths = sorted((HERE / "raw").glob("*.json"))
    runs = tables.read(paths)
    tables.draw(runs, HERE / "plots", "worlds")
    tables.write_page(HERE / "README.md", runs, paths)
    claims(paths)
    print(tables.table(runs))


if __name__ == "__main__":
    main()
