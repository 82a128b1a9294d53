"""Throughput of an attack: worlds side by side against the same attack one world at a time.

    python -m experiments.benchmarks.attack --run runs/attack/<run_id>   2 quiet minutes; writes claims
    python -m experiments.benchmarks.attack --smoke                      a trial on an untrained team

d-JSMA forces random actions on one stalker of a trained QMIX team on battle/2s3z. Both sides are one process
with one thread and take turns; a turn plays on where the side's last one stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from experiments.benchmarks.interleave import Row, ratios, read_rows, write_rows
from experiments.benchmarks.machine import ROOT, require_quiet
from experiments.claims import Derived, write_claim
from marl import compose
from marl.agents.cmarl_attack import Config
from marl.agents.cmarl_attack.team import Attacked
from marl.errors import MarlError
from marl.evaluate import for_evaluation
from marl.measure import load_agent, load_run
from marl.rng import Rng
from marl.rollout import Rollout

RAW = "experiments/attack/raw/speed.csv"
COMMAND = "python -m experiments.benchmarks.attack"
TOGETHER, ALONE = 256, 1
CPU = torch.device("cpu")


def rollouts(run: Path | None) -> dict[str, Rollout]:
    """Both sides, ready to step; without a run an untrained team."""
    if run is not None:
        cfg, saved = load_run(run, threads=1, device="cpu")
        agent = load_agent(cfg, saved)
    else:
        cfg = compose.compose(["agent=qmix", "env=battle/2s3z", "threads=1", "logger=none"])
        env = cfg.env.build(num_envs=1, device=CPU, threads=1)
        agent = cfg.agent.build(spec=env.spec, rng=Rng(0), device=CPU)
    out = {}
    for envs in (TOGETHER, ALONE):
        env = for_evaluation(cfg.env).build(num_envs=envs, device=CPU, threads=1)
        team = Attacked(Config(choose="random", force="djsma"), agent, cfg)
        out[f"{envs} envs"] = Rollout(env, team, Rng(0, "speed"))  # type: ignore[arg-type]
    return out


def turn(rollout: Rollout, seconds: float) -> dict[str, float]:
    """Team steps, attacked steps and the seconds they took, at least as long as asked."""
    steps, attacked, started = 0, 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        act, _ = rollout.step(0.0)
        steps += rollout.env.num_envs
        attacked += float(act.extras["attack.attacked"].sum())
    return {"steps": steps, "attacked": attacked, "seconds": time.perf_counter() - started}


def measure(run: Path | None, repetitions: int, seconds: float) -> list[Row]:
    """Sides in turn."""
    torch.set_num_threads(1)
    sides = rollouts(run)
    for rollout in sides.values():
        turn(rollout, seconds / 4)  # warm
    rows: list[Row] = []
    for repetition in range(repetitions):
        for side, rollout in sides.items():
            rows.append({"side": side, "repetition": repetition, **turn(rollout, seconds)})
            print(rows[-1], flush=True)
    return rows


def batch_speedup(path: Path) -> Derived:
    """Attacked worlds' team steps/s side by side over those one at a time."""
    return ratios(read_rows(path), f"{TOGETHER} envs", f"{ALONE} envs")


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--run", type=Path, help="a trained QMIX team on battle/2s3z")
    parser.add_argument("--smoke", action="store_true", help="a trial; keeps nothing")
    given = parser.parse_args()
    if given.smoke:
        rows = measure(given.run, repetitions=1, seconds=2.0)
        print(f"{ratios(rows, f'{TOGETHER} envs', f'{ALONE} envs')[0]:.1f} x")
        return
    if given.run is None:
        raise MarlError("run is missing: give --run <run folder of a trained team>")
    require_quiet()
    write_rows(ROOT / RAW, measure(given.run, repetitions=5, seconds=8.0))
    write_claim(
        id="attack.batch_speedup",
        unit="x",
        test="value >= 10",
        derive_with="experiments.benchmarks.attack:batch_speedup",
        raw=[RAW],
        command=f"{COMMAND} --run <run folder>",
        note=f"d-JSMA on a trained QMIX team, battle/2s3z: team steps/s of {TOGETHER} worlds side by side "
        "over one at a time, one thread each",
    )


if __name__ == "__main__":
    main()
