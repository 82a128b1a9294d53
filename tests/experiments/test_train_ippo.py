"""The race of IPPO: its arithmetic on rows made by hand, and our worker on a tiny case."""

import sys
from pathlib import Path

from experiments.benchmarks import train_ippo
from experiments.benchmarks.interleave import Worker, write_rows


def test_ratios_keep_the_sizes_apart_and_gains_are_of_runs(tmp_path: Path) -> None:
    raw, learning = tmp_path / "race.csv", tmp_path / "learning.csv"
    rates = {(16, "marl"): 30, (16, "jaxmarl"): 40, (256, "marl"): 90, (256, "jaxmarl"): 30}
    write_rows(
        raw,
        [
            {"envs": envs, "side": side, "repetition": i, "steps": 2 * rate, "seconds": 2.0}
            for (envs, side), rate in rates.items()
            for i in range(5)
        ],
    )
    assert train_ippo.ratio_16(raw) == (0.75, 0.75, 0.75, 5)
    assert train_ippo.ratio_256(raw) == (3.0, 3.0, 3.0, 5)
    free = {"before": -120.0, "still": -80.0, "random": -90.0}  # the best of them counts
    write_rows(learning, [{"seed": s, **free, "after": -60.0 + s} for s in range(3)])
    assert train_ippo.gain(learning) == (21.0, 20.0, 22.0, 3)


def test_our_worker_times_training_and_learns() -> None:
    overrides = [*train_ippo.SETTINGS, "num_envs=2", "loop.rollout_steps=30"]
    case = {"overrides": overrides, "seed": 0, "threads": 1}
    with Worker(sys.executable, ["marl_ippo"], threads=1) as worker:
        facts = worker.ask(prepare=case | {"learn": 0})
        row = worker.ask(measure=0.05)
        assert (facts["agents"], facts["obs"], facts["actions"]) == (3, 18, 5)
        assert row["steps"] % 60 == 0
        assert row["steps"] > 0
        worker.ask(prepare=case | {"learn": 60})
        assert worker.ask(measure=0.0).keys() >= {"steps", "before", "after", "still", "random"}
