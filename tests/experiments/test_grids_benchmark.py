"""The arithmetic of the benchmark of grid worlds on rows made by hand, and what both sides are told."""

import sys
from pathlib import Path

import pytest

from experiments.benchmarks import grids, interleave
from experiments.benchmarks.interleave import Worker
from marl import compose


def rows(world: str, case: int, side: str, rates: list[float]) -> list[dict]:
    about = {"world": world, "case": case, "side": side}
    return [{**about, "repetition": i, "steps": 2 * rate, "seconds": 2.0} for i, rate in enumerate(rates)]


def test_ratios_take_the_worst_level_and_one_processor(tmp_path: Path) -> None:
    raw, data = tmp_path / "grids.csv", []
    for level, ours, theirs in (("easy", 100, 2), ("medium", 90, 3), ("hard", 80, 1)):
        for case, factor in ((1024, 1), (1, 0.1)):
            world = f"predator_prey_{level}"
            data += rows(world, case, "torch 1", [factor * ours] * 5) + rows(
                world, case, "ic3net", [theirs] * 5
            )
            data += rows(world, case, "torch 2", [2 * ours, 7, 8, 300, 400])
    interleave.write_rows(raw, data)
    assert grids.predator_prey_ratio_ic3net(raw) == (30, 30, 30, 5)
    assert grids.predator_prey_ratio_ic3net_1env(raw) == (3, 3, 3, 5)
    assert grids.predator_prey_steps_easy(raw) == (200, 7, 400, 5)


def test_both_sides_have_the_levels_sizes() -> None:
    """As IC3Net's published commands give them; our words compose."""
    cases = {case.about["world"]: case for case in grids.cases("source", (1024,))}
    assert len(cases) == 7
    assert cases["predator_prey_continuous"].peers == {}
    hard = cases["predator_prey_hard"].peers["ic3net"]
    assert (hard["agents"], hard["limit"], hard["words"]) == (10, 80, ["--dim", "20", "--vision", "1"])
    easy = cases["traffic_junction_easy"].peers["ic3net"]
    words = "--dim 6 --vision 0 --difficulty easy --add_rate_min 0.3 --add_rate_max 0.3"
    assert (easy["agents"], easy["limit"], easy["words"]) == (5, 20, words.split())
    for case in cases.values():
        config = compose.compose(case.words).env
        assert config.label == case.about["world"]
        if "traffic" in config.label:
            assert (config.curriculum_start, config.curriculum_end) == (0, 0)


@pytest.mark.parametrize("world", ["predator_prey/easy", "traffic_junction/easy"])
def test_our_worker_steps(world: str) -> None:
    with Worker(sys.executable, ["marl_env"], threads=1) as worker:
        worker.ask(prepare={"words": [f"env={world}"], "envs": 4, "form": None, "threads": 1})
        row = worker.ask(measure=0.01)
    assert (row["envs"], row["steps"] % 4) == (4, 0)
