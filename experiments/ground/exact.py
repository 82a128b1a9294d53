"""Exact resume of every loop: one run in one go, one broken in the middle and resumed in a new process.

    python -m experiments.ground.exact        about two minutes; writes raw/exact.csv and the claim

The two runs must agree in every byte of the last checkpoint (networks, targets, optimisers, memory, worlds,
counters, generators) and in the final episodes. The contract test tests/contracts/test_resume.py asserts
the same, and where the break falls; this script leaves the figures.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.claims import ROOT, Derived, write_claim

COMMAND = "python -m experiments.ground.exact"
RAW = "experiments/ground/raw/exact.csv"
SEEDS = range(5)
HALF, WHOLE = 640, 1280  # team steps at the break and at the end
_QUICK = ("logger=none", "video=false", "threads=1", "num_envs=4", "agent.hidden=16", "agent.target_every=5")
_CADENCE = ("evaluation.every_steps=300", "evaluation.final_episodes=8", "checkpoint.every_steps=250")
_OFF = ("loop=off_policy", "loop.memory.capacity=200", "loop.batch.sequences=4", "loop.explore.steps=1000")
LOOPS = {
    "off-policy": ("env=battle/3m", "agent=qmix", *_OFF),
    "on-policy": (
        "env=battle/3m",
        "agent=vdn",
        "loop=on_policy",
        "loop.rollout_steps=10",
        "loop.explore=0.3",
    ),
    "offline": ("env=battle/3m", "agent=qmix", "loop=offline", "loop.data=runs/data"),
}


def _marl(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "marl.cli", "train", *words]
    here = os.environ | {"PYTHONPATH": str(ROOT)}  # from a checkout, too, with nothing installed
    done = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def _outcome(run: Path) -> dict[str, Any]:
    """Hashes of the last checkpoint, its counters, and the final episodes."""
    (folder,) = (run / "checkpoints").iterdir()
    meta = json.loads((folder / "meta.json").read_bytes())
    parts = {name: entry["sha256"] for kind in ("files", "memory") for name, entry in meta[kind].items()}
    final = json.loads((run / "results.json").read_bytes())["final"]
    return {"parts": parts, "state": meta["state"], "counters": meta["info"]["counters"], "final": final}


def measure() -> list[dict[str, Any]]:
    """One row per loop and seed."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = (*_QUICK, *_CADENCE, *LOOPS["off-policy"], "loop.memory.capacity=2000")
        _marl(folder, *data, "run_id=data", f"total_steps={WHOLE}")
        for loop, words in LOOPS.items():
            for seed in SEEDS:
                every = (*_QUICK, *_CADENCE, *words, f"seed={seed}")
                whole, half = f"{loop}-{seed}-whole", f"{loop}-{seed}-half"
                _marl(folder, *every, f"run_id={whole}", f"total_steps={WHOLE}")
                _marl(folder, *every, f"run_id={half}", f"total_steps={HALF}")
                _marl(folder, f"resume=runs/{half}", f"total_steps={WHOLE}")
                one, two = _outcome(folder / "runs" / whole), _outcome(folder / "runs" / half)
                row = {"loop": loop, "seed": seed, "break": HALF, "steps": WHOLE, "parts": len(one["parts"])}
                rows.append(row | {"equal": int(one == two)})
                print(rows[-1], flush=True)
    return rows


def loops_exact(path: Path) -> Derived:
    """Loops whose resumed runs equal the unbroken ones for every seed; n = pairs of runs compared."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    exact = {row["loop"]: True for row in rows}
    for row in rows:
        exact[row["loop"]] &= row["equal"] == "1"
    count = float(sum(exact.values()))
    return count, count, count, len(rows)


def main() -> None:
    rows = measure()
    path = ROOT / RAW
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_claim(
        id="ground.resume_bit_exact_loops",
        unit="loops",
        test=f"value >= {len(LOOPS)}",
        derive_with="experiments.ground.exact:loops_exact",
        raw=[RAW],
        command=COMMAND,
        note="off-policy, on-policy and offline loop, 5 seeds each: a run broken and resumed in a "
        "new process against one in one go; every byte of the last checkpoint and the final episodes agree",
    )


if __name__ == "__main__":
    main()
