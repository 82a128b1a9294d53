"""The study's table, curves and claims, redrawn from its raw files.

    python -m experiments.ground.table

reads experiments/ground/raw/*.json (one file per run: `marl.raw`) and writes experiments/ground/README.md
between its markers, plots/<part>.png, and the row ground.win_rate_3m.
"""

from __future__ import annotations

from experiments import tables
from experiments.claims import ROOT, write_claim

HERE = ROOT / "experiments" / "ground"
COMMAND = "marl study experiments/ground/study.yaml"


def main() -> None:
    paths = sorted((HERE / "raw").glob("*.json"))
    runs = tables.read(paths)
    tables.draw(runs, HERE / "plots", "battle")
    tables.write_page(HERE / "README.md", runs, paths)
    ours = [p for p in paths if (r := tables.read([p])[0]).env == "battle/3m" and r.agent == "qmix"]
    if ours:
        write_claim(
            id="ground.win_rate_3m",
            unit="1",
            test="value >= 0.95",
            derive_with="experiments.tables:success",
            raw=[str(path.relative_to(ROOT)) for path in ours],
            command=COMMAND,
            note="QMIX, fast settings, battle/3m: share of 320 final greedy episodes won, IQM over seeds; "
            "a simulator, not StarCraft II",
            trial=len(ours) < tables.CLAIM_SEEDS,
            made=tables.made(ours),
        )
    print(tables.table(runs))


if __name__ == "__main__":
    main()
