"""A newcomer's minutes: `make train` and `make test` on a fresh clone in a fresh environment.

    python -m experiments.ground.fresh_clone            about 20 minutes; appends to raw/fresh_clone.csv

Every repetition clones the committed state into a temporary folder with an empty cache for native parts, so
that the virtual environment, the compiled worlds and everything else are made from nothing. Packages come
from the configured index, or pip's own cache where it has them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.machine import require_quiet
from experiments.claims import ROOT, SEEDS, Derived, Row, commit, made_now, write_claim

COMMAND = "python -m experiments.ground.fresh_clone"
RAW = "experiments/ground/raw/fresh_clone.csv"
COLUMNS = ("commit", "target", "minutes", "wins")
TARGETS = ("train", "test")
LIMIT = 10.0  # minutes, the goal of both


def measure(target: str) -> dict[str, str | float]:
    """Clone, `make <target>`; for train also the wins of the trained team's final episodes."""
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "marl"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = os.environ | {"MARL_CACHE": str(Path(name) / "cache")}
        environment.pop("VIRTUAL_ENV", None)
        began = time.perf_counter()
        subprocess.run(["make", target], cwd=clone, env=environment, check=True)
        minutes = (time.perf_counter() - began) / 60
        wins = _wins(clone) if target == "train" else ""
        return {"commit": commit(clone), "target": target, "minutes": minutes, "wins": wins}


def _wins(clone: Path) -> float:
    (results,) = clone.glob("runs/*/results.json")
    episodes = json.loads(results.read_bytes())["final"]["success"][0]
    return float(sum(episodes) / len(episodes))


def _rows(path: Path, target: str) -> list[dict[str, str]]:
    """The repetitions of the newest commit: older ones built and tested less."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["target"] == target]
    return [row for row in rows if row["commit"] == rows[-1]["commit"]]


def _minutes(path: Path, target: str) -> Derived:
    minutes = [float(row["minutes"]) for row in _rows(path, target)]
    return sorted(minutes)[len(minutes) // 2], min(minutes), max(minutes), len(minutes)


def train_minutes(path: Path) -> Derived:
    """Median, smallest, largest minutes of `make train`, and how many."""
    return _minutes(path, "train")


def test_minutes(path: Path) -> Derived:
    """Median, smallest, largest minutes of `make test`, and how many."""
    return _minutes(path, "test")


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help="train, test; default both")
    targets = parser.parse_args().targets
    if wrong := [target for target in targets if target not in TARGETS]:
        parser.error(f"{wrong[0]} is no target: give {' or '.join(TARGETS)}")
    require_quiet()
    path = ROOT / RAW
    path.parent.mkdir(parents=True, exist_ok=True)
    for target in targets:
        row = measure(target)
        print(row, flush=True)
        new = not path.is_file()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        claim(target)


def claim(target: str, root: Path = ROOT) -> Row:
    """Write the row of one target, which was measured just now: the other keeps its own day and commit."""
    rows = _rows(root / RAW, target)
    return write_claim(
        id=f"ground.make_{target}_minutes",
        unit="min",
        test=f"value <= {LIMIT:g}",
        derive_with=f"experiments.ground.fresh_clone:{target}_minutes",
        raw=[RAW],
        command=COMMAND,
        note=f"make {target} on a fresh clone, environment and native parts from nothing; median, range",
        trial=len(rows) < SEEDS,
        made=made_now() | {"commit": rows[0]["commit"]},
        root=root,
    )


if __name__ == "__main__":
    main()
