"""The arithmetic of the navigation benchmark on rows made by hand, and our worker on a tiny case."""

import sys
from pathlib import Path

from experiments.benchmarks import interleave, navigation
from experiments.benchmarks.interleave import Worker


def rows(case: int, side: str, rates: list[float]) -> list[dict]:
    return [
        {"case": case, "side": side, "repetition": i, "steps": 2 * rate, "seconds": 2.0, "envs": case}
        for i, rate in enumerate(rates)
    ]


def test_claims_take_the_worse_batch_size_and_mpe2_one_processor(tmp_path: Path) -> None:
    raw = tmp_path / "navigation.csv"
    data = rows(1024, "native 2", [100] * 5) + rows(1024, "jaxmarl", [10] * 5) + rows(1024, "vmas", [50] * 5)
    data += rows(4096, "native 2", [90] * 5) + rows(4096, "jaxmarl", [20] * 5) + rows(4096, "vmas", [30] * 5)
    data += rows(1024, "native 1", [60, 50, 70, 80, 90]) + rows(1024, "mpe2", [0.1] * 5)
    data += rows(1, "native 1", [4] * 5) + rows(1, "mpe2", [2, 2, 1, 2, 2])
    interleave.write_rows(raw, data)
    assert navigation.ratio_jaxmarl(raw) == (4.5, 4.5, 4.5, 5)
    assert navigation.ratio_vmas(raw) == (2.0, 2.0, 2.0, 5)
    assert [round(x, 9) for x in navigation.ratio_mpe2(raw)] == [700, 500, 900, 5]
    assert navigation.ratio_mpe2_1env(raw) == (2.0, 2.0, 4.0, 5)


def test_our_worker_steps() -> None:
    with Worker(sys.executable, ["marl_env"], threads=1) as worker:
        facts = worker.ask(prepare={"words": ["env=navigation"], "envs": 4, "form": "native", "threads": 1})
        row = worker.ask(measure=0.01)
    assert (facts["agents"], facts["obs"]) == (3, 18)
    assert row["envs"] == 4
    assert row["steps"] % 4 == 0
    assert row["seconds"] >= 0.01
